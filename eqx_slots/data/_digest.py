"""What a callable computes with, in one number: its arrays, its numbers, its code."""

import dataclasses
import functools
import json
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._misc import digest_of


_LIBRARIES = ("einops", "equinox", "jax", "jaxlib", "numpy")  # known by their names


def digest_of_callable(function: Any) -> str:
    """SHA-256 of an object's fields, or of a function's code and all that it holds.

    Two objects of equal fields, arrays included, have one digest, wherever they are in
    memory. Of a function it is of the bytecode, the defaults, what it closes over, and
    what it takes from its own file by name.
    """
    arrays: dict[str, np.ndarray] = {}
    return digest_of({"of": _told(function, "", arrays, set())}, arrays)


def _told(value: Any, place: str, arrays: dict[str, np.ndarray], seen: set[int]) -> Any:
    """A value as JSON holds it, its arrays apart."""

    def parts(pairs: Any) -> list[Any]:
        inner = [[str(k), _told(x, f"{place}.{k}", arrays, seen)] for k, x in pairs]
        return [type(value).__name__, inner]

    if hasattr(value, "detach"):  # PyTorch's
        value = value.detach().cpu()
    if isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        value = jax.random.key_data(value)
    if hasattr(value, "__array__"):
        arrays[place] = np.asarray(value)
        return "array"
    if id(value) in seen:  # what holds itself, as a function that calls itself
        return "again"
    if isinstance(value, types.MethodType):
        return parts([("self", value.__self__), ("function", value.__func__)])
    if isinstance(value, functools.partial):
        return parts(zip("fak", (value.func, value.args, value.keywords)))
    root = str(getattr(value, "__module__", "")).partition(".")[0]
    if callable(value) and root in _LIBRARIES and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, types.FunctionType):
        seen = seen | {id(value)}
        return parts(_held_by(value))
    if isinstance(value, types.CodeType):
        asked = ("asked", value.co_names)  # the code has but their numbers
        code = ("code", value.co_code.hex())
        return parts([code, asked, *enumerate(value.co_consts)])
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None:  # compiled
        return parts([("wrapped", wrapped)])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return parts((name, getattr(value, name, None)) for name in names)
    if isinstance(value, Mapping):
        return parts(value.items())
    if isinstance(value, (list, tuple)):
        return parts(enumerate(value))
    if isinstance(value, (set, frozenset)):  # each process has its own order of them
        told = [json.dumps(_told(x, place, arrays, seen)) for x in value]
        return [type(value).__name__, sorted(told)]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        seen = seen | {id(value)}
        return parts(vars(value).items())
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def _held_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    cells = [_content(cell) for cell in function.__closure__ or ()]
    known = function.__globals__
    names = {name: known[name] for name in _names(function.__code__) if name in known}
    return [
        ("code", function.__code__),
        ("defaults", function.__defaults__),
        ("keywords", function.__kwdefaults__),
        ("cells", cells),
        ("names", {k: v for k, v in names.items() if _is_local(v, function)}),
    ]


def _content(cell: types.CellType) -> Any:
    """What a function closes over; nothing if that was never given a value."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names(code: types.CodeType) -> list[str]:
    """What code asks for by name, the functions within it too."""
    inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return sorted({*code.co_names, *(name for x in inner for name in _names(x))})


def _is_local(value: Any, function: types.FunctionType) -> bool:
    """Whether what a name stands for is not to be had from another file."""
    if isinstance(value, (types.ModuleType, type)):
        return False
    if isinstance(value, types.FunctionType):
        return value.__module__ == function.__module__
    return True
