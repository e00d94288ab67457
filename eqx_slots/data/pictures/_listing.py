"""A folder of pictures as a whole: what is in it, what all of it becomes, and notes."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..._misc import sides
from .._cache import cached, Layout
from ._decode import decoded, FITS, Header, listed, look, Plan, prepare, SUFFIXES


class Files(NamedTuple):
    """The pictures of a folder by name, and what else is there."""

    names: list[str]
    heads: list[Header]
    masks: list[Path] | None
    others: list[str]


def find(root: Path, masks: Path | None, count: int | None) -> Files:
    """Look at the head of each picture of a folder."""
    check_folder(root)
    names, others = listed(root, masks)
    names = names[:count]
    if not names:
        few = f", {some(others, 'file')} of other kinds" if others else ""
        raise ValueError(
            f"{root} must have pictures in it or its subfolders, files that end in"
            f" {', '.join(SUFFIXES)}; found none{few}."
        )
    heads = [look(root / name) for name in names]
    return Files(names, heads, None if masks is None else maps(masks, names), others)


def check_folder(root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"`path` must be a folder, there is none at {root}.")


def maps(masks: Path, names: Sequence[str]) -> list[Path]:
    """The label maps of pictures; each has to have one."""
    paths = [(masks / name).with_suffix(".png") for name in names]
    missing = [name for name, path in zip(names, paths) if not path.is_file()]
    if missing:
        wanted = (masks / missing[0]).with_suffix(".png")
        raise ValueError(
            f"`masks` must have a label map for each picture, {len(missing)} have none:"
            f" {missing[0]} needs {wanted}."
        )
    return paths


def planned(
    root: Path,
    files: Files,
    image_size: int | tuple[int, int] | None,
    channels: int | None,
    fit: str,
) -> Plan:
    """What all pictures become; where they differ, somebody has to say."""
    size = None if image_size is None else sides(image_size)
    heads = [head for head in files.heads if not head.problem]
    if channels not in (None, 1, 3):
        raise ValueError(f"`channels` must be 1, 3 or None, got {channels!r}.")
    _check_fit(fit)
    sizes = Counter(head.size for head in heads)
    if size is None and len(sizes) > 1:
        (height, width), times = sizes.most_common(1)[0]
        raise ValueError(
            f"The pictures of {root} have {len(sizes)} sizes, most often"
            f" {height} x {width} ({times} of {len(heads)}); give them one by"
            " `image_size=(height, width)`."
        )
    grays = sum(head.is_gray for head in heads)
    if channels is None and 0 < grays < len(heads):
        raise ValueError(
            f"The pictures of {root} have mixed channels, {grays} are gray and"
            f" {len(heads) - grays} in colour: `channels=3` makes all of them colour,"
            " `channels=1` gray."
        )
    channels = channels or (1 if grays else 3)
    is_deep = channels == 1 and any(head.is_deep for head in heads)
    return Plan(size or next(iter(sizes), (1, 1)), channels, is_deep, fit)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        listed = ", ".join(f'"{one}"' for one in FITS)
        raise ValueError(f"`fit` must be one of {listed}, got {fit!r}.")


def read(
    root: Path,
    files: Files,
    plan: Plan,
    *,
    of: str = "pictures",
    decode: Callable[[int], Iterator[dict[str, Any]]] | None = None,
    cache: str | os.PathLike[str] | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """The pixels of all files, of the broken ones zeros and what is wrong."""
    paths = [root / name for name in files.names]
    decode = decode or decoded(paths, files.heads, files.masks, plan)
    layout = Layout(
        {"image": (*plan.size, plan.channels), "problem": ()}
        | ({} if files.masks is None else {"labels": plan.size}),
        {"image": plan.dtype, "problem": "S200", "labels": "u1"},
    )
    stamp: dict[str, Any] = {"files": _digest(root, [*paths, *(files.masks or [])])}
    # What was no picture may be one now by no change of its own: by Pillow's limit of
    # pixels, or by the right to read it.
    if problems := [head.problem for head in files.heads if head.problem]:
        stamp["problems"] = problems
    options = {"of": of, "masks": files.masks is not None, "plan": plan}
    where: dict[str, Any] = {"cache": cache, "progress": progress}
    return cached(root, stamp, options, layout, decode, None, **where)


def _digest(root: Path, paths: Sequence[Path]) -> str:
    """Of the names, sizes and times of files: other files, or changed ones, differ."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            stat = path.stat()
            said = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError as error:  # such as of a link to nothing
            said = f"{error.errno}"
        name = os.fsencode(os.path.relpath(path, root))  # which need not be Unicode
        digest.update(name + f"\0{said}\0".encode())
    return digest.hexdigest()


def left_out(
    root: Path, skipped: Mapping[str, str], total: int, what: str = "pictures"
) -> str:
    """That, how many, and of the first why."""
    name, reason = next(iter(skipped.items()))
    return (
        f"{len(skipped)} of {total} {what} of {root} are left out, such as {name}:"
        f" {reason}."
    )


def notes(files: Files) -> list[str]:
    """What is read otherwise than one might think."""
    by_remark: dict[str, list[str]] = {}
    for name, head in zip(files.names, files.heads):
        for remark in head.remarks:
            by_remark.setdefault(remark, []).append(name)
    found = [f"{some(names, 'picture')}: {x}." for x, names in by_remark.items()]
    if files.others:
        found.append(f"{some(files.others, 'file')}: of no kind that is read.")
    return found


def some(names: Sequence[str], what: str) -> str:
    """How many, and the first."""
    if len(names) == 1:
        return f"1 {what}, {names[0]}"
    return f"{len(names)} {what}s, such as {names[0]}"


def of_rows(
    rows: Any,
    number: int,
    column: str,
    image_size: int | tuple[int, int] | None,
    channels: int,
    fit: str,
) -> np.ndarray:
    """The pictures in a column of a dataset, one beside the other."""
    size = None if image_size is None else sides(image_size)
    _check_fit(fit)
    made: list[np.ndarray] = []
    for index in range(number):
        try:
            image = ImageOps.exif_transpose(_of_pillow(rows[index][column]))
            size = size or (image.height, image.width)
            made.append(prepare(image, Plan(size, channels, False, fit))[0])
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"Row {index} must have a picture of Pillow's or an array of bytes in"
                f" column {column!r}: {error}."
            ) from error
    return np.stack(made)


def _of_pillow(image: Any) -> Image.Image:
    """A picture, or an array of bytes; none that Pillow would cut off at 255."""
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype.name not in ("bool", "uint8", "uint16"):
            raise ValueError(f"it is an array of {array.dtype}")
        is_colour = array.ndim == 3 and array.shape[2] in (3, 4)
        image = Image.fromarray(array if is_colour else np.squeeze(array))
    if image.mode[0] in "IF" and image.mode != "I;16":
        raise ValueError(f"it is of mode {image.mode}, of which no value is white")
    return image
