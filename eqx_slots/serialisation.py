"""A model in one file: weights and the call that builds it, without pickle.

The file is in the safetensors format, which other libraries read; its metadata say how
to build the model. Needs `pip install "eqx-slots[examples]"` for safetensors.

A SHA-256 digest of the whole content is in the metadata too. It catches accidents, such
as a flipped bit, but no forger, who would write a fitting one. Of a file from a stranger
that is still safe to load: nothing in it is run, and the function it names is looked up
in the table `BUILDERS`, never imported.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
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
# What `load` may call by itself; any other builder is passed to it as `make=`.
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
# What the format and NumPy both read: not float8, say, which could only be written.
_DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
    " bfloat16 float16 float32 float64".split()
)
_SHOWN = 10  # arrays named in one message


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
    - `make`: The function that builds it: one of `eqx_slots.models.presets`, or any
        other function or class, which `load` then has to be given. (Keyword only
        argument.)
    - `arguments`: What `make` was called with besides the key, as JSON allows: numbers,
        strings, lists. (Keyword only argument.)

    A model that `make` would not build is a `ValueError`, here and not at loading.
    """
    from safetensors.numpy import save as save_bytes  # an extra, needed only here

    name = getattr(make, "__name__", None)
    if name is None:
        raise ValueError(f"`make` must have a name, as a function has; got {make!r}.")
    if BUILDERS.get(name, make) is not make:
        raise ValueError(
            f"`make` ({name}) has the name of one of `eqx_slots.models.presets`, which"
            " `load` would call instead; give it another name."
        )
    arrays = {
        place: _storable(place, leaf) for place, leaf in _named_arrays(model).items()
    }
    written = json.dumps(_plain({} if arguments is None else arguments, "arguments"))
    blueprint = _blueprint(make, written, "`arguments` must be what `make` accepts")
    differences = _differences(arrays, blueprint)
    if not differences and not eqx.tree_equal(
        _without_arrays(model), _without_arrays(blueprint)
    ):
        differences = "its static fields or functions (a new lambda is never the same)"
    if differences:
        raise ValueError(
            f"`make` ({name}) builds a model of other settings than this one:"
            f" {differences}; pass what this one was built with as `arguments`."
        )
    metadata = {
        "format": f"eqx_slots {FORMAT_VERSION}",
        "make": name,
        "arguments": written,
    }
    metadata["sha256"] = _digest(metadata, arrays)
    _replace(Path(path), save_bytes(arrays, metadata=metadata))


def load(path: str | os.PathLike, *, make: Callable[..., PyTree] | None = None) -> Any:
    """Read a model that [`eqx_slots.serialisation.save`][] has written.

    **Arguments:**

    - `path`: The file.
    - `make`: The function that builds the model, if it is not one of
        `eqx_slots.models.presets`; it may have another name by now. (Keyword only
        argument.)

    **Returns:**

    The model. A file that is no model of ours, that has changed since it was saved or
    that does not fit the builder is a `ValueError` that says what was found and what to
    do about it.
    """
    path = Path(path)
    metadata, arrays = _read(path)
    name = metadata["make"]
    if make is None:
        if name not in BUILDERS:
            raise ValueError(
                f"{path} was built by `{name}`, which is not one of"
                f" {sorted(BUILDERS)}; pass that function as `make=`."
            )
        make = BUILDERS[name]
    blueprint = _blueprint(
        make, metadata["arguments"], f"{path} needs the `make` it was saved with"
    )
    differences = _differences(arrays, blueprint)
    if differences:
        raise ValueError(
            f"{path} holds a model of `{name}` that `make` does not build:"
            f" {differences}; pass the function that it was saved with as `make=`."
        )
    places, structure = jax.tree_util.tree_flatten_with_path(blueprint)
    leaves = [
        jax.numpy.asarray(arrays[_name(place)]) if _has_array(leaf) else leaf
        for place, leaf in places
    ]
    return jax.tree_util.tree_unflatten(structure, leaves)


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays, from a file that is as `save` wrote it."""
    from safetensors import safe_open, SafetensorError

    path.open("rb").close()  # a missing file or a folder: Python's error names it
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    # The last two are NumPy's, at shapes and dtypes beyond it.
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or"
            " changed after saving, or is of another kind; get the file again."
        ) from error
    wanted, found = f"eqx_slots {FORMAT_VERSION}", metadata.get("format")
    if found != wanted:
        version = re.fullmatch("eqx_slots ([0-9]{1,9})", found or "")
        raise ValueError(
            f"{path} must be a file of format {wanted!r}, found {found!r}: it "
            + (
                "was written by a newer eqx_slots; upgrade this one."
                if version and int(version[1]) > FORMAT_VERSION
                else "was not written by `serialisation.save`, or changed after that."
            )
        )
    missing = {"make", "arguments", "sha256"} - metadata.keys()
    if missing:
        raise ValueError(
            f"{path} lacks {sorted(missing)} in its metadata: it was changed after"
            " saving; get the file again."
        )
    stated = metadata.pop("sha256")
    digest = _digest(metadata, arrays)
    if digest != stated:
        raise ValueError(
            f"{path} was changed after saving: its content has the SHA-256 digest"
            f" {digest}, its metadata say {stated}; get the file again."
        )
    return metadata, arrays


def _digest(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    """One number that depends on all that `load` uses, whatever its order."""
    ordered = sorted(arrays.items())
    table = [[name, str(array.dtype), array.shape] for name, array in ordered]
    digest = hashlib.sha256(json.dumps([metadata, table], sort_keys=True).encode())
    for _, array in ordered:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _replace(target: Path, data: bytes) -> None:
    """Put a file in its place once it is whole on the disk."""
    # A rename is atomic within one folder; the name is no other writer's.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)  # still there if one of these has failed
    with contextlib.suppress(OSError):  # for Windows, a folder is nothing to open
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the new name might not outlast a power cut
        finally:
            os.close(folder)


def _plain(value: Any, place: str) -> Any:
    """What JSON gives back for a value: the same, with lists for tuples."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(x, f"{place}[{key!r}]") for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x, f"{place}[{i}]") for i, x in enumerate(value)]
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, (bool, int, float, str, type(None))) and finite:
        return value
    raise ValueError(
        f"`{place}` must be what JSON can hold (finite numbers, strings, booleans, None,"
        f" and lists or dictionaries of them by string), got {value!r}; save a number or"
        " a name, and let `make` turn it into what it stands for."
    )


def _storable(place: str, leaf: Any) -> np.ndarray:
    """An array as safetensors takes it."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`{place}` is a typed PRNG key, which a file cannot hold; keep"
            " `jax.random.key_data(key)` in the model, and wrap it where it is used."
        )
    if leaf.dtype.name not in _DTYPES:
        raise ValueError(
            f"`{place}` must have a dtype that a file can hold, got {leaf.dtype}; cast"
            f" it to one of {sorted(_DTYPES)}."
        )
    # Scrambled silently by safetensors if not contiguous.
    return np.asarray(leaf, order="C")


def _blueprint(make: Callable[..., PyTree], written: str, demand: str) -> PyTree:
    """The model with shapes in place of arrays; nothing is computed."""
    try:
        arguments = json.loads(written)
        return eqx.filter_eval_shape(lambda key: make(**arguments, key=key), jr.key(0))
    except Exception as error:  # a builder may raise anything at what it cannot take
        raise ValueError(
            f"{demand}: with {written}, {getattr(make, '__name__', make)!r} raised"
            f" {type(error).__name__}: {error}"
        ) from error


def _differences(arrays: dict[str, np.ndarray], blueprint: PyTree) -> str:
    """How arrays differ from those of a model, in words; empty if they do not."""

    def describe(values: dict[str, Any]) -> dict[str, str]:
        return {name: f"{x.dtype}{list(x.shape)}" for name, x in values.items()}

    found, wanted = describe(arrays), describe(_named_arrays(blueprint))
    differing = [
        f"`{name}` should be {wanted.get(name, 'absent')}, found"
        f" {found.get(name, 'nothing')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if len(differing) > _SHOWN:
        differing[_SHOWN:] = [f"and {len(differing) - _SHOWN} arrays more"]
    return "; ".join(differing)


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
