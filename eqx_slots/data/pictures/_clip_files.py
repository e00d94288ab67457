"""Folders of frames and animated GIFs: found, decoded, and cut into clips."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from ._decode import decoded, Header, listed, look, Plan, prepare, record
from ._listing import check_folder, Files, maps, some


_FORMAT = ("GIF",)


class Recording(NamedTuple):
    """What clips are cut out of: a folder of pictures, or a GIF."""

    name: str
    files: list[str]
    heads: list[Header]
    masks: list[Path] | None

    @property
    def is_gif(self) -> bool:
        """Whether all frames are in one file, and not a picture each."""
        return self.files == [self.name]

    @property
    def frames(self) -> list[str]:
        """Their names."""
        if not self.is_gif:
            return self.files
        return [f"{self.name}[{number}]" for number in range(self.heads[0].num_frames)]


class Found(NamedTuple):
    """The recordings of a folder, their files, and pictures that are in none."""

    recordings: list[Recording]
    files: Files
    loose: list[str]

    @property
    def notes(self) -> list[str]:
        """What one might have taken for a clip."""
        if not self.loose:
            return []
        return [f"{some(self.loose, 'picture')}: lies in no folder of a clip."]


def find(root: Path, masks: Path | None, count: int | None) -> Found:
    """Look at the head of each file that has frames."""
    check_folder(root)
    pictures, others = listed(root, masks)
    by_name: dict[str, list[str]] = {}
    for name in sorted(pictures, key=natural):
        by_name.setdefault(PurePosixPath(name).parent.as_posix(), []).append(name)
    loose = by_name.pop(".", [])
    by_name |= {name: [name] for name in others if name.lower().endswith(".gif")}
    chosen = sorted(by_name, key=natural)[:count]
    if not chosen:
        few = f", but {some(loose, 'picture')}: put a clip's into one" if loose else ""
        raise ValueError(
            f"{root} must have a folder of frames for each clip, or animated GIFs;"
            f" found none{few}."
        )
    recordings = [_recording(root, masks, name, by_name[name]) for name in chosen]
    every = lambda field: [x for one in recordings for x in getattr(one, field)]
    files = Files(
        every("files"),
        every("heads"),
        None if masks is None else every("masks"),
        [name for name in others if name not in by_name],
    )
    return Found(recordings, files, loose)


def natural(name: str) -> tuple[list[str | int], str]:
    """To sort by: numbers by what they count, so that 9 comes before 10."""
    parts: list[str | int] = [*re.split(r"(\d+)", name)]
    parts[1::2] = map(int, parts[1::2])
    return parts, name  # of 1 and 01, too, one is the first


def _recording(
    root: Path, masks: Path | None, name: str, files: list[str]
) -> Recording:
    if files != [name]:
        heads = [look(root / file) for file in files]
        found = None if masks is None else maps(masks, files)
        return Recording(name, files, heads, found)
    if masks is not None:
        raise ValueError(
            f"`masks` must be of frames that are files, {name} has none: write what is"
            " in it as PNGs into a folder."
        )
    return Recording(name, files, [look(root / name, _FORMAT)], None)


def decoded_frames(
    root: Path, recordings: Sequence[Recording], plan: Plan
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """What is kept of each frame after the first few; of a broken one, why it is."""

    def decode_after(skip: int) -> Iterator[dict[str, np.ndarray]]:
        for one in recordings:
            paths = [root / file for file in one.files]
            if one.is_gif and not one.heads[0].problem:
                yield from _frames_of_gif(paths[0], plan, range(skip, len(one.frames)))
            else:
                yield from decoded(paths, one.heads, one.masks, plan)(skip)
            skip = max(0, skip - len(one.frames))

    return decode_after


def _frames_of_gif(
    path: Path, plan: Plan, numbers: range
) -> Iterator[dict[str, np.ndarray]]:
    """In one go: a frame is kept as what differs from the one before."""
    with Image.open(path, formats=_FORMAT) as image:
        for number in numbers:
            yield record(plan, partial(_frame, image, number, plan))


def _frame(image: Image.Image, number: int, plan: Plan) -> tuple[np.ndarray, None]:
    image.seek(number)
    return prepare(image, plan)[0], None


class Cut(NamedTuple):
    """Where clips begin among all frames, by name, and what was left out and why."""

    starts: list[int]
    names: list[str]
    skipped: dict[str, str]


def cut(
    recordings: Sequence[Recording], problems: Sequence[str], num_frames: int
) -> Cut:
    """As many clips of each recording as there are without a frame in two of them."""
    made, first = Cut([], [], {}), 0
    for one in recordings:
        frames = one.frames
        said = [
            f"{x} ({name})" if x else "" for name, x in zip(frames, problems[first:])
        ]
        for start in range(0, len(frames) - num_frames + 1, num_frames):
            name = f"{one.name}[{start}:{start + num_frames}]"
            problem = next(filter(None, said[start : start + num_frames]), "")
            if problem:
                made.skipped[name] = problem
            else:
                made.starts.append(first + start)
                made.names.append(name)
        if len(frames) < num_frames:
            few = f"of {num_frames} frames for a clip it has {len(frames)}"
            made.skipped[one.name] = next(filter(None, said), few)
        first += len(frames)
    return made
