from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from .._misc import accumulator_dtype
from ..convolution import ConvTranspose2d


_Tree = TypeVar("_Tree")
_LAYERS = (
    eqx.nn.Linear,
    eqx.nn.Conv,
    eqx.nn.ConvTranspose,
    eqx.nn.GRUCell,
    ConvTranspose2d,
)
# Equinox stores weights as (out, in, *kernel).
_KERNELS = {
    "keras": jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0),
    "flax": jax.nn.initializers.lecun_normal(in_axis=1, out_axis=0),
}
_orthogonal = jax.nn.initializers.orthogonal(column_axis=1)


def paper_weights(
    tree: _Tree, *, defaults: Literal["keras", "flax"] = "keras", key: PRNGKeyArray
) -> _Tree:
    """Draw the weights anew as the paper's official code does (Keras' defaults).

    Glorot-uniform kernels, an orthogonal recurrence in the GRU, zero biases; Equinox
    itself draws everything, biases too, uniformly within `fan_in ** -0.5`.

    **Arguments:**

    - `tree`: Any PyTree that holds `equinox.nn` layers: linear, convolution,
        transposed convolution, GRU cell. Anything else in it stays as it is.
    - `defaults`: Whose: with `"flax"`, as SAVi's code has them, kernels are LeCun's
        normal ones. (Keyword only argument.)
    - `key`: Randomness of the new weights. (Keyword only argument.)

    **Returns:**

    The same tree with new weights. Other `defaults` are a `ValueError`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import nn

    mlp = eqx.nn.MLP(64, 64, 128, depth=1, key=jr.key(0))
    mlp = nn.paper_weights(mlp, key=jr.key(1))
    print(mlp.layers[0].weight.shape, mlp.layers[0].bias.any())  # (128, 64) False
    ```
    """

    if defaults not in _KERNELS:
        raise ValueError(f'`defaults` must be "keras" or "flax", got {defaults!r}.')
    kernel = _KERNELS[defaults]

    def is_layer(node: Any) -> bool:
        return isinstance(node, _LAYERS)

    leaves, structure = jax.tree.flatten(tree, is_leaf=is_layer)
    keys = jr.split(key, len(leaves))
    leaves = [
        _redraw(leaf, kernel, leaf_key) if is_layer(leaf) else leaf
        for leaf, leaf_key in zip(leaves, keys)
    ]
    return jax.tree.unflatten(structure, leaves)


def _redraw(layer: Any, kernel: Callable[..., Array], key: PRNGKeyArray) -> Any:
    if isinstance(layer, eqx.nn.GRUCell):
        hidden_key, input_key = jr.split(key)
        layer = _replace(layer, "weight_hh", _orthogonal, hidden_key)
        layer = _replace(layer, "weight_ih", kernel, input_key)
        layer = _replace(layer, "bias_n", _zeros, key)
    else:
        layer = _replace(layer, "weight", kernel, key)
    return _replace(layer, "bias", _zeros, key)


def _zeros(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    return jnp.zeros(shape, dtype)


def _replace(
    layer: Any, name: str, draw: Callable[..., Array], key: PRNGKeyArray
) -> Any:
    old = getattr(layer, name)
    if old is None:  # a layer without bias
        return layer
    # LAPACK, which makes the orthogonal matrix, knows no half precision.
    new = draw(key, old.shape, accumulator_dtype(old.dtype)).astype(old.dtype)
    return eqx.tree_at(lambda node: getattr(node, name), layer, new)
