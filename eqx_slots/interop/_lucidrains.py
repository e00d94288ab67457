from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..nn import SlotAttention, WeightedMean
from ._arrays import (
    blueprint,
    check_mapping,
    checked_arrays,
    Entry,
    filled,
    joined_biases,
    mlp_size,
    own_names,
    read,
    refuse,
    split_biases,
    write,
    wrong_type,
)


_SINGLE = "lucidrains' `SlotAttention`"
_MULTI = "lucidrains' `MultiHeadSlotAttention`"
_PARTS = {
    "pred_keep_slot.": "it is an AdaptiveSlotWrapper, which also drops slots; import"
    " what stands under `slot_attn.`, without that prefix",
    "slots_to_inputs_attn.": "it is a SlotAttentionExperimental, which updates the"
    " inputs too; no layer here does that",
    "vq.": "it is a MetaSlotAttention, which also merges slots by a codebook; import"
    " what stands under `slot_attention.`, without that prefix",
}


def lucidrains(
    state_dict: Mapping[str, Any],
    *,
    num_slots: int,
    num_heads: int = 1,
    num_iters: int = 3,
    scale: float | None = None,
) -> SlotAttention:
    """The layer of the PyPI package `slot-attention` (PyTorch), from its state dict.

    Read from `SlotAttention` and `MultiHeadSlotAttention`: inputs as wide as slots,
    projections with biases, epsilon 1e-8 in the weights of the mean, LayerNorm epsilon
    1e-5, a GRU whose two biases for one gate are added up. A state dict with
    `combine_heads` is of the second, which has a competition for each head.

    A state dict does not tell the factor on the logits. It is `dim ** -0.5` in the
    first class, and in the second up to version 1.4; **since 1.5.0 the second has
    `dim_head ** -0.5`**: pass that as `scale`.

    **Arguments:**

    - `state_dict`: Each tensor, as a NumPy array, under its name, such as
        `"to_q.weight"`.
    - `num_slots`: How many slots compete. (Keyword only argument, as all that follow.)
    - `num_heads`: Heads of a `MultiHeadSlotAttention`, which its state dict does not
        tell either.
    - `num_iters`: Rounds.
    - `scale`: Factor on the logits; `None` means `dim ** -0.5`.

    **Returns:**

    A [`eqx_slots.nn.SlotAttention`][]. Entries that are unknown (of the package's
    other classes, for instance), missing, of the wrong shape or not finite are one
    `ValueError` that lists them all; so is a number of heads that does not divide the
    width.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    options = {"use_qkv_bias": True, "layer_norm_eps": 1e-5}
    layer = nn.SlotAttention(64, 64, num_slots=7, **options, key=jr.key(0))
    state_dict = interop.to_lucidrains(layer)  # or that of the original
    layer = interop.lucidrains(state_dict, num_slots=7)
    print(layer.slot_size, layer.num_heads)  # 64 1
    ```
    """
    check_mapping(state_dict)
    is_multi = num_heads != 1 or _combines_heads(state_dict)
    entries = _entries(is_multi)
    names = own_names(entries, state_dict)
    source = _MULTI if is_multi else _SINGLE
    notes = _notes(state_dict, num_heads)
    arrays, sizes = read(source, state_dict, entries, names, notes)
    inputs, hidden = (arrays.pop(f"cell.bias_{x}") for x in ("inputs", "hidden"))
    arrays["cell.bias"], arrays["cell.bias_n"] = joined_biases(inputs, hidden)
    make = _maker(
        sizes["dim"],
        sizes["inner"] if is_multi else sizes["dim"],
        sizes["hidden"],
        is_multi=is_multi,
        num_heads=num_heads,
        num_slots=num_slots,
        num_iters=num_iters,
        scale=scale,
    )
    return filled(blueprint(make), arrays)


def to_lucidrains(
    layer: SlotAttention, *, scale: float | None = None
) -> dict[str, np.ndarray]:
    """The state dict that [`eqx_slots.interop.lucidrains`][] would make this layer of.

    **Arguments:**

    - `layer`: A layer with the settings of the package. With an `output_proj` it
        becomes a `MultiHeadSlotAttention`, without one a `SlotAttention`.
    - `scale`: The factor on the logits that the package will use, as for the import.
        (Keyword only argument.)

    **Returns:**

    Each array under its name. Biases that the layer does not have are zero. A
    `ValueError` lists all that the package cannot represent.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    options = {"use_qkv_bias": True, "layer_norm_eps": 1e-5}
    layer = nn.SlotAttention(64, 64, num_slots=7, **options, key=jr.key(0))
    print(interop.to_lucidrains(layer)["to_q.weight"].shape)  # (64, 64)
    ```
    """
    refuse(_SINGLE, wrong_type("layer", layer, SlotAttention))
    is_multi = layer.num_heads > 1 or layer.output_proj is not None
    source = _MULTI if is_multi else _SINGLE
    dim, hidden_size = layer.slot_size, mlp_size(layer.mlp)
    inner = getattr(layer.query_proj, "out_features", dim) if is_multi else dim
    make = _maker(
        dim,
        inner,
        hidden_size,
        is_multi=is_multi,
        num_heads=layer.num_heads,
        num_slots=1,
        scale=scale,
    )
    reasons = []
    if layer.mlp is not None and hidden_size < dim:
        reasons = [f"its MLP is never narrower than a slot: {hidden_size} < {dim}"]
    arrays = checked_arrays(source, layer, blueprint(make), reasons=reasons)
    biases = split_biases(arrays.pop("cell.bias"), arrays.pop("cell.bias_n"))
    arrays["cell.bias_inputs"], arrays["cell.bias_hidden"] = biases
    return write(_entries(is_multi), arrays)


def _maker(
    dim: int,
    inner: int,
    hidden: int,
    *,
    is_multi: bool,
    scale: float | None,
    **settings: int,
) -> Callable[..., SlotAttention]:
    """Builds a layer as the package has it."""
    return partial(
        SlotAttention,
        dim,
        dim,
        mlp_size=hidden,
        qkv_size=inner,
        use_qkv_bias=True,
        use_output_proj=is_multi,
        scale=dim**-0.5 if scale is None else scale,
        layer_norm_eps=1e-5,
        reduction=WeightedMean(eps=1e-8, eps_in="weights"),
        **settings,
    )


def _entries(is_multi: bool) -> dict[str, Entry]:
    """In the order of a state dict."""
    slots = {
        "slots_mu": Entry("slot_init.mean", "1 1 dim", "1 1 d -> d"),
        "slots_logsigma": Entry("slot_init.log_scale", "1 1 dim", "1 1 d -> d"),
    }
    inner = "inner" if is_multi else "dim"
    projections = {
        **_with_bias("to_q", "query_proj", inner, "dim"),
        **_with_bias("to_k", "key_proj", inner, "dim"),
        **_with_bias("to_v", "value_proj", inner, "dim"),
    }
    gru = {
        "gru.weight_ih": Entry("cell.weight_ih", "3*dim dim"),
        "gru.weight_hh": Entry("cell.weight_hh", "3*dim dim"),
        "gru.bias_ih": Entry("cell.bias_inputs", "3*dim"),
        "gru.bias_hh": Entry("cell.bias_hidden", "3*dim"),
    }
    mlp = {
        **_with_bias("mlp.0", "mlp.layers[0]", "hidden", "dim"),
        **_with_bias("mlp.2", "mlp.layers[1]", "dim", "hidden"),
    }
    norms = {
        **_with_bias("norm_input", "norm_inputs", "dim"),
        **_with_bias("norm_slots", "norm_slots", "dim"),
    }
    last_norm = _with_bias("norm_pre_ff", "norm_mlp", "dim")
    if not is_multi:
        return {**slots, **projections, **gru, **mlp, **norms, **last_norm}
    combine = _with_bias("combine_heads", "output_proj", "dim", "inner")
    return {**slots, **norms, **projections, **combine, **gru, **last_norm, **mlp}


def _with_bias(name: str, path: str, *axes: str) -> dict[str, Entry]:
    return {
        f"{name}.weight": Entry(f"{path}.weight", " ".join(axes)),
        f"{name}.bias": Entry(f"{path}.bias", axes[0]),
    }


def _combines_heads(state_dict: Mapping[str, Any]) -> bool:
    return any(name.startswith("combine_heads.") for name in state_dict)


def _notes(state_dict: Mapping[str, Any], num_heads: int) -> list[str]:
    """What the names give away about a state dict of something else."""
    notes = [
        note
        for part, note in _PARTS.items()
        if any(name.startswith(part) for name in state_dict)
    ]
    if num_heads != 1 and not notes and not _combines_heads(state_dict):
        notes.append(
            "without `combine_heads` it is a SlotAttention, which has one head; got"
            f" num_heads={num_heads}"
        )
    return notes
