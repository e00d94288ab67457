"""Pictures that are arrays already: which axis is which, and what is white."""

from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange


_KINDS = ("uint8", "uint16", "float16", "float32", "float64")


def as_pixels(images: np.ndarray) -> np.ndarray:
    """`pictures height width channels`, whatever the order of the axes was."""
    if images.dtype.name not in _KINDS:
        raise ValueError(
            f"`images` must be of {', '.join(_KINDS)}, got {images.dtype}; numbers from"
            " 0 to 255 become bytes by `images.astype(np.uint8)`."
        )
    shape = images.shape
    if images.ndim == 3:
        images = rearrange(images, "n h w -> n h w 1")
    elif images.ndim == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        images = rearrange(images, "n channels h w -> n h w channels")
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            "`images` must be pictures height width, with 1 or 3 channels behind or"
            f" before the last two, got an array of shape {shape}."
        )
    if np.issubdtype(images.dtype, np.floating):
        least, most = float(np.min(images)), float(np.max(images))
        if not (0 <= least and most <= 1):
            cure = "(images + 1) / 2" if -1 <= least and most <= 1 else "images / 255"
            raise ValueError(
                f"`images` of floats must lie in [0, 1], got [{least:g}, {most:g}];"
                f" did you mean `{cure}`?"
            )
    return images


def as_labels(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Label maps of pictures of such a shape."""
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of the shape of the pictures, {shape}, got"
            f" {labels.dtype} of shape {labels.shape}."
        )
    return labels


def load(path: Path) -> Any:
    """An array mapped from its file, or several by name."""
    if not path.is_file():
        raise ValueError(f"`path` must be a file, there is none at {path}.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} must be a file of `numpy.save` or `numpy.savez`, without Python"
            f" objects in it: {error}"
        ) from error
