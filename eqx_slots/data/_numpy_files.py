"""Files of `numpy.save` and `numpy.savez`, read without pickle."""

import contextlib
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from ._cache import Mapped


def load(path: Path) -> Any:
    """An array mapped from its file, or several by name, to be read by `entry` and
    then closed."""
    if not path.is_file():
        raise ValueError(f"`path` must be a file, there is none at {path}.")
    with _whole(path):
        if _is_zip(path):  # NumPy would leave a broken one open
            zipfile.ZipFile(path).close()
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.memmap):
        return loaded
    order = "C" if loaded.flags.c_contiguous else "F"
    place = loaded.offset, loaded.shape, order
    return Mapped(path.absolute(), loaded.dtype, "r", *place)


def entry(path: Path, loaded: Any, name: str) -> np.ndarray:
    """One of several arrays."""
    with _whole(path):
        return loaded[name]


def load_one(path: Path) -> np.ndarray:
    """The array of a file that has no other."""
    loaded = load(path)
    if not isinstance(loaded, np.ndarray):
        with loaded:
            names = ", ".join(loaded)
        raise ValueError(
            f"{path} must be a file of `numpy.save`, got one of `numpy.savez` that has"
            f" {names}: save one of them by `numpy.save`."
        )
    return loaded


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


@contextlib.contextmanager
def _whole(path: Path) -> Generator[None]:
    try:
        yield
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be a file of `numpy.save` or `numpy.savez`, whole and without"
            f" Python objects in it: {error}"
        ) from error
