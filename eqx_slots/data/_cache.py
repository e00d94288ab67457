"""Arrays of files and of backbones, made once and then mapped from the disk."""

import contextlib
import errno
import hashlib
import json
import mmap
import operator
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


_BLOCK = 64  # records between two notes of how far it has come
_VERSION = 1  # of what is kept; what another version has kept is decoded anew
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # as some of clusters


class Layout(NamedTuple):
    """What is kept of each record: arrays by name, their shapes and types."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    def size(self, name: str) -> int:
        """Bytes of one record."""
        return int(np.prod(self.shapes[name])) * np.dtype(self.dtypes[name]).itemsize


class Mapped(np.memmap):
    """Of a file: another process that is given it maps it too, and gets no copy."""

    def __reduce__(self) -> Any:
        """How to pickle it; a part of it goes as the numbers that it is."""
        if isinstance(self.base, mmap.mmap):
            order = "C" if self.flags.c_contiguous else "F"
            place = self.offset, self.shape, order
            return Mapped, (self.filename, self.dtype, "r", *place)
        return np.array(self).__reduce__()


def stamp_of(path: Path) -> dict[str, int]:
    """By which a file that has changed is told from what it was."""
    stat = path.stat()
    return {"size": stat.st_size, "time": stat.st_mtime_ns}


def cached(
    path: Path,
    stamp: Mapping[str, Any],
    options: Mapping[str, Any],
    layout: Layout,
    decode: Callable[[int], Iterator[dict[str, np.ndarray] | None]],
    most: int | None,
    *,
    cache: str | os.PathLike[str] | None,
    progress: Callable[[int], None] | None,
) -> dict[str, np.ndarray]:
    """The arrays of all records, one beside the other, mapped from the cache.

    `stamp` says whether what is at the path is still the same, such as size and time.
    `decode(skip)` gives the records after the first `skip`, None for one that is left
    out; `most` are kept. What was not in the cache is written beside it and moved there
    when it is whole; a writer that was stopped goes on where it was, and of two at once
    one waits for the other.
    """
    root = Path(cache) if cache is not None else _home()
    identity = {**stamp, "options": options, "version": _VERSION}
    of = [str(path.resolve()), identity]
    text = json.dumps(of, sort_keys=True, default=operator.index)  # NumPy's, too
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
    if not (folder / "done.json").exists():
        root.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_suffix(".lock")):
            if not (folder / "done.json").exists():
                write_once(folder, text, layout, decode, most, progress)
    count = json.loads((folder / "done.json").read_text())["records"]
    return {
        name: Mapped(folder / name, layout.dtypes[name], "r", shape=(count, *shape))
        if count
        else np.zeros((0, *shape), layout.dtypes[name])
        for name, shape in layout.shapes.items()
    }


def _home() -> Path:
    """Where caches go, by the custom of the desktop."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eqx_slots"


@contextlib.contextmanager
def alone(path: Path) -> Generator[None]:
    """One process at a time; where the system has no such locks, whoever comes."""
    with open(path, "w") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        yield


def unfinished_of(folder: Path) -> Path:
    """Where a folder is written."""
    return folder.with_name(f"{folder.name}.partial")


def write_once(
    folder: Path,
    text: str,
    layout: Layout,
    decode: Callable[[int], Iterator[dict[str, np.ndarray] | None]],
    most: int | None,
    progress: Callable[[int], None] | None,
    *,
    cure: str = "ask for fewer by `count`, or name another folder by `cache`",
) -> None:
    """Into a folder beside this one, which becomes it when all is there."""
    unfinished = unfinished_of(folder)
    unfinished.mkdir(exist_ok=True)
    note = unfinished / "state.json"
    done = json.loads(note.read_text()) if note.exists() else {"seen": 0, "records": 0}
    seen, count = done["seen"], done["records"]
    try:
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(open(unfinished / name, "ab"))
                for name in layout.shapes
            }
            for name, file in files.items():
                file.truncate(count * layout.size(name))  # of a block half written
            for record in decode(seen):
                if count == most:
                    break
                seen += 1
                if record is not None:
                    for name, file in files.items():
                        file.write(record[name].astype(layout.dtypes[name]).tobytes())
                    count += 1
                if seen % _BLOCK == 0:
                    _note(files.values(), note, {"seen": seen, "records": count})
                    if progress is not None:
                        progress(count)
            _note(files.values(), note, {"seen": seen, "records": count})
        whole = {"records": count, "of": json.loads(text)}
        (unfinished / "done.json").write_text(json.dumps(whole))
        os.replace(unfinished, folder)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        size = sum(map(layout.size, layout.shapes))
        raise OSError(
            error.errno,
            f"The cache {unfinished} could not be written after {count} records of"
            f" {size:,} bytes each ({error.strerror}); the next call goes on there."
            f" Make room, {cure}",
        ) from error


def _note(files: Any, note: Path, done: Mapping[str, int]) -> None:
    """How many records are on the disk for certain."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_note(note, done)


def write_note(note: Path, content: Mapping[str, Any]) -> None:
    """As JSON, whole or not at all: a full disk leaves no half of it."""
    partial = note.with_suffix(".new")
    partial.write_text(json.dumps(content))
    os.replace(partial, note)
