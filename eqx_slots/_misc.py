"""What every room needs: checks at the door and the width of an accumulator."""

import operator
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike


_Tree = TypeVar("_Tree")
_MAPPED_MASK = "jax.vmap(lambda x, m: layer(x, {name}=m))(inputs, {name})"


def check_positive(**sizes: int) -> None:
    """Refuse a size or a count that is not an integer of at least one."""
    for name, size in sizes.items():
        whole = hasattr(type(size), "__index__") and not isinstance(size, bool)
        if not whole or operator.index(size) < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {size!r}.")


def check_shape(
    name: str,
    array: Array,
    axes: str,
    expected: tuple[int, ...],
    *,
    batch: str = "jax.vmap(module)({name})",
) -> None:
    """Refuse an array of another shape; `-1` in `expected` stands for any size.

    `axes` names the axes for the message, as in `"inputs input_size"`, and `batch` is
    the call that would map one axis more.
    """
    shape = jnp.shape(array)
    fits = len(shape) == len(expected) and all(
        want in (-1, have) for want, have in zip(expected, shape)
    )
    if fits:
        return
    wanted = ", ".join(
        axis if want == -1 else f"{axis}={want}"
        for axis, want in zip(axes.split(), expected)
    )
    message = f"`{name}` must have shape ({wanted}), got {shape}."
    if len(shape) == len(expected) + 1:
        call = batch.format(name=name)
        message += f" A batch is mapped by the caller; did you mean `{call}`?"
    raise ValueError(message)


def check_floating(name: str, array: Array) -> None:
    """Refuse integers and booleans, which would be rounded on the way."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be floating point, got {dtype}; convert it first, for"
            f" example `{name}.astype(jnp.float32)` (and 0-255 images by `/ 255`)."
        )


def check_mask(name: str, mask: Array, axes: str, expected: tuple[int, ...]) -> None:
    """Refuse a mask that is not boolean or of another shape."""
    dtype = jnp.result_type(mask)
    if not jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(
            f"`{name}` must be boolean, True for what takes part, got {dtype}; compare"
            f" first, for example `{name} > 0.5`."
        )
    check_shape(name, mask, axes, expected, batch=_MAPPED_MASK)


def grid_stride(height: int, width: int, places: int) -> int:
    """How many pixels apart the places of an encoder are, along both sides."""
    for stride in range(1, max(height, width) + 1):
        if -(-height // stride) * -(-width // stride) == places:
            return stride
    raise ValueError(
        f"`attention` over {places} places is no grid over an image of"
        f" {height} x {width} pixels."
    )


def accumulator_dtype(dtype: DTypeLike) -> jnp.dtype:
    """`dtype`, or float32 where that is wider: sums and epsilons are kept in it.

    In half precision the paper's epsilon of 1e-8 would be exactly zero.
    """
    with jax.numpy_dtype_promotion("standard"):  # widening on purpose
        return jnp.promote_types(dtype, jnp.float32)


def cast(tree: _Tree, dtype: DTypeLike) -> _Tree:
    """The same module with its parameters in `dtype`, that of the inputs."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree
    )
