"""What a callable computes with, in one number: its arrays, its numbers, its code."""

import dataclasses
import functools
import re
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._misc import digest_of


_LIBRARIES = ("einops", "equinox", "jax", "jaxlib", "numpy")  # known by their names


def digest_of_callable(function: Any) -> str:
    """SHA-256 of an object's fields, or of a function's code and all that it holds.

    Two objects of equal fields, arrays included, have one digest, wherever they are in
    memory. Of a function it is the bytecode, the defaults, what it closes over, and the
    functions of its own file that it names.
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
        return parts([("code", value.co_code.hex()), *enumerate(value.co_consts)])
    if hasattr(value, "__wrapped__"):  # compiled
        return parts([("wrapped", value.__wrapped__)])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return parts((name, getattr(value, name, None)) for name in names)
    if isinstance(value, Mapping):
        return parts(value.items())
    if isinstance(value, (list, tuple)):
        return parts(enumerate(value))
    if hasattr(value, "__dict__") and not isinstance(value, type):
        seen = seen | {id(value)}
        return parts(vars(value).items())
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def _held_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    code = function.__code__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    names = {
        name: value
        for name in code.co_names
        if callable(value := function.__globals__.get(name))
        and getattr(value, "__module__", None) == function.__module__
        and not isinstance(value, type)
    }
    held = {"code": code, "defaults": function.__defaults__, "cells": cells}
    return list((held | {"keywords": function.__kwdefaults__, "names": names}).items())
