"""What all sources share: entries checked, modules filled, settings compared."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange

from .._misc import accumulator_dtype
from ..nn import SlotAttention


_Module = TypeVar("_Module", bound=eqx.Module)
# No source has these in its weights, or the shapes of the weights tell them.
_NOT_COMPARED = {
    *("num_slots", "num_iters", "grad_iters", "straight_through", "scale"),
    *("input_size", "slot_size", "hidden_size", "feature_size", "channels", "shape"),
    *("in_features", "out_features", "in_channels", "out_channels", "kernel_size"),
    *("in_size", "out_size", "width_size", "depth", "use_bias", "use_final_bias"),
    *("use_weight", "image_size"),
}


class Entry(NamedTuple):
    """One array of a source."""

    path: str  # where it goes in our module
    shape: str  # its axes by the names of their sizes, as in "slot 3*slot"
    layout: str = "... -> ..."  # from the source's axes to ours


class Names(NamedTuple):
    """What entries are called among the weights."""

    found: Mapping[str, str]
    missing: Mapping[str, str]  # what they should be called


def own_names(entries: Mapping[str, Entry], weights: Mapping[str, Any]) -> Names:
    """Where every entry is called what it is called."""
    names = {name: name for name in entries}
    found = {name: name for name in entries if name in weights}
    return Names(found, names)


def blueprint(make: Callable[..., _Module]) -> _Module:
    """What `make(key=key)` builds, with shapes in place of arrays: nothing is drawn."""
    return eqx.filter_eval_shape(make, key=jr.key(0))


def read(
    source: str,
    weights: Mapping[str, Any],
    entries: Mapping[str, Entry],
    names: Names,
    notes: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The arrays by our paths and in our layout, and the sizes that they agree on.

    `notes` are what else is wrong. Whatever is wrong is told in one `ValueError`.
    """
    arrays = {entry: _array(weights[name]) for entry, name in names.found.items()}
    sizes = _sizes(entries, arrays)
    problems = [
        f"`{name}` is unknown, found shape {np.shape(value)}"
        for name, value in weights.items()
        if name not in names.found.values()
    ]
    for entry, (_, axes, _) in entries.items():
        expected = tuple(_length(axis, sizes) for axis in axes.split())
        shown = str(expected).replace("'", "")
        if entry not in arrays:
            problems.append(
                f"`{names.missing[entry]}` is missing, expected shape {shown}"
            )
            continue
        name, array = names.found[entry], arrays[entry]
        if array.shape != expected:
            found = array.shape
            problems.append(
                f"`{name}` is misshapen, expected shape {shown}, found shape {found}"
            )
        if array.dtype == object:
            problems.append(f"`{name}` does not consist of real numbers")
        elif not np.all(np.isfinite(array.astype(np.float64))):
            problems.append(f"`{name}` is not finite: it has NaN or infinity")
    if problems or notes:
        lines = "".join(f"\n- {line}" for line in [*sorted(problems), *notes])
        raise ValueError(
            f"These are not the weights of {source}:{lines}\nPass every entry that the"
            " original has and no other, under its name and in its shape."
        )
    return {
        path: rearrange(arrays[entry], layout)
        for entry, (path, _, layout) in entries.items()
    }, sizes


def check_mapping(weights: Any) -> None:
    if not isinstance(weights, Mapping):
        raise ValueError(
            "The weights must be a dict from names to arrays, got"
            f" {type(weights).__name__}."
        )


def _array(value: Any) -> np.ndarray:
    """As NumPy has it, in a dtype that JAX has; `object` if it is not of numbers."""
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.integer):
        array = array.astype(np.float64)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(object)
    with np.errstate(over="ignore"):  # what is infinite then is told as such
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _sizes(
    entries: Mapping[str, Entry], arrays: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Each size as most of the entries have it: what is misshapen is outvoted."""
    votes: dict[str, Counter[int]] = {}
    for name, array in arrays.items():
        axes = entries[name].shape.split()
        if len(axes) != array.ndim:
            continue
        for axis, length in zip(axes, array.shape):
            factor, size = _factor(axis)
            if length % factor == 0:
                votes.setdefault(size, Counter())[length // factor] += 1
    return {size: count.most_common(1)[0][0] for size, count in votes.items()}


def _factor(axis: str) -> tuple[int, str]:
    *factor, size = axis.split("*")
    return int(factor[0]) if factor else 1, size


def _length(axis: str, sizes: Mapping[str, int]) -> int | str:
    """In numbers, or by its name if nothing tells its size."""
    factor, size = _factor(axis)
    if size.isdigit():
        return int(size)
    return factor * sizes[size] if size in sizes else axis


def filled(module: _Module, arrays: Mapping[str, np.ndarray]) -> _Module:
    """The blueprint with its arrays."""
    paths, structure = jax.tree_util.tree_flatten_with_path(module)
    leaves = [
        jnp.asarray(arrays[_name(path)]) if _is_shape(leaf) else leaf
        for path, leaf in paths
    ]
    return jax.tree_util.tree_unflatten(structure, leaves)


def checked_arrays(
    source: str,
    module: eqx.Module,
    wanted: eqx.Module,
    *,
    ignored: Collection[str] = (),
    reasons: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The arrays of a module that is as the source has it, by their paths.

    `wanted` is the blueprint of what the source would compute. Whatever it cannot is
    told in one `ValueError`, after the `reasons` that are known already; a bias that
    the module lacks is zero.
    """
    differences = _differences(module, wanted, "", ignored)
    scale = _scale_differences(module, wanted)
    refuse(source, [*reasons, *differences, *scale])
    ours = {_name(p): x for p, x in jax.tree_util.tree_flatten_with_path(module)[0]}
    theirs = {_name(p): x for p, x in jax.tree_util.tree_flatten_with_path(wanted)[0]}
    return {
        name: _widened(ours[name]) if name in ours else np.zeros(x.shape, np.float32)
        for name, x in theirs.items()
        if _is_shape(x)
    }


def joined_biases(inputs: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, ...]:
    """`bias` and `bias_n` of a cell with one bias for a gate, from two for each.

    Only that of the new state is apart: the reset gate acts on the hidden one of it.
    """
    gates, new = np.split(hidden, [len(hidden) // 3 * 2])
    return inputs + np.concatenate([gates, np.zeros_like(new)]), new


def split_biases(bias: np.ndarray, bias_n: np.ndarray) -> tuple[np.ndarray, ...]:
    """Two biases for each gate that `joined_biases` makes the same of."""
    nothing = np.zeros_like(bias_n)
    return bias, np.concatenate([nothing, nothing, bias_n])


def mlp_size(mlp: Any) -> int:
    """Its hidden width; any, if it is none of ours and will be refused."""
    return mlp.width_size if isinstance(mlp, eqx.nn.MLP) else 1


def refuse(source: str, reasons: Sequence[str]) -> None:
    if reasons:
        lines = "".join(f"\n- {reason}" for reason in reasons)
        raise ValueError(f"This is nothing that {source} can represent:{lines}")


def wrong_type(where: str, got: Any, wanted: type) -> list[str]:
    if type(got) is wanted:
        return []
    return [f"`{where}` is {_shown(got)}, and would have to be {wanted.__name__}"]


def write(
    entries: Mapping[str, Entry], arrays: Mapping[str, np.ndarray], **sizes: int
) -> dict[str, np.ndarray]:
    """The arrays by the source's names and in its layout."""
    weights = {}
    for name, (path, _, layout) in entries.items():
        theirs, ours = layout.split(" -> ")
        named = re.findall(r"\w+", ours)
        known = {axis: size for axis, size in sizes.items() if axis in named}
        array = rearrange(arrays[path], f"{ours} -> {theirs}", **known)
        weights[name] = np.array(array, order="C")
    return weights


def _differences(
    got: Any, want: Any, where: str, ignored: Collection[str]
) -> Iterator[str]:
    """What differs, one sentence each; arrays only by their shapes."""
    if isinstance(want, eqx.Module):
        wrong = wrong_type(where, got, type(want))
        yield from wrong
        fields = [] if wrong else [field.name for field in dataclasses.fields(want)]
        for name in fields:
            if name not in _NOT_COMPARED and name not in ignored:
                inner = f"{where}.{name}".lstrip(".")
                yield from _differences(
                    getattr(got, name), getattr(want, name), inner, ignored
                )
    elif _is_shape(want):
        lacks_bias = got is None and "bias" in where.rpartition(".")[2]
        if not lacks_bias and getattr(got, "shape", None) != want.shape:
            yield f"`{where}` is {_shown(got)}, and would have to be {_shown(want)}"
    elif isinstance(want, tuple) and isinstance(got, tuple) and len(got) == len(want):
        for i, (g, w) in enumerate(zip(got, want)):
            yield from _differences(g, w, f"{where}[{i}]", ignored)
    elif not np.array_equal(got, want):
        yield f"`{where}` is {_shown(got)}, and would have to be {_shown(want)}"


def _scale_differences(module: Any, wanted: Any) -> list[str]:
    """`None` is compared as the number that it stands for."""
    if not isinstance(module, SlotAttention):
        part = "corrector" if hasattr(module, "corrector") else "slot_attention"
        module, wanted = getattr(module, part), getattr(wanted, part)
    if type(module.query_proj) is not eqx.nn.Linear:
        return []
    got, want = _scale(module), _scale(wanted)
    if math.isclose(got, want, rel_tol=1e-6):
        return []
    return [f"`scale` amounts to {got:g}, and would have to be {want:g}"]


def _scale(layer: SlotAttention) -> float:
    if layer.scale is not None:
        return layer.scale
    return (layer.query_proj.weight.shape[0] / layer.num_heads) ** -0.5


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape}"
    if isinstance(value, eqx.Module):
        return type(value).__name__
    if isinstance(value, tuple) and any(isinstance(x, eqx.Module) for x in value):
        return f"{len(value)} layers"
    return getattr(value, "__name__", repr(value))


def _widened(array: jax.Array) -> np.ndarray:
    return np.asarray(array.astype(accumulator_dtype(array.dtype)))


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path).lstrip(".")
