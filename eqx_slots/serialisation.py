"""A model in one file: weights and the call that builds it, without pickle.

The file is in the safetensors format, which other libraries read; its metadata say how
to build the model. Needs `pip install "eqx-slots[weights]"`, which is safetensors. The
function that a file names is looked up in the table `BUILDERS`, never imported. A
SHA-256 digest finds any accident to the content, but no forger, who makes it fit.
"""

import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._misc import (
    array_name,
    described,
    differences,
    digest_of,
    is_array,
    named_arrays,
    needs_extra,
    sync_folder,
)
from .models import presets


FORMAT_VERSION = 1
"""The format that `save` writes; a file of a later one is refused."""
_FORMAT = f"eqx_slots {FORMAT_VERSION}"
_METADATA = {"arguments", "format", "make", "sha256"}
# What `load` may call by itself; any other builder is passed to it as `make=`.
BUILDERS: dict[str, Callable[..., Any]] = {
    name: getattr(presets, name)
    for name in (
        "blocks",
        "blog",
        "tetrominoes",
        "multi_dsprites",
        "clevr",
        "block_sets",
        "solid_sets",
        "clevr_sets",
        "block_videos",
        "savi_small",
        "dinosaur",
    )
}
"""The builders that `load` may call by their names alone: the presets."""
# What the format and NumPy both read: not float8, say, which could only be written.
_DTYPES = {"bool", "bfloat16", "float16", "float32", "float64"} | {
    f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)
}


def save(
    path: str | os.PathLike[str],
    model: Any,
    *,
    make: Callable[..., Any],
    arguments: dict[str, Any] | None = None,
) -> None:
    """Write a model to a file, whole or not at all.

    **Arguments:**

    - `path`: The file, by custom named `*.safetensors`; it is replaced if it exists.
    - `model`: The model that `make(**arguments, key=...)` builds, with any weights.
    - `make`: What builds it: one of `eqx_slots.models.presets`, or a function or class
        of your own, which `load` then has to be given. (Keyword only argument.)
    - `arguments`: What `make` was called with besides the key, as JSON allows: numbers,
        strings, lists. (Keyword only argument.)

    A model that `make` would not build is a `ValueError`, here and not at loading.

    **Example:**

    ```python
    import tempfile

    import equinox as eqx
    import jax.random as jr
    from eqx_slots import serialisation
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/blocks.safetensors"
        serialisation.save(path, model, make=presets.blocks)
        same = serialisation.load(path)
    print(eqx.tree_equal(same, model))  # True
    ```
    """
    with needs_extra("weights", "`serialisation.save`"):
        from safetensors.numpy import save as save_bytes

    name = getattr(make, "__name__", None)
    if name is None or BUILDERS.get(name, make) is not make:
        raise ValueError(
            "`make` must be a function with a name, and another name than that of a"
            f" preset ({', '.join(BUILDERS)}) unless it is that preset; got {make!r}."
        )
    arrays = _storable(named_arrays(model))
    written = json.dumps(_plain({} if arguments is None else arguments, "arguments"))
    blueprint = _blueprint(make, written, "`arguments` must be what `make` accepts")
    differing = _differences(arrays, blueprint)
    statics = [eqx.filter(x, is_array, inverse=True) for x in (model, blueprint)]
    if differing or not eqx.tree_equal(*statics):
        other = differing or "static fields or functions (a lambda equals no other)"
        raise ValueError(
            f"`make` ({name}) builds a model of other settings than this one: {other};"
            " pass what this one was built with as `arguments`."
        )
    metadata = {"format": _FORMAT, "make": name, "arguments": written}
    metadata["sha256"] = digest_of(metadata, arrays)
    _replace(Path(path), _in_order(save_bytes(arrays, metadata=metadata)))


def _in_order(file: bytes) -> bytes:
    """The same model, the same file: safetensors writes its metadata in any order."""
    size = int.from_bytes(file[:8], "little")
    content = json.loads(file[8 : 8 + size])
    header = json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # arrays begin at a multiple of eight
    return len(header).to_bytes(8, "little") + header + file[8 + size :]


def load(
    path: str | os.PathLike[str], *, make: Callable[..., Any] | None = None
) -> Any:
    """Read a model that [`eqx_slots.serialisation.save`][] has written.

    **Arguments:**

    - `path`: The file.
    - `make`: What builds it, by any name, if no preset does. (Keyword only argument.)

    **Returns:**

    The model. A file that is no model of ours, has changed since it was saved or does
    not fit the builder is a `ValueError` that says so and what to do.

    **Example:**

    ```python
    import tempfile

    import equinox as eqx
    import jax.random as jr
    from eqx_slots import nn, serialisation

    layer = nn.SlotAttention(32, 64, num_slots=7, key=jr.key(0))
    arguments = {"input_size": 32, "slot_size": 64, "num_slots": 7}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/layer.safetensors"
        serialisation.save(path, layer, make=nn.SlotAttention, arguments=arguments)
        same = serialisation.load(path, make=nn.SlotAttention)
    print(eqx.tree_equal(same, layer))  # True
    ```
    """
    path = Path(path)
    metadata, arrays = _read(path)
    make = make or BUILDERS.get(metadata["make"])
    if make is None:
        raise ValueError(
            f"{path} was built by `{metadata['make']}`, which is not one of"
            f" {sorted(BUILDERS)}; pass that function as `make=`."
        )
    demand = f"{path} needs the function it was saved with as `make=`"
    blueprint = _blueprint(make, metadata["arguments"], demand)
    if differing := _differences(arrays, blueprint):
        raise ValueError(
            f"{demand}, and `jax_enable_x64` if it holds 64-bit numbers: {differing}."
        )
    return jax.tree_util.tree_map_with_path(
        lambda place, x: jnp.asarray(arrays[array_name(place)]) if is_array(x) else x,
        blueprint,
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays, from a file that is as `save` wrote it."""
    with needs_extra("weights", "`serialisation.load`"):
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
    found = metadata.get("format", "none")
    if found != _FORMAT or metadata.keys() != _METADATA:
        number = re.fullmatch("eqx_slots ([0-9]{1,9})", found)
        reason = "`serialisation.save` has not written it"
        if number and int(number[1]) > FORMAT_VERSION:
            reason = "a newer eqx_slots has written it: upgrade"
        raise ValueError(
            f"{path} must have the format {_FORMAT!r} with {sorted(_METADATA)}, found"
            f" {found!r} with {sorted(metadata)}; {reason}, or get the file again."
        )
    stated = metadata.pop("sha256")
    if (digest := digest_of(metadata, arrays)) != stated:
        raise ValueError(
            f"{path} was changed after saving: its SHA-256 digest should be {stated},"
            f" found {digest}; get the file again."
        )
    return metadata, arrays


def _replace(target: Path, data: bytes) -> None:
    """Put a file in its place once it is whole on the disk."""
    # In the same folder, where a rename is atomic, and under a name nobody else has.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)  # still there if one of these has failed
    sync_folder(target.parent)


def _plain(value: Any, place: str) -> Any:
    """What JSON gives back for a value: the same, with lists for tuples."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(x, f"{place}[{key!r}]") for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x, f"{place}[{i}]") for i, x in enumerate(value)]
    finite = not isinstance(value, float) or np.isfinite(value)
    if isinstance(value, (bool, int, float, str, type(None))) and finite:
        return value
    raise ValueError(
        f"`{place}` must be a finite number, string, boolean or None, or a list or"
        f" dictionary (by strings) of them, got {value!r}; JSON holds nothing else."
    )


def _storable(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays as safetensors takes them."""
    for name, leaf in leaves.items():
        if leaf.dtype.name not in _DTYPES:
            raise ValueError(
                f"`{name}` is {leaf.dtype}, which a file cannot hold; cast it to one of"
                f" {sorted(_DTYPES)} (of a typed PRNG key, keep `jax.random.key_data`)."
            )
    # Scrambled silently by safetensors if not contiguous.
    return {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}


def _blueprint(make: Callable[..., Any], written: str, demand: str) -> Any:
    """The model with shapes in place of arrays; nothing is computed."""
    try:
        build = lambda key: make(**json.loads(written), key=key)
        return eqx.filter_eval_shape(build, jr.key(0))
    except Exception as error:  # a builder may raise anything at what it cannot take
        raise ValueError(
            f"{demand}: with {written}, {getattr(make, '__name__', make)!r} raised"
            f" {type(error).__name__}: {error}"
        ) from error


def _differences(arrays: dict[str, np.ndarray], blueprint: Any) -> str:
    """How arrays differ from those of a model, in words; empty if they do not."""
    return differences(described(arrays), described(named_arrays(blueprint)))
