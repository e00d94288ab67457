"""The manifest of a checkpoint: what is in it, and digests that tell if it changed."""

import hashlib
import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from .._misc import sync_folder


MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_FORMAT = f"eqx_slots.training {FORMAT_VERSION}"


class CheckpointError(ValueError):
    """A checkpoint that could not be saved, or cannot be restored as it was saved.

    The message names the folder, what was expected, what was found and what to do.

    **Example:**

    ```python
    import tempfile

    import equinox as eqx
    import jax.random as jr
    from eqx_slots import training

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-3)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            training.Checkpoints(folder).restore(state)
        except training.CheckpointError as error:
            message = str(error)
    print("must hold a checkpoint" in message)  # True
    ```
    """


def versions() -> dict[str, str]:
    """What is running, as far as it decides what a state looks like."""
    return {"eqx_slots": version("eqx-slots"), "jax": jax.__version__}


def write_manifest(
    folder: Path, *, step: int, leaves: dict[str, str], sha256: str
) -> None:
    """Describe what is in a folder, and bring all of it to the disk.

    Orbax does not wait for the disk; after a power cut the files of a checkpoint might
    have their names but not their content.
    """
    files = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with path.open("r+b") as file:  # Windows syncs only what can be written
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = digest
        sync_folder(Path(place))
    content = {
        "format": _FORMAT,
        "step": step,
        "versions": versions(),
        "leaves": leaves,
        "leaves_sha256": sha256,
        "files": files,
    }
    content["sha256"] = _digest(content)
    with (folder / MANIFEST).open("x") as file:
        file.write(_written(content))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that is whole, else a `CheckpointError`."""
    path = folder / MANIFEST
    try:
        text = path.read_text()
        content = json.loads(text)
        found = content["format"]
        number = re.fullmatch(r"eqx_slots\.training ([0-9]{1,9})", found)
    # No text, no JSON, JSON of another kind: damaged or another program's.
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} must be the list of what is in a checkpoint, but cannot be read"
            f" ({type(error).__name__}: {error}): {folder} is damaged or no checkpoint."
        ) from error
    if number is None or int(number[1]) != FORMAT_VERSION:
        newer = number is not None and int(number[1]) > FORMAT_VERSION
        advice = "upgrade eqx_slots" if newer else "it is damaged or of another kind"
        raise CheckpointError(
            f"{folder} must have the format {_FORMAT!r}, found {found!r}: {advice}."
        )
    stated = content.pop("sha256", None)
    digest = _digest(content)
    # Of the text: a change that means the same is still a change.
    if text != _written(content | {"sha256": digest}):
        raise CheckpointError(
            f"{path} was changed after saving: it must be as it was written, with the"
            f" SHA-256 digest {stated}, found {digest}."
        )
    if str(content["step"]) != folder.name:
        raise CheckpointError(
            f"{folder} must hold step {folder.name}, found step {content['step']}: it"
            " was renamed."
        )
    return content


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse files that are not as they were saved, before anything parses them."""
    for name, stated in manifest["files"].items():
        path = folder / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{path} must be there, but cannot be read ({error}): the checkpoint is"
                " not whole."
            ) from error
        if digest != stated:
            raise CheckpointError(
                f"{path} was cut short or changed after saving: its SHA-256 digest"
                f" should be {stated}, found {digest}."
            )


def _written(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_written(content).encode()).hexdigest()
