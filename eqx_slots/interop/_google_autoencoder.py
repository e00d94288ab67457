import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from .._misc import check_positive
from ..models import Encoder, SlotAutoencoder, SpatialBroadcastDecoder
from ..nn import ConvTranspose2d, SlotAttention
from ._arrays import (
    blueprint,
    check_mapping,
    checked_arrays,
    Entry,
    filled,
    mlp_size,
    read,
    refuse,
    write,
    wrong_type,
)
from ._google import (
    DENSE,
    LAYER,
    layer_maker,
    layer_notes,
    maker_like,
    with_keras_gates,
    with_our_gates,
)
from ._keras import keras_names, num_layers


_SOURCE = "the official TensorFlow `SlotAttentionAutoEncoder`"
_Convs = Sequence[tuple[tuple[int, ...], int]]  # shapes of weights, and strides


def google_autoencoder(
    weights: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    broadcast_size: tuple[int, int],
    encoder_strides: Sequence[int],
    decoder_strides: Sequence[int],
    num_slots: int,
    num_iters: int = 3,
) -> SlotAutoencoder:
    """The autoencoder of the paper's official code (TensorFlow), from its weights.

    Read from `SlotAttentionAutoEncoder` in google-research's `slot_attention/model.py`:
    "SAME" padding everywhere, ReLU after every convolution but the decoder's last, RGB
    as it comes, for images in [-1, 1]. A transposed convolution is the gradient of a
    convolution; its kernel comes out mirrored here. All widths and kernel sizes follow
    from the weights. Images are channels first here and channels last there.

    **Arguments:**

    - `weights`: As for [`eqx_slots.interop.google_layer`][], the slot attention's
        among them.
    - `image_size`: Height and width of an image. (Keyword only argument, as all that
        follow.)
    - `broadcast_size`: Height and width that a slot is copied to, (8, 8) in the
        original.
    - `encoder_strides`, `decoder_strides`: One for each convolution, in order;
        (1, 1, 1, 1) and (2, 2, 2, 2, 1, 1) in the original, for images of 128 x 128.
    - `num_slots`, `num_iters`: Slots and rounds.

    **Returns:**

    A [`eqx_slots.models.SlotAutoencoder`][]. A `ValueError` lists all entries that do
    not fit, and says so if sizes and strides do not.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import interop
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.clevr)(key=jr.key(0))
    weights = interop.to_google_autoencoder(model)  # or those of the original
    model = interop.google_autoencoder(
        weights,
        image_size=(128, 128),
        broadcast_size=(8, 8),
        encoder_strides=(1, 1, 1, 1),
        decoder_strides=(2, 2, 2, 2, 1, 1),
        num_slots=7,
    )
    print(model.decoder.image_size, model.slot_attention.num_slots)  # (128, 128) 7
    ```
    """
    check_mapping(weights)
    _check_sizes(image_size, broadcast_size, decoder_strides)
    num_encoder = num_layers(weights, "conv2d")
    num_decoder = num_layers(weights, "conv2d_transpose")
    entries = _entries(
        max(num_encoder, len(encoder_strides)), max(num_decoder, len(decoder_strides))
    )
    names = keras_names(weights, entries)
    notes = [
        *layer_notes(weights, names.found),
        *_stride_notes("encoder_strides", encoder_strides, num_encoder),
        *_stride_notes("decoder_strides", decoder_strides, num_decoder),
        *_kernel_notes(weights, entries, names.found),
    ]
    arrays, sizes = read(_SOURCE, weights, entries, names, notes)
    make = partial(
        _make_autoencoder,
        layer_maker(sizes, num_slots=num_slots, num_iters=num_iters),
        _convs(arrays, "encoder", encoder_strides),
        _convs(arrays, "decoder", decoder_strides),
        broadcast_size,
        sizes["feedforward"],
    )
    return filled(blueprint(make), with_our_gates(_mirrored(arrays)))


def to_google_autoencoder(model: SlotAutoencoder) -> dict[str, np.ndarray]:
    """The weights that [`eqx_slots.interop.google_autoencoder`][] would make this of.

    **Arguments:**

    - `model`: An autoencoder with the settings of the official code and any widths;
        strides are not among the weights.

    **Returns:**

    Each array under its Keras name. A `ValueError` lists all that the official model
    cannot represent.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import interop
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.clevr)(key=jr.key(0))
    weights = interop.to_google_autoencoder(model)
    name = "slot_attention_auto_encoder/encoder_cnn/conv2d/kernel"
    print(len(weights), weights[name].shape)  # 48 (5, 5, 3, 64)
    ```
    """
    refuse(_SOURCE, _wrong_parts(model))
    encoder: Any = model.encoder  # the field may hold any function
    decoder: Any = model.decoder
    convs = [
        [(conv.weight.shape, int(np.ravel(conv.stride)[0])) for conv in part.convs]
        for part in (encoder, decoder)
    ]
    make = partial(
        _make_autoencoder,
        maker_like(model.slot_attention),
        *convs,
        decoder.grid_size,
        mlp_size(encoder.mlp),
    )
    arrays = checked_arrays(_SOURCE, model, blueprint(make))
    entries = _entries(*map(len, convs))
    weights = write(entries, _mirrored(with_keras_gates(arrays)))
    scope = "slot_attention_auto_encoder"
    return {
        # The original makes these two before it has a scope.
        name if "/slots_" in name else f"{scope}/{name}": array
        for name, array in weights.items()
    }


def _make_autoencoder(
    make_layer: Callable[..., SlotAttention],
    encoder_convs: _Convs,
    decoder_convs: _Convs,
    broadcast_size: tuple[int, int],
    feedforward_size: int,
    *,
    key: PRNGKeyArray,
) -> SlotAutoencoder:
    layer = make_layer(key=key)
    hidden_size = encoder_convs[-1][0][0]
    encoder = Encoder(
        hidden_size,
        feature_size=layer.input_size,
        in_channels=encoder_convs[0][0][1],
        strides=[stride for _, stride in encoder_convs],
        layer_norm_eps=1e-3,
        key=key,
    )
    # The widths of the original's layers are free, one by one.
    convs = tuple(
        eqx.nn.Conv2d(channels, out, tuple(side), stride, padding="SAME", key=key)
        for (out, channels, *side), stride in encoder_convs
    )
    mlp = eqx.nn.MLP(hidden_size, layer.input_size, feedforward_size, 1, key=key)
    encoder = eqx.tree_at(lambda e: (e.convs, e.mlp), encoder, (convs, mlp))
    *hidden_sizes, channels = [out for (out, *_), _ in decoder_convs]
    decoder = SpatialBroadcastDecoder(
        layer.slot_size,
        grid_size=broadcast_size,
        hidden_sizes=hidden_sizes,
        kernel_sizes=[shape[-1] for shape, _ in decoder_convs],
        strides=[stride for _, stride in decoder_convs],
        out_channels=channels - 1,
        rgb_activation=jax.nn.identity,
        key=key,
    )
    return SlotAutoencoder(encoder, layer, decoder)


def _entries(num_encoder: int, num_decoder: int) -> dict[str, Entry]:
    """In the order in which the original builds them.

    Counters stand as in a session that has built one slot attention layer before: the
    names that were recorded.
    """
    encoder = ["channels", *(f"encoder{i}" for i in range(num_encoder))]
    decoder = ["slot", *(f"decoder{i}" for i in range(num_decoder))]
    hidden = encoder[-1]
    entries = {}
    for i in range(num_encoder):
        name, path = f"encoder_cnn/conv2d{_counter(i)}", f"encoder.convs[{i}]"
        shape = f"height{i} width{i} {encoder[i]} {encoder[i + 1]}"
        entries[f"{name}/kernel"] = Entry(f"{path}.weight", shape, "h w i o -> o i h w")
        entries[f"{name}/bias"] = Entry(f"{path}.bias", encoder[i + 1], "c -> c 1 1")
    for i in range(num_decoder):
        name, path = f"decoder_cnn/conv2d_transpose{_counter(i)}", f"decoder.convs[{i}]"
        shape = f"side{i} side{i} {decoder[i + 1]} {decoder[i]}"
        entries[f"{name}/kernel"] = Entry(f"{path}.weight", shape, "h w o i -> o i h w")
        entries[f"{name}/bias"] = Entry(f"{path}.bias", decoder[i + 1], "c -> c 1 1")
    for name, path, inputs, outputs in (
        ("soft_position_embed/dense_2", "encoder.positions.proj", "4", hidden),
        ("soft_position_embed_1/dense_3", "decoder.positions.proj", "4", "slot"),
        ("layer_normalization_3", "encoder.norm", "", hidden),
        ("feedforward/dense_4", "encoder.mlp.layers[0]", hidden, "feedforward"),
        ("feedforward/dense_5", "encoder.mlp.layers[1]", "feedforward", "input"),
    ):
        if inputs:
            shape = f"{inputs} {outputs}"
            entries[f"{name}/kernel"] = Entry(f"{path}.weight", shape, DENSE)
            entries[f"{name}/bias"] = Entry(f"{path}.bias", outputs)
        else:
            entries[f"{name}/gamma"] = Entry(f"{path}.weight", outputs)
            entries[f"{name}/beta"] = Entry(f"{path}.bias", outputs)
    for name, (path, shape, layout) in LAYER.items():
        name = f"slot_attention_1/{_counted_on(name)}"
        entries[name] = Entry(f"slot_attention.{path}", shape, layout)
    return entries


def _counter(i: int) -> str:
    return f"_{i}" if i else ""


def _counted_on(name: str) -> str:
    """A name of the layer alone, where other layers have been built before it."""
    before = {"layer_normalization": 4, "gru_cell": 1, "dense": 6}

    def count_on(match: re.Match[str]) -> str:
        return f"{match[1]}_{before[match[1]] + int(match[2] or 0)}"

    return re.sub(rf"({'|'.join(before)})(?:_(\d+))?(?=/)", count_on, name)


def _convs(
    arrays: Mapping[str, np.ndarray], part: str, strides: Sequence[int]
) -> _Convs:
    return [
        (arrays[f"{part}.convs[{i}].weight"].shape, stride)
        for i, stride in enumerate(strides)
    ]


def _mirrored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A transposed convolution of Keras spreads its kernel; ours correlates with it."""
    return {
        path: array[:, :, ::-1, ::-1]
        if path.startswith("decoder.convs") and path.endswith("weight")
        else array
        for path, array in arrays.items()
    }


def _check_sizes(
    image_size: tuple[int, int],
    broadcast_size: tuple[int, int],
    decoder_strides: Sequence[int],
) -> None:
    for name, size in {
        "image_size": image_size,
        "broadcast_size": broadcast_size,
    }.items():
        if not isinstance(size, Sequence) or len(size) != 2:
            raise ValueError(f"`{name}` must be (height, width), got {size!r}.")
    for stride in decoder_strides:
        check_positive(decoder_strides=stride)
    times = math.prod(decoder_strides)
    painted = tuple(side * times for side in broadcast_size)
    if painted != tuple(image_size):
        raise ValueError(
            "`image_size` must be `broadcast_size` times the product of"
            f" `decoder_strides`, {tuple(broadcast_size)} times {times}, that is"
            f" {painted}; got {tuple(image_size)}."
        )


def _stride_notes(name: str, strides: Sequence[int], number: int) -> list[str]:
    if len(strides) == number:
        return []
    return [f"`{name}` has {len(strides)} strides, for {number} convolutions"]


def _kernel_notes(
    weights: Mapping[str, Any], entries: Mapping[str, Entry], names: Mapping[str, str]
) -> list[str]:
    shapes = {
        name: np.shape(weights[name])
        for entry, name in names.items()
        if entries[entry].path.startswith("decoder.convs")
    }
    return [
        f"`{name}` is {shape[0]} x {shape[1]}, and `eqx_slots.nn.ConvTranspose2d` has"
        " square kernels only"
        for name, shape in shapes.items()
        if len(shape) == 4 and shape[0] != shape[1]
    ]


def _wrong_parts(model: Any) -> list[str]:
    """Parts of which not even the sizes can be read."""
    wrong = wrong_type("model", model, SlotAutoencoder)
    if wrong:
        return wrong
    wrong += wrong_type("encoder", model.encoder, Encoder)
    wrong += wrong_type("slot_attention", model.slot_attention, SlotAttention)
    wrong += wrong_type("decoder", model.decoder, SpatialBroadcastDecoder)
    if wrong:
        return wrong
    for i, conv in enumerate(model.encoder.convs):
        wrong += wrong_type(f"encoder.convs[{i}]", conv, eqx.nn.Conv2d)
    for i, conv in enumerate(model.decoder.convs):
        wrong += wrong_type(f"decoder.convs[{i}]", conv, ConvTranspose2d)
    return wrong
