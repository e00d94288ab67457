"""Pictures that are in memory, or in one file: which axis is which, what is white."""

from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from ..._misc import check_positive, needs_extra
from .._numpy_files import entry, load
from .._record_files import Path_
from ._pictures import Pictures


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
    if images.size == 0:
        raise ValueError(f"`images` must hold pixels, got an array of shape {shape}.")
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


def arrays(images: Any, labels: Any = None) -> Pictures:
    """Pictures that are in memory.

    **Arguments:**

    - `images`: An array of `pictures height width`, `pictures height width channels` or
        `pictures channels height width`, with 1 or 3 channels: bytes, 16-bit integers,
        or floats in [0, 1].
    - `labels`: Their masks as label maps, `pictures height width`, integers with 0 for
        background.

    **Returns:**

    [`eqx_slots.data.pictures.Pictures`][]. Arrays of other shapes, types or ranges are
    a `ValueError`.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    source = pictures.arrays(np.full((2, 32, 48), 255, np.uint8))
    print(source[0].image.shape, source[0].image.max())  # (1, 32, 48) 1.0
    ```
    """
    pixels = as_pixels(np.asanyarray(images))
    if labels is None:
        return Pictures(pixels)
    return Pictures(pixels, as_labels(np.asarray(labels), pixels.shape[:3]))


def archive(
    path: Path_, *, images: str | None = None, labels: str | None = None
) -> Pictures:
    """The pictures of a file of NumPy's: `*.npy`, mapped, or `*.npz`, read.

    **Arguments:**

    - `path`: The file. It is read without pickle.
    - `images`: Which array of an `*.npz`, as [`eqx_slots.data.pictures.arrays`][] takes
        it; `None` is the only one. (Keyword only argument.)
    - `labels`: Which are the label maps, if any. (Keyword only argument.)

    **Returns:**

    [`eqx_slots.data.pictures.Pictures`][]. A name that is not there is a `ValueError`
    that lists those that are.

    **Example:**

    ```python
    import tempfile

    import numpy as np
    from eqx_slots.data import pictures

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pictures.npz"
        np.savez(path, x=np.zeros((2, 32, 48), np.uint8))
        source = pictures.archive(path, images="x")
    print(len(source), source[0].image.shape)  # 2 (1, 32, 48)
    ```
    """
    loaded = load(Path(path))
    if isinstance(loaded, np.ndarray):
        if images is not None or labels is not None:
            raise ValueError(
                f"{path} is one array without a name; leave out `images` and `labels`."
            )
        return arrays(loaded)
    with loaded:
        names = list(loaded)
        if images is None and len(names) == 1:
            images = names[0]
        for argument, name in (("images", images), ("labels", labels)):
            if name not in names and not (argument == "labels" and name is None):
                raise ValueError(f"`{argument}` must be one of {names}, got {name!r}.")
        read = lambda name: None if name is None else entry(Path(path), loaded, name)
        return arrays(read(images), read(labels))


def dataset(
    rows: Any,
    image: str = "image",
    *,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int = 3,
    count: int | None = None,
) -> Pictures:
    """The pictures of a dataset whose rows are dictionaries, read into memory.

    Such as one of Hugging Face's `datasets`: whatever has `len(rows)` and `rows[i]`.

    **Arguments:**

    - `rows`: The dataset.
    - `image`: The column of the pictures: Pillow's, or arrays of bytes.
    - `image_size`, `fit`, `count`: As in [`eqx_slots.data.pictures.folder`][]; without
        `image_size`, that of the first. (Keyword only arguments.)
    - `channels`: 3, or 1 for grays. (Keyword only argument.)

    **Returns:**

    [`eqx_slots.data.pictures.Pictures`][], in bytes. A row that has no such picture is
    a `ValueError` that names it.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    rows = [{"image": np.full((60, 80, 3), i, np.uint8)} for i in range(4)]
    source = pictures.dataset(rows, image_size=(24, 32))
    print(len(source), source[3].image.shape)  # 4 (3, 24, 32)
    ```
    """
    with needs_extra("data", "`pictures.dataset`"):
        from ._listing import of_rows

    if count is not None:
        check_positive(count=count)
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3, got {channels!r}.")
    size = len(rows) if count is None else min(count, len(rows))
    check_positive(rows=size)
    return Pictures(of_rows(rows, size, image, image_size, channels, fit))
