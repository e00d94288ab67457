from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from ..nn import GivenSlots, SlotAttention, WeightedMean
from ._arrays import (
    blueprint,
    check_mapping,
    checked_arrays,
    Entry,
    filled,
    mlp_size,
    own_names,
    read,
    refuse,
    write,
    wrong_type,
)


_SOURCE = "SAVi's `SlotAttention`"
DENSE, HEADS = "i o -> o i", "i heads d -> (heads d) i"
_COMBINE = "InvertedDotProductAttention_0/DenseGeneral_0"
_CELL = "GRU_0/GRUCell_0"
_GATED = ("weight_ih", "weight_hh", "bias")


def savi(params: Mapping[str, Any], *, num_iters: int = 1) -> SlotAttention:
    """The layer of SAVi and SAVi++ (Flax), from its parameters.

    Read from `SlotAttention` in slot-attention-video's `savi/modules/attention.py`: no
    biases in the projections, logits scaled by the width of a head to the power -0.5, a
    competition for each head, epsilon 1e-8 in the sum of the weights (the original's
    own `epsilon` reaches nothing), LayerNorm epsilon 1e-6. Its `LayerNorm_0` is that of
    the slots. The projection that combines several heads keeps the width of one, so the
    GRU has inputs of that width.

    **Arguments:**

    - `params`: The parameters of the module alone, either nested as Flax has them or
        each under its path, such as `"GRU_0/GRUCell_0/ir/kernel"`. Without `MLP_0` the
        layer has no MLP.
    - `num_iters`: Rounds. (Keyword only argument.)

    **Returns:**

    A [`eqx_slots.nn.SlotAttention`][] that gets its slots at each call, as
    `layer(inputs, slots=slots)`. Entries that are unknown, missing, of the wrong shape
    or not finite are one `ValueError` that lists them all.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    options = {"layer_norm_eps": 1e-6, "reduction": nn.WeightedMean(eps_in="sum")}
    layer = nn.SlotAttention(32, 64, num_slots=7, **options, key=jr.key(0))
    params = interop.to_savi(layer)  # or those of the original
    layer = interop.savi(params)
    slots = jr.normal(jr.key(1), (7, 64))
    print(layer(jr.normal(jr.key(2), (256, 32)), slots=slots).slots.shape)  # (7, 64)
    ```
    """
    check_mapping(params)
    params = flat(params)
    has_mlp = any(name.startswith("MLP_0/") for name in params)
    num_heads = heads_of(params)
    entries = layer_entries(is_multi=num_heads > 1, has_mlp=has_mlp)
    names = own_names(entries, params)
    arrays, sizes = read(_SOURCE, params, entries, names, [])
    make = partial(
        make_layer,
        sizes["input"],
        sizes["slot"],
        mlp_size=sizes["mlp"] if has_mlp else None,
        num_heads=num_heads,
        head_size=sizes["head"],
        num_iters=num_iters,
    )
    return filled(blueprint(make), joined_gates(arrays))


def to_savi(layer: SlotAttention) -> dict[str, np.ndarray]:
    """The parameters that [`eqx_slots.interop.savi`][] would make this layer of.

    **Arguments:**

    - `layer`: A layer with the settings of SAVi. Where its slots begin is not looked
        at: in SAVi that is another module.

    **Returns:**

    Each array under its path; `flax.traverse_util.unflatten_dict(..., sep="/")` nests
    them. A `ValueError` lists all that SAVi cannot represent.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    options = {"layer_norm_eps": 1e-6, "reduction": nn.WeightedMean(eps_in="sum")}
    layer = nn.SlotAttention(32, 64, num_slots=7, **options, key=jr.key(0))
    print(interop.to_savi(layer)["GRU_0/GRUCell_0/ir/kernel"].shape)  # (64, 64)
    ```
    """
    refuse(_SOURCE, wrong_type("layer", layer, SlotAttention))
    has_mlp, num_heads = layer.mlp is not None, layer.num_heads
    qkv_size = getattr(layer.query_proj, "out_features", layer.slot_size)
    make = partial(
        make_layer,
        layer.input_size,
        layer.slot_size,
        mlp_size=mlp_size(layer.mlp) if has_mlp else None,
        num_heads=num_heads,
        head_size=qkv_size // num_heads,
        num_iters=1,
    )
    arrays = checked_arrays(_SOURCE, layer, blueprint(make), ignored=["slot_init"])
    entries = layer_entries(is_multi=num_heads > 1, has_mlp=has_mlp)
    return write(entries, split_gates(arrays), heads=num_heads)


def joined_gates(
    arrays: Mapping[str, np.ndarray], above: str = ""
) -> dict[str, np.ndarray]:
    """The gates of the cell in one array each, from the three that Flax has."""
    arrays = dict(arrays)
    for name in _GATED:
        gates = [arrays.pop(f"{above}cell.{name}[{i}]") for i in range(3)]
        arrays[f"{above}cell.{name}"] = np.concatenate(gates)
    return arrays


def split_gates(
    arrays: Mapping[str, np.ndarray], above: str = ""
) -> dict[str, np.ndarray]:
    """The other way."""
    arrays = dict(arrays)
    for name in _GATED:
        for i, gate in enumerate(np.split(arrays.pop(f"{above}cell.{name}"), 3)):
            arrays[f"{above}cell.{name}[{i}]"] = gate
    return arrays


def make_layer(
    input_size: int,
    slot_size: int,
    *,
    mlp_size: int | None,
    num_heads: int,
    head_size: int,
    num_iters: int,
    key: PRNGKeyArray,
) -> SlotAttention:
    """The layer that a corrector's sizes ask for, as SAVi has it."""
    layer = SlotAttention(
        input_size,
        slot_size,
        num_iters=num_iters,
        mlp_size=mlp_size,
        num_heads=num_heads,
        qkv_size=num_heads * head_size,
        layer_norm_eps=1e-6,
        slot_init=GivenSlots(),
        reduction=WeightedMean(eps=1e-8, eps_in="sum"),
        key=key,
    )
    if num_heads == 1:
        return layer
    # What the heads took is combined to the width of one of them.
    combine = eqx.nn.Linear(num_heads * head_size, head_size, key=key)
    cell = eqx.nn.GRUCell(head_size, slot_size, key=key)
    return eqx.tree_at(lambda x: (x.output_proj, x.cell), layer, (combine, cell))


def layer_entries(*, is_multi: bool, has_mlp: bool) -> dict[str, Entry]:
    """In the order of the alphabet, as Flax sorts them."""
    entries = {
        "LayerNorm_0/bias": Entry("norm_slots.bias", "slot"),
        "LayerNorm_0/scale": Entry("norm_slots.weight", "slot"),
        "LayerNorm_1/bias": Entry("norm_inputs.bias", "input"),
        "LayerNorm_1/scale": Entry("norm_inputs.weight", "input"),
        f"{_CELL}/hn/bias": Entry("cell.bias_n", "slot"),
    }
    for i, gate in enumerate("rzn"):
        inputs, hidden = (f"cell.{name}[{i}]" for name in ("weight_ih", "weight_hh"))
        entries[f"{_CELL}/i{gate}/kernel"] = Entry(inputs, "head slot", DENSE)
        entries[f"{_CELL}/i{gate}/bias"] = Entry(f"cell.bias[{i}]", "slot")
        entries[f"{_CELL}/h{gate}/kernel"] = Entry(hidden, "slot slot", DENSE)
    for name, path, size in (
        ("q", "query_proj", "slot"),
        ("k", "key_proj", "input"),
        ("v", "value_proj", "input"),
    ):
        heads = f"{size} heads head" if is_multi else f"{size} 1 head"
        entry = Entry(f"{path}.weight", heads, HEADS)
        entries[f"general_dense_{name}_0/kernel"] = entry
    if is_multi:
        weight = Entry(
            "output_proj.weight", "heads head head", "heads d o -> o (heads d)"
        )
        entries[f"{_COMBINE}/kernel"] = weight
        entries[f"{_COMBINE}/bias"] = Entry("output_proj.bias", "head")
    if has_mlp:
        first, last = "mlp.layers[0]", "mlp.layers[1]"
        entries["MLP_0/LayerNorm_0/bias"] = Entry("norm_mlp.bias", "slot")
        entries["MLP_0/LayerNorm_0/scale"] = Entry("norm_mlp.weight", "slot")
        entries["MLP_0/dense_mlp_0/bias"] = Entry(f"{first}.bias", "mlp")
        entries["MLP_0/dense_mlp_0/kernel"] = Entry(
            f"{first}.weight", "slot mlp", DENSE
        )
        entries["MLP_0/dense_mlp_1/bias"] = Entry(f"{last}.bias", "slot")
        entries["MLP_0/dense_mlp_1/kernel"] = Entry(f"{last}.weight", "mlp slot", DENSE)
    return dict(sorted(entries.items()))


def flat(params: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested names as one, parted by strokes."""
    found = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}/")
        else:
            found[f"{above}{name}"] = value
    return found


def heads_of(params: Mapping[str, Any]) -> int:
    """As most of the projections have it; one, if they have no axis of heads at all."""
    shapes = [np.shape(params.get(f"general_dense_{x}_0/kernel", ())) for x in "qkv"]
    heads = Counter(shape[1] for shape in shapes if len(shape) == 3)
    return heads.most_common(1)[0][0] if heads else 1
