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
    read,
    refuse,
    split_biases,
    write,
    wrong_type,
)
from ._keras import keras_names


SOURCE = "the official TensorFlow `SlotAttention`"
DENSE = "i o -> o i"
# In the order in which the original builds them, which Keras' counters follow.
LAYER = {
    "slots_mu": Entry("slot_init.mean", "1 1 slot", "1 1 d -> d"),
    "slots_log_sigma": Entry("slot_init.log_scale", "1 1 slot", "1 1 d -> d"),
    "layer_normalization/gamma": Entry("norm_inputs.weight", "input"),
    "layer_normalization/beta": Entry("norm_inputs.bias", "input"),
    "layer_normalization_1/gamma": Entry("norm_slots.weight", "slot"),
    "layer_normalization_1/beta": Entry("norm_slots.bias", "slot"),
    "layer_normalization_2/gamma": Entry("norm_mlp.weight", "slot"),
    "layer_normalization_2/beta": Entry("norm_mlp.bias", "slot"),
    "q/kernel": Entry("query_proj.weight", "slot slot", DENSE),
    "k/kernel": Entry("key_proj.weight", "input slot", DENSE),
    "v/kernel": Entry("value_proj.weight", "input slot", DENSE),
    "gru_cell/kernel": Entry("cell.weight_ih", "slot 3*slot", DENSE),
    "gru_cell/recurrent_kernel": Entry("cell.weight_hh", "slot 3*slot", DENSE),
    "gru_cell/bias": Entry("cell.biases", "2 3*slot", "two gates -> gates two"),
    "mlp/dense/kernel": Entry("mlp.layers[0].weight", "slot mlp", DENSE),
    "mlp/dense/bias": Entry("mlp.layers[0].bias", "mlp"),
    "mlp/dense_1/kernel": Entry("mlp.layers[1].weight", "mlp slot", DENSE),
    "mlp/dense_1/bias": Entry("mlp.layers[1].bias", "slot"),
}


def google_layer(
    weights: Mapping[str, Any], *, num_slots: int, num_iters: int = 3
) -> SlotAttention:
    """The layer of the paper's official code (TensorFlow), from its weights.

    Read from `SlotAttention` in google-research's `slot_attention/model.py`: no biases
    in the projections, logits scaled by `slot_size ** -0.5`, epsilon 1e-8 in the
    weights of the mean, LayerNorm with Keras' epsilon of 1e-3, a GRU with
    `reset_after=True`, whose two biases for one gate are added up.

    **Arguments:**

    - `weights`: Each array under its name in Keras 2 or 3, such as
        `"slot_attention/q/kernel"`. Scopes in front and a `:0` at the end may differ;
        layers of one kind are told apart by the order of their counters (inputs, slots,
        MLP for the three norms), wherever these begin.
    - `num_slots`, `num_iters`: Slots and rounds, which weights do not tell. (Keyword
        only arguments.)

    **Returns:**

    A [`eqx_slots.nn.SlotAttention`][]. Entries that are unknown, missing, of the wrong
    shape or not finite are one `ValueError` that lists them all, as is a GRU with
    `reset_after=False`, for which `equinox.nn.GRUCell` has no place.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    layer = nn.SlotAttention(64, 64, num_slots=7, key=jr.key(0))
    weights = interop.to_google_layer(layer)  # or those of the original
    layer = interop.google_layer(weights, num_slots=7)
    print(layer.input_size, layer.slot_size, layer.num_iters)  # 64 64 3
    ```
    """
    check_mapping(weights)
    names = keras_names(weights, LAYER)
    notes = layer_notes(weights, names.found)
    arrays, sizes = read(SOURCE, weights, LAYER, names, notes)
    layer = blueprint(layer_maker(sizes, num_slots=num_slots, num_iters=num_iters))
    return filled(layer, with_our_gates(arrays))


def to_google_layer(layer: SlotAttention) -> dict[str, np.ndarray]:
    """The weights that [`eqx_slots.interop.google_layer`][] would make this layer of.

    **Arguments:**

    - `layer`: A layer with the settings of the official code. What is no part of the
        function from inputs and slots to slots is not looked at: rounds, number of
        slots, how gradients flow.

    **Returns:**

    Each array under its Keras name. The GRU's second bias is zero where a gate has two.
    A `ValueError` lists all that the official layer cannot represent.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import interop, nn

    layer = nn.SlotAttention(64, 64, num_slots=7, key=jr.key(0))
    weights = interop.to_google_layer(layer)
    print(weights["slot_attention/gru_cell/kernel"].shape)  # (64, 192)
    ```
    """
    refuse(SOURCE, wrong_type("layer", layer, SlotAttention))
    wanted = blueprint(maker_like(layer))
    arrays = checked_arrays(SOURCE, layer, wanted)
    weights = write(LAYER, with_keras_gates(arrays))
    return {f"slot_attention/{name}": array for name, array in weights.items()}


def layer_maker(
    sizes: Mapping[str, int], **settings: int | None
) -> Callable[..., SlotAttention]:
    """Builds a layer of these sizes as the official code has it."""
    return partial(
        SlotAttention,
        sizes["input"],
        sizes["slot"],
        mlp_size=sizes["mlp"],
        layer_norm_eps=1e-3,
        reduction=WeightedMean(eps=1e-8, eps_in="weights"),
        **settings,
    )


def maker_like(layer: SlotAttention) -> Callable[..., SlotAttention]:
    """Builds a layer of the same sizes as the official code has it."""
    sizes = {"input": layer.input_size, "slot": layer.slot_size}
    sizes["mlp"] = mlp_size(layer.mlp)
    return layer_maker(sizes, num_slots=1)


def layer_notes(weights: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What a shape gives away about a layer of other settings."""
    rows = [
        np.ndim(weights[name])
        for entry, name in names.items()
        if "gru_cell" in entry and entry.endswith("/bias")
    ]
    if rows != [1]:
        return []
    return [
        "a GRU with one bias has `reset_after=False`: its reset gate acts before the"
        " recurrent product, which `equinox.nn.GRUCell` does not do"
    ]


def with_our_gates(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keras' gates are update, reset, new; ours reset, update, new."""
    arrays = _swapped(arrays)
    cell = next(path for path in arrays if path.endswith("cell.biases"))
    bias, bias_n = joined_biases(*arrays.pop(cell).swapaxes(0, 1))
    cell = cell.removesuffix(".biases")
    return {**arrays, f"{cell}.bias": bias, f"{cell}.bias_n": bias_n}


def with_keras_gates(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `with_our_gates`."""
    arrays = dict(arrays)
    path = next(path for path in arrays if path.endswith("cell.bias"))
    biases = split_biases(arrays.pop(path), arrays.pop(f"{path}_n"))
    cell = path.removesuffix(".bias")
    return _swapped({**arrays, f"{cell}.biases": np.stack(biases, axis=1)})


def _swapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    swapped = dict(arrays)
    for path, array in arrays.items():
        if path.endswith(("cell.weight_ih", "cell.weight_hh", "cell.biases")):
            first, second, new = np.split(array, 3)
            swapped[path] = np.concatenate([second, first, new])
    return swapped
