"""A model in one file: weights and the call that builds it, without pickle.

The file is in the safetensors format, which other libraries read; its metadata say how
to build the model. Needs `pip install "eqx-slots[examples]"` for safetensors.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from .models import presets


FORMAT_VERSION = 1
# What `load` may call by itself: names in a file are looked up here, never imported.
BUILDERS: dict[str, Callable[..., PyTree]] = {
    builder.__name__: builder
    for builder in (
        presets.blocks,
        presets.blog,
        presets.tetrominoes,
        presets.multi_dsprites,
        presets.clevr,
    )
}


def save(
    path: str | os.PathLike,
    model: PyTree,
    *,
    make: Callable[..., PyTree],
    arguments: dict[str, Any] | None = None,
) -> None:
    """Write a model to a file, whole or not at all.

    **Arguments:**

    - `path`: The file, by custom named `*.safetensors`; it is replaced if it exists.
    - `model`: The model that `make(**arguments, key=...)` builds, with any weights.
    - `make`: The function that builds it, such as `presets.blocks`. (Keyword only.)
    - `arguments`: What `make` was called with besides the key, as JSON allows: numbers,
        strings, lists. (Keyword only argument.)

    A model that `make` would not build is a `ValueError`, here and not at loading.
    """
    from safetensors.numpy import save as save_bytes  # an extra, needed only here

    arguments = {} if arguments is None else arguments
    arrays = {
        # Scrambled silently by safetensors if not contiguous.
        name: np.ascontiguousarray(array)
        for name, array in _named_arrays(model).items()
    }
    written = json.dumps(arguments)
    blueprint = _blueprint(make, json.loads(written))
    source = f"`make` ({make.__name__})"
    _check_same(arrays, blueprint, source)
    if not eqx.tree_equal(_without_arrays(model), _without_arrays(blueprint)):
        raise ValueError(
            f"{source} builds a model of other settings than this one (its static"
            " fields or functions differ); pass what it was built with as `arguments`."
        )
    if BUILDERS.get(make.__name__, make) is not make:
        raise ValueError(
            f"{source} has the name of one of `eqx_slots.models.presets`, which `load`"
            " would call instead; give it another name."
        )
    metadata = {
        "format": f"eqx_slots {FORMAT_VERSION}",
        "make": make.__name__,
        "arguments": written,
    }
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(save_bytes(arrays, metadata=metadata))
    os.replace(partial, target)


def load(path: str | os.PathLike, *, make: Callable[..., PyTree] | None = None) -> Any:
    """Read a model that [`eqx_slots.serialisation.save`][] has written.

    **Arguments:**

    - `path`: The file.
    - `make`: The function that builds the model, if it is not one of
        `eqx_slots.models.presets`. (Keyword only argument.)

    **Returns:**

    The model. A file that is no model of ours, or that does not fit the builder, is a
    `ValueError` that says what was expected and what was found.
    """
    from safetensors import safe_open, SafetensorError

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error
    expected = f"eqx_slots {FORMAT_VERSION}"
    if metadata.get("format") != expected:
        raise ValueError(
            f"{path} must be a file of format {expected!r}, found"
            f" {metadata.get('format')!r}; was it written by `serialisation.save`?"
        )
    name = metadata["make"]
    if make is None:
        if name not in BUILDERS:
            raise ValueError(
                f"{path} was built by `{name}`, which is not one of"
                f" {sorted(BUILDERS)}; pass that function as `make=`."
            )
        make = BUILDERS[name]
    blueprint = _blueprint(make, json.loads(metadata["arguments"]))
    _check_same(arrays, blueprint, str(path))
    paths, structure = jax.tree_util.tree_flatten_with_path(blueprint)
    leaves = [
        jax.numpy.asarray(arrays[_name(path)]) if _has_array(leaf) else leaf
        for path, leaf in paths
    ]
    return jax.tree_util.tree_unflatten(structure, leaves)


def _blueprint(make: Callable[..., PyTree], arguments: dict[str, Any]) -> PyTree:
    """The model with shapes in place of arrays; nothing is computed."""
    return eqx.filter_eval_shape(lambda key: make(**arguments, key=key), jr.key(0))


def _without_arrays(tree: PyTree) -> PyTree:
    """Structure, static fields and functions, with a mark where an array stands."""
    return jax.tree.map(lambda x: "array" if _has_array(x) else x, tree)


def _has_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path).lstrip(".")


def _named_arrays(tree: PyTree) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in paths if _has_array(leaf)}


def _check_same(arrays: dict[str, Any], blueprint: PyTree, source: str) -> None:
    def describe(values: dict[str, Any]) -> dict[str, str]:
        return {name: f"{x.dtype}{list(x.shape)}" for name, x in values.items()}

    found, wanted = describe(arrays), describe(_named_arrays(blueprint))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{source} does not fit the model: `{name}` should be"
                f" {wanted.get(name, 'absent')}, found {found.get(name, 'nothing')}."
            )
