"""What every room needs: checks at the door, the width of an accumulator, and the
names and the digest of the arrays in what is saved."""

import contextlib
import hashlib
import json
import operator
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike


_Tree = TypeVar("_Tree")
_MAPPED_MASK = "jax.vmap(lambda x, m: layer(x, {name}=m))(inputs, {name})"


@contextlib.contextmanager
def needs_extra(extra: str, user: str) -> Generator[None, None, None]:
    """Say how to install what is imported inside, if it is missing."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'{user} needs `pip install "eqx-slots[{extra}]"`: {error}.'
        ) from error


def as_array(name: str, value: Any) -> Array:
    """The array that a value is, or makes: NumPy's float64 becomes JAX's default."""
    fields = getattr(value, "_fields", ())
    if not fields:  # a named tuple of equal shapes would be stacked
        with contextlib.suppress(TypeError, ValueError):
            return jnp.asarray(value)
    message = (
        f"`{name}` must be an array (JAX's, NumPy's, or numbers in nested lists of"
        f" equal length), got {type(value).__name__}"
    )
    if fields:
        message += f"; pass one of its fields: {', '.join(fields)}"
    elif isinstance(value, eqx.Module):
        message += "; optax calls labels that can be called: pass `lambda _: labels`"
    elif hasattr(value, "__dlpack__"):
        message += f"; did you mean `jax.dlpack.from_dlpack({name})`?"
    raise ValueError(message + "." * (not message.endswith("?")))


def check_key(key: Any) -> None:
    """Refuse what is not one PRNG key: a seed, or a batch of keys."""
    shape: tuple[int, ...] = getattr(key, "shape", ())
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed or dtype == jnp.uint32):
        got = repr(key) if isinstance(key, int) else type(key).__name__
        raise ValueError(
            "`key` must be a PRNG key, such as `jax.random.key(0)`, got"
            f" {got if dtype is None else f'{dtype}{list(shape)}'}."
        )
    # Of the old style, `jax.random.PRNGKey(0)`, one key is a vector.
    if len(shape) != (0 if typed else 1):
        raise ValueError(
            f"`key` must be one PRNG key, got an array of shape {shape}; a batch is"
            " mapped by `jax.vmap`, one key for each example."
        )


def check_positive(**sizes: int) -> None:
    """Refuse a size or a count that is not an integer of at least one."""
    for name, size in sizes.items():
        if isinstance(size, jax.Array):
            raise ValueError(
                f"`{name}` must be a Python integer, got a JAX array: shapes are fixed"
                " when JAX compiles. Make the argument static; a number of slots that"
                " changes from example to example is a `slot_mask`."
            )
        whole = hasattr(type(size), "__index__") and not isinstance(size, bool)
        if not whole or operator.index(size) < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {size!r}.")


def sides(image_size: Any) -> tuple[int, int]:
    """Height and width of an image; of one number, those of a square."""
    square = np.ndim(image_size) == 0
    height, width = (image_size, image_size) if square else image_size
    check_positive(height=height, width=width)
    return operator.index(height), operator.index(width)


def check_shape(
    name: str,
    array: Any,
    axes: str,
    expected: tuple[int, ...],
    *,
    batch: str = "jax.vmap(module)({name})",
    cure: str = "",
    otherwise: str = "",
) -> None:
    """Refuse an array of another shape; `-1` in `expected` stands for any size.

    `axes` names the axes for the message, as in `"inputs input_size"`, and `batch` is
    the call that would map one axis more. `cure` is a sentence that replaces the guess
    at what the caller meant, `otherwise` one for where there is no guess.
    """
    shape = jnp.shape(array)
    if _fits(shape, expected):
        return
    wanted = ", ".join(
        axis if want == -1 else f"{axis}={want}"
        for axis, want in zip(axes.split(), expected)
    )
    cure = cure or _likely(name, shape, expected, batch) or otherwise
    message = f"`{name}` must have shape ({wanted}), got {shape}."
    raise ValueError(f"{message} {cure}".strip())


def _likely(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...], batch: str
) -> str:
    """What the caller most likely meant: an axis at the other end, a batch, a list of
    one. Empty if nothing is likely."""
    if _fits(_last_first(shape), expected):
        return f"Did you mean `jnp.moveaxis({name}, -1, 0)`?"
    if _fits((1, *shape), expected):
        return f"Did you mean `{name}[None]`?"
    if len(shape) != len(expected) + 1:
        return ""
    one = shape[1:]
    if _fits(_last_first(one), expected) and not _fits(one, expected):
        name = f"jnp.moveaxis({name}, -1, 1)"
    call = batch.format(name=name)
    return f"A batch is mapped by the caller; did you mean `{call}`?"


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want in (-1, have) for want, have in zip(expected, shape)
    )


def _last_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[-1:], *shape[:-1])


def check_floating(name: str, array: Any) -> None:
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


def one_hot(labels: Array, number: int, dtype: DTypeLike) -> Array:
    """As JAX's, which counts in the dtype of the labels: 256 would be 0 in uint8."""
    labels = jnp.asarray(labels)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    return jax.nn.one_hot(labels, number, dtype=dtype)


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


def check_early_gradient(share: float | Array | None) -> None:
    if share is None:
        return
    if jnp.ndim(share) > 0:
        raise ValueError(
            "`early_gradient` must be one number for all slots and images, got shape"
            f" {jnp.shape(share)}; under `jax.vmap` leave it outside the mapped axis."
        )
    if isinstance(share, (int, float, np.number)) and not 0 <= share <= 1:
        raise ValueError(
            f"`early_gradient` must lie in [0, 1], got {share}; 1 is all of it."
        )


def derivative_alone(x: Array) -> Array:
    """Zero in value, and one in derivative."""
    return x - jax.lax.stop_gradient(x)


def partial_gradient(x: Array, share: float | Array) -> Array:
    """`x` in value, and in derivative such a share of it."""
    share = jnp.asarray(share, x.dtype)
    return jax.lax.stop_gradient(x) + share * derivative_alone(x)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or the shape and the dtype of one."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def array_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, from its path in a tree: `encoder.layers[0].weight`."""
    return jax.tree_util.keystr(path).lstrip(".")


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {array_name(path): leaf for path, leaf in paths if is_array(leaf)}


def described(arrays: dict[str, Any]) -> dict[str, str]:
    """Dtype and shape of arrays: `float32[3, 5]`."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """How descriptions of arrays differ, in words; empty if they do not."""
    differing = [
        f"`{name}` should be {wanted.get(name, 'absent')}, found"
        f" {found.get(name, 'nothing')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if len(differing) > 10:
        differing[10:] = [f"and {len(differing) - 10} arrays more"]
    return "; ".join(differing)


def digest_of(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of what stands in the header and of named arrays, whatever their order:
    names, dtypes, shapes and bytes."""
    ordered = sorted(arrays.items())
    table = [[name, str(array.dtype), array.shape] for name, array in ordered]
    digest = hashlib.sha256(json.dumps([header, table], sort_keys=True).encode())
    for _, array in ordered:
        digest.update(array.tobytes())
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: they might not outlast a power cut."""
    with contextlib.suppress(OSError):  # for Windows, a folder is nothing to open
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def given_slots(
    slots: Array, slot_size: int, num_slots: int | None, *, batch: str
) -> Array:
    """Initial slots as somebody gave them, checked; `batch` maps many."""
    slots = as_array("slots", slots)
    check_floating("slots", slots)
    sizes = (-1, slot_size)
    check_shape("slots", slots, "slots slot_size", sizes, batch=batch)
    check_positive(num_slots=slots.shape[0])
    if num_slots not in (None, slots.shape[0]):
        raise ValueError(
            f"`slots` holds {slots.shape[0]} slots but num_slots={num_slots};"
            " pass only one of the two."
        )
    return slots
