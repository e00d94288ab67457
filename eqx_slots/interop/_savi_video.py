from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..models import BoxHints, Encoder, SlotVideo, SpatialBroadcastDecoder
from ..nn import SlotAttention, SlotPredictor
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
from ._savi import (
    DENSE,
    flat,
    heads_of,
    joined_gates,
    layer_entries,
    make_layer,
    split_gates,
)


_SOURCE = "SAVi-S"
_CORRECTOR = "SlotAttention_0/"
_PREDICTOR = "TransformerBlock_0"
_START = "CoordinateEncoderStateInit_0/MLP_0"
_ENCODER, _DECODER = "FrameEncoder_0", "SpatialBroadcastDecoder_0"
_READOUT = {"rgb": "Readout_0/Dense_0/Dense_0", "alpha": "alpha_logits"}
_GRIDS = tuple(
    f"{part}/PositionEmbedding_0/pos_embedding" for part in (_ENCODER, _DECODER)
)
_CONV = "h w i o -> o i h w"
# Not among the weights. The last of them is that of the two heads, 1 x 1 and joined.
_STRIDES = (2, 2, 2, 1, 1)


def savi_video(params: Mapping[str, Any]) -> SlotVideo:
    """The whole model of SAVi-S (Flax), from its parameters.

    Read from `savi_conditional_small.py` in slot-attention-video, and from the modules
    that it names: four convolutions and an MLP in the encoder, a corrector as of
    [`eqx_slots.interop.savi`][] with one round, a predictor with its norms last, boxes
    or centres as hints, and a decoder of three transposed convolutions with strides of
    2, one of 1, and two heads, which are one convolution here. All widths and kernel
    sizes follow from the parameters. The two grids of positions that the original
    stores among them are compared with those that are computed here, and not kept.
    Videos are channels first here and channels last there.

    **Arguments:**

    - `params`: The parameters of the model, either nested as Flax has them or each
        under its path, such as `"TransformerBlock_0/LayerNorm_0/scale"`.

    **Returns:**

    A [`eqx_slots.models.SlotVideo`][] with a slot for the background and one for each
    hint. Entries that are unknown, missing, of the wrong shape or not finite are one
    `ValueError` that lists them all, and so are other grids.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import interop
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.savi_small)(key=jr.key(0))
    params = interop.to_savi_video(model)  # or those of the original
    model = interop.savi_video(params)
    print(model.decoder.image_size, model.predictor.attention.num_heads)  # (64, 64) 4
    ```
    """
    check_mapping(params)
    params = flat(params)
    grids = {name: params.pop(name) for name in _GRIDS if name in params}
    corrector = {
        name.removeprefix(_CORRECTOR): value
        for name, value in params.items()
        if name.startswith(_CORRECTOR)
    }
    num_heads = heads_of(corrector)
    has_mlp = any(name.startswith("MLP_0/") for name in corrector)
    entries = _entries(is_multi=num_heads > 1, has_mlp=has_mlp)
    names, notes = own_names(entries, params), _grid_notes(grids)
    arrays, sizes = read(_SOURCE, params, entries, names, notes)
    make = partial(
        _make,
        sizes | {"heads": num_heads},
        grid_size=np.shape(grids[_GRIDS[1]])[1:3],
        has_mlp=has_mlp,
    )
    arrays = joined_gates(arrays, "corrector.")
    return filled(blueprint(make), _joined_heads(arrays))


def to_savi_video(model: SlotVideo) -> dict[str, np.ndarray]:
    """The parameters that [`eqx_slots.interop.savi_video`][] would make this model of.

    **Arguments:**

    - `model`: A model with the settings of SAVi-S and any widths.

    **Returns:**

    Each array under its path, the two grids of positions among them;
    `flax.traverse_util.unflatten_dict(..., sep="/")` nests them. A `ValueError` lists
    all that SAVi-S cannot represent.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import interop
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.savi_small)(key=jr.key(0))
    params = interop.to_savi_video(model)
    print(sum(x.size for x in params.values()))  # 895268
    ```
    """
    refuse(_SOURCE, _wrong_parts(model))
    sizes, has_mlp = _sizes_of(model), model.corrector.mlp is not None
    decoder: Any = model.decoder  # the field may hold any function
    make = partial(_make, sizes, grid_size=decoder.grid_size, has_mlp=has_mlp)
    ignored = ["slot_init", "use_checkpoint"]
    arrays = checked_arrays(_SOURCE, model, blueprint(make), ignored=ignored)
    arrays = _split_heads(split_gates(arrays, "corrector."))
    heads, lookers = sizes["heads"], sizes["lookers"]
    entries = _entries(is_multi=heads > 1, has_mlp=has_mlp)
    weights = write(entries, arrays, heads=heads, lookers=lookers)
    for name, size in zip(_GRIDS, (decoder.image_size, decoder.grid_size)):
        weights[name] = _grid(*size)
    return dict(sorted(weights.items()))


def _make(
    sizes: Mapping[str, int],
    *,
    grid_size: tuple[int, int],
    has_mlp: bool,
    key: PRNGKeyArray,
) -> SlotVideo:
    encoder = Encoder(
        sizes["hidden"],
        feature_size=sizes["input"],
        mlp_size=sizes["feedforward"],
        in_channels=sizes["channels"],
        kernel_size=sizes["side"],
        grid="savi",
        layer_norm_eps=1e-6,
        key=key,
    )
    corrector = make_layer(
        sizes["input"],
        sizes["slot"],
        mlp_size=sizes["mlp"] if has_mlp else None,
        num_heads=sizes["heads"],
        head_size=sizes["head"],
        num_iters=1,
        key=key,
    )
    predictor = SlotPredictor(
        sizes["slot"],
        mlp_size=sizes["predictor"],
        num_heads=sizes["lookers"],
        qkv_size=sizes["lookers"] * sizes["looker"],
        key=key,
    )
    decoder = SpatialBroadcastDecoder(
        sizes["slot"],
        grid_size=grid_size,
        hidden_sizes=[sizes[f"decoder{i}"] for i in range(4)],
        kernel_sizes=[*(sizes[f"side{i}"] for i in range(4)), 1],
        strides=_STRIDES,
        out_channels=sizes["rgb"],
        rgb_activation=jax.nn.identity,
        grid="savi",
        key=key,
    )
    start = BoxHints(
        sizes["slot"], size=sizes["hint"], hidden_size=sizes["start"], key=key
    )
    return SlotVideo(encoder, corrector, predictor, decoder, start)


def _entries(*, is_multi: bool, has_mlp: bool) -> dict[str, Entry]:
    """In the order of the alphabet, as Flax sorts them."""
    entries = {
        f"{_CORRECTOR}{name}": entry._replace(path=f"corrector.{entry.path}")
        for name, entry in layer_entries(is_multi=is_multi, has_mlp=has_mlp).items()
    }

    def dense(name: str, path: str, inputs: str, outputs: str) -> None:
        kernel = Entry(f"{path}.weight", f"{inputs} {outputs}", DENSE)
        entries[f"{name}/kernel"] = kernel
        entries[f"{name}/bias"] = Entry(f"{path}.bias", outputs)

    def norm(name: str, path: str, size: str) -> None:
        entries[f"{name}/scale"] = Entry(f"{path}.weight", size)
        entries[f"{name}/bias"] = Entry(f"{path}.bias", size)

    def mlp(name: str, path: str, inputs: str, hidden: str, outputs: str) -> None:
        dense(f"{name}/dense_mlp_0", f"{path}.layers[0]", inputs, hidden)
        dense(f"{name}/dense_mlp_1", f"{path}.layers[1]", hidden, outputs)

    def conv(part: str, path: str, i: int, side: str, inputs: str, out: str) -> None:
        name, path = f"{part}/CNN_0/conv_{i}", f"{path}.convs[{i}]"
        shape = f"{side} {side} {inputs} {out}"
        entries[f"{name}/kernel"] = Entry(f"{path}.weight", shape, _CONV)
        entries[f"{name}/bias"] = Entry(f"{path}.bias", out, "c -> c 1 1")

    mlp(_START, "slot_start.mlp", "hint", "start", "slot")
    positions = f"{_ENCODER}/PositionEmbedding_0"
    dense(f"{positions}/dense_pe_0", "encoder.positions.proj", "2", "hidden")
    norm(f"{positions}/MLP_0/LayerNorm_0", "encoder.norm", "hidden")
    mlp(f"{positions}/MLP_0", "encoder.mlp", "hidden", "feedforward", "input")
    positions = f"{_DECODER}/PositionEmbedding_0"
    dense(f"{positions}/dense_pe_0", "decoder.positions.proj", "2", "slot")
    for i in range(4):
        before = f"decoder{i - 1}" if i else "slot"
        conv(_ENCODER, "encoder", i, "side", "hidden" if i else "channels", "hidden")
        conv(_DECODER, "decoder", i, f"side{i}", before, f"decoder{i}")
    for head, outputs in (("rgb", "rgb"), ("alpha", "1")):
        dense(f"{_DECODER}/{_READOUT[head]}", head, "decoder3", outputs)
    norm(f"{_PREDICTOR}/LayerNorm_0", "predictor.norm_attention", "slot")
    norm(f"{_PREDICTOR}/LayerNorm_1", "predictor.norm_mlp", "slot")
    mlp(f"{_PREDICTOR}/MLP_0", "predictor.mlp", "slot", "predictor", "slot")
    attention = f"{_PREDICTOR}/MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value"):
        path = f"predictor.attention.{name}_proj"
        entries[f"{attention}/{name}/kernel"] = Entry(
            f"{path}.weight", "slot lookers looker", "i lookers d -> (lookers d) i"
        )
        entries[f"{attention}/{name}/bias"] = Entry(
            f"{path}.bias", "lookers looker", "lookers d -> (lookers d)"
        )
    path = "predictor.attention.output_proj"
    entries[f"{attention}/out/kernel"] = Entry(
        f"{path}.weight", "lookers looker slot", "lookers d o -> o (lookers d)"
    )
    entries[f"{attention}/out/bias"] = Entry(f"{path}.bias", "slot")
    return dict(sorted(entries.items()))


def _sizes_of(model: Any) -> dict[str, int]:
    """By the names that the entries have for them."""
    encoder, corrector, predictor = model.encoder, model.corrector, model.predictor
    decoder, start, attention = model.decoder, model.slot_start, predictor.attention
    qkv_size = getattr(corrector.query_proj, "out_features", corrector.slot_size)
    # Of another number of convolutions some are left out, or come twice: refused.
    convs = [decoder.convs[min(i, len(decoder.convs) - 1)] for i in range(4)]
    return {
        "hidden": encoder.positions.channels,
        "input": encoder.feature_size,
        "feedforward": mlp_size(encoder.mlp),
        "channels": encoder.in_channels,
        "side": encoder.convs[0].kernel_size[0],
        "slot": corrector.slot_size,
        "mlp": mlp_size(corrector.mlp),
        "heads": corrector.num_heads,
        "head": qkv_size // corrector.num_heads,
        "predictor": mlp_size(predictor.mlp),
        "lookers": attention.num_heads,
        "looker": attention.qk_size,
        "rgb": decoder.out_channels,
        "hint": start.size,
        "start": mlp_size(start.mlp),
        **{f"decoder{i}": conv.out_channels for i, conv in enumerate(convs)},
        **{f"side{i}": conv.kernel_size for i, conv in enumerate(convs)},
    }


def _joined_heads(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The two heads of the decoder as one convolution."""
    arrays = dict(arrays)
    for name in ("weight", "bias"):
        both = np.concatenate([arrays.pop(f"{head}.{name}") for head in _READOUT])
        shape = (*both.shape, 1, 1)
        arrays[f"decoder.convs[4].{name}"] = both.reshape(shape)
    return arrays


def _split_heads(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    for name in ("weight", "bias"):
        both = arrays.pop(f"decoder.convs[4].{name}")[..., 0, 0]
        arrays[f"rgb.{name}"], arrays[f"alpha.{name}"] = both[:-1], both[-1:]
    return arrays


def _grid(height: int, width: int) -> np.ndarray:
    """`y` and `x` of each place from -1 to 1, channels last, as the original has it."""
    sides = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)[None]


def _grid_notes(grids: Mapping[str, Any]) -> list[str]:
    notes, sizes = [], []
    for name in _GRIDS:
        shape = np.shape(grids.get(name, ()))
        if name not in grids:
            notes.append(f"`{name}` is missing, expected shape (1, height, width, 2)")
        elif len(shape) != 4 or shape[::3] != (1, 2):
            notes.append(
                f"`{name}` is misshapen, expected shape (1, height, width, 2), found"
                f" shape {shape}"
            )
        elif not np.allclose(grids[name], _grid(*shape[1:3]), atol=1e-5):
            notes.append(f"`{name}` is no grid of `y` and `x` from -1 to 1")
        else:
            sizes.append(shape[1:3])
    if len(sizes) == 2 and sizes[0] != tuple(8 * side for side in sizes[1]):
        notes.append(
            f"the encoder's grid is of {sizes[0]} places, and the decoder's of"
            f" {sizes[1]}, which with strides of 2, 2 and 2 paints 8 times as many"
        )
    return notes


def _wrong_parts(model: Any) -> list[str]:
    """Parts of which not even the sizes can be read."""
    wrong = wrong_type("model", model, SlotVideo)
    if wrong:
        return wrong
    for name, wanted in {
        "encoder": Encoder,
        "corrector": SlotAttention,
        "predictor": SlotPredictor,
        "decoder": SpatialBroadcastDecoder,
        "slot_start": BoxHints,
    }.items():
        wrong += wrong_type(name, getattr(model, name), wanted)
    return wrong
