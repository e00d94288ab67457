"""From a file of Multi-Object Datasets to arrays: read, cut, resized and kept."""

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from .._misc import check_positive
from ._cache import cached, Layout, stamp_of
from ._tfrecord import Field, parse, read


Path_ = str | os.PathLike[str]
Progress = Callable[[int], None] | None
Arrays = dict[str, np.ndarray]
# Of the Slot Attention paper: so many records are trained on, before any is left out.
TRAINED_ON = {
    "tetrominoes": 60_000,
    "multi_dsprites": 60_000,
    "clevr_with_masks": 70_000,
}
TESTED_ON = 320  # scenes, those that follow


def choice(name: str, value: str, choices: Mapping[str, int]) -> int:
    """What a name stands for; a `ValueError` lists those there are."""
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
    return choices[value]


def schema_of(
    size: tuple[int, int],
    channels: int,
    entities: int,
    floats: Mapping[str, tuple[int, ...]],
) -> dict[str, Field]:
    """Image, masks, and a number or more for each entity."""
    pictures = {
        "image": Field((*size, channels), is_bytes=True),
        "mask": Field((entities, *size, 1), is_bytes=True),
    }
    return pictures | {name: Field((entities, *s)) for name, s in floats.items()}


def arrays_of(
    path: Path_,
    schema: Mapping[str, Field],
    options: Mapping[str, object],
    *,
    count: int | None,
    cache: Path_ | None,
    progress: Progress,
    split: str | None = None,
    num_train: int = 0,
    image_size: tuple[int, int] | None = None,
    prepare: Callable[[Arrays], Arrays | None] = lambda scene: scene,
) -> Arrays:
    """`image`, `labels` and the other features of all scenes of a file.

    `prepare` makes images of `image_size` of what is in a record, or None of one that
    is left out; `options` say all that it depends on. `split` is of `num_train` records
    to train on.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file, there is none at {path}.")
    if count is not None:
        check_positive(count=count)
    start, stop, count = _part(split, num_train, count)
    height, width, channels = schema["image"].shape
    size = image_size or (height, width)
    kept = {n: field for n, field in schema.items() if n not in ("image", "mask")}
    layout = Layout(
        {"image": (*size, channels), "labels": size}
        | {name: field.shape for name, field in kept.items()},
        {"image": "u1", "labels": "u1"}
        | {name: "u1" if field.is_bytes else "<f4" for name, field in kept.items()},
    )

    def decode(skip: int) -> Iterator[Arrays | None]:
        for number, record in enumerate(islice(read(path), stop)):
            if number >= start + skip:
                yield prepare(_labelled(parse(record, schema, path, number)))

    known = {**options, "size": size, "count": count}
    known |= {} if split is None else {"split": split}
    where: dict[str, Any] = {"cache": cache, "progress": progress}
    arrays = cached(path, stamp_of(path), known, layout, decode, count, **where)
    if start and not len(arrays["image"]):
        raise ValueError(
            f"{path} has no scene after the first {num_train}, where the split"
            ' "test" begins; of a shorter file, take a slice.'
        )
    return arrays


def _part(
    split: str | None, num_train: int, count: int | None
) -> tuple[int, int | None, int | None]:
    """First record, the one after the last, and how many scenes are kept at most."""
    if split is None:
        return 0, None, count
    choice("split", split, {"train": num_train, "test": TESTED_ON})
    if split == "train":
        return 0, num_train, count
    return num_train, None, min(count or TESTED_ON, TESTED_ON)


def cut_and_resized(
    scene: Arrays,
    rows: tuple[int, int],
    columns: tuple[int, int],
    size: tuple[int, int],
) -> Arrays:
    """The scene with a part of its picture, in another size."""
    part = slice(*rows), slice(*columns)
    image, labels = bilinear(scene["image"][part], size), scene["labels"][part]
    return scene | {"image": image, "labels": nearest(labels, size)}


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Between the middles of pixels, without blurring before."""
    result = image.astype(np.float32)
    for axis, length in enumerate(size):
        side = result.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * side / length - 0.5, 0, side - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, side - 1)
        share = (at - low).astype(np.float32)
        share = share.reshape([-1 if i == axis else 1 for i in range(3)])
        below, above = (np.take(result, index, axis=axis) for index in (low, high))
        result = below + share * (above - below)
    return np.round(result).astype(np.uint8)


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixel in which the middle of each new one lies."""
    rows, columns = (
        ((np.arange(length) + 0.5) * side / length).astype(int)
        for length, side in zip(size, labels.shape)
    )
    return labels[rows][:, columns]


def _labelled(scene: Arrays) -> Arrays:
    """The masks of all entities as one map; the first has what nobody has."""
    masks = scene.pop("mask")[..., 0]
    if masks.shape[:2] == scene["image"].shape[:2]:  # of Multi-dSprites
        masks = rearrange(masks, "h w entities -> entities h w")
    return scene | {"labels": np.argmax(masks, axis=0).astype(np.uint8)}
