"""One's own pictures: a folder, an archive, arrays, a dataset, as a source of examples.

`pictures.folder(path)[0].image` is the first picture of a folder, as models want it:
channels first, in [0, 1]. Files are decoded once, into a cache on the disk, from which
they are then read in any order: [`eqx_slots.training.host_batches`][] makes batches.
Reading files needs Pillow, `pip install "eqx-slots[data]"`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from .._misc import check_positive, needs_extra
from ._picture_arrays import as_labels, as_pixels, load
from ._record_files import Path_


class Picture(NamedTuple):
    """A picture, and the truth about it where that is known.

    **Fields:**

    - `image`: Colours in [0, 1], `channels height width`.
    - `segmentation`: Integers, 0 for background, `height width`; None without masks.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    image, segmentation = pictures.arrays(np.zeros((2, 32, 48, 3), np.uint8))[0]
    print(image.shape, segmentation)  # (3, 32, 48) None
    ```
    """

    image: Float[Array | np.ndarray, "channels height width"]
    segmentation: Int[Array | np.ndarray, "height width"] | None = None


class Pictures(Sequence[Picture]):
    """Pictures of one size, in an order that stays.

    `pictures[i]` is a [`eqx_slots.data.pictures.Picture`][] of NumPy arrays. It has
    random access, and so is a source for [`eqx_slots.training.host_batches`][], for
    Grain and for PyTorch as it is.

    **Fields:**

    - `pixels`: All of them, `pictures height width channels`: bytes, 16-bit integers,
        or floats in [0, 1].
    - `labels`: All masks as label maps, `pictures height width`, or None.
    - `names`: Of the files, in the order of the pictures; numbers where there are none.
    - `skipped`: What was left out, and why, by name.
    - `notes`: What else is to be known of the files, a sentence each.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    source = pictures.Pictures(np.full((2, 32, 48, 3), 51, np.uint8))
    print(len(source), source[1].image.shape)  # 2 (3, 32, 48)
    ```
    """

    pixels: NDArray[Any]
    labels: NDArray[Any] | None
    names: tuple[str, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...]

    def __init__(
        self,
        pixels: NDArray[Any],
        labels: NDArray[Any] | None = None,
        *,
        names: Sequence[str] | None = None,
        rows: Sequence[int] | NDArray[Any] | None = None,
        skipped: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ):
        """**Arguments:** the fields, and

        - `rows`: Which pixels and labels are pictures; `None` means all. (Keyword only
            argument.)
        """
        self.pixels, self.labels = pixels, labels
        self._rows = np.arange(len(pixels)) if rows is None else np.asarray(rows)
        self.names = tuple(map(str, self._rows)) if names is None else tuple(names)
        self.skipped, self.notes = dict(skipped or {}), tuple(notes)
        # The whole that a channel is a part of.
        is_float = np.issubdtype(pixels.dtype, np.floating)
        self._white = 1.0 if is_float else float(np.iinfo(pixels.dtype).max)

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A picture, or a list of them of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        image: Any = rearrange(self.pixels[row], "h w channels -> channels h w")
        labels: Any = None if self.labels is None else self.labels[row]
        return Picture(
            image.astype(np.float32) / np.float32(self._white),
            None if labels is None else labels.astype(np.int32),
        )

    def take(self, index: Any) -> "Pictures":
        """Some of the pictures, such as those to train on; nothing is copied.

        **Arguments:**

        - `index`: Their numbers, or a slice.

        **Returns:**

        The pictures, in that order.
        """
        rows = self._rows[index]
        names = np.asarray(self.names, dtype=object)[index].tolist()
        return Pictures(
            self.pixels,
            self.labels,
            names=names,
            rows=rows,
            skipped=self.skipped,
            notes=self.notes,
        )


def folder(
    path: Path_,
    *,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    masks: Path_ | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pictures:
    """The PNG, JPEG and WebP files of a folder and of its subfolders.

    They are in the order of their paths, so that equal names in two subfolders are two
    pictures; hidden files and folders are not looked at. Grays of 16 bits stay exact,
    colours of 16 bits are read as 8. Palettes and CMYK become RGB, what is transparent
    lies on black, EXIF turns pictures, and of an animation the first frame is taken.
    Whatever is read otherwise than one might think is among the `notes`.

    **Arguments:**

    - `path`: The folder.
    - `image_size`: Height and width, or the side of a square, that all get; `None` is
        the size that they have, if it is the same. (Keyword only argument, as all that
        follow.)
    - `fit`: How they get it: `"crop"` cuts the largest part of that shape out of the
        middle, `"stretch"` takes all of it, `"pad"` takes all of it and fills up with
        black. Sizes are changed by averaging over what becomes a pixel. The first two
        never enlarge.
    - `channels`: 3, or 1 for grays; `None` is what the pictures have, if it is the
        same.
    - `masks`: A folder with a label map for each picture, by the same path but as a
        PNG, gray or with a palette: whole numbers, 0 for background, 255 at most. They
        are for scores; no training looks at them.
    - `count`: How many of the files, the first by path; `None` means all.
    - `cache`: Folder of the decoded pictures; `None` is `eqx_slots` in
        `XDG_CACHE_HOME`, or in `~/.cache`. The cache of other files, or of the same
        with other options, is another; what is there can be deleted at any time.
    - `progress`: Called with the number of files decoded so far, now and then.

    **Returns:**

    [`eqx_slots.data.pictures.Pictures`][]. Files that are broken, too small, or huge as
    only a forged file is, are left out: a `RuntimeWarning` counts them, `skipped` says
    why of each. A `ValueError` says so if there are none, or if sizes or channels
    differ and none was asked for.

    **Example:**

    ```python
    import tempfile

    import numpy as np
    from eqx_slots.data import pictures
    from PIL import Image

    with tempfile.TemporaryDirectory() as path:
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(f"{path}/black.png")
        source = pictures.folder(path, image_size=(24, 32), cache=f"{path}/.cache")
        print(source.names, source[0].image.shape)  # ('black.png',) (3, 24, 32)
    ```
    """
    with needs_extra("data", "`pictures.folder`"):
        from . import _picture_folder as inside

    if channels not in (None, 1, 3):
        raise ValueError(f"`channels` must be 1, 3 or None, got {channels!r}.")
    if count is not None:
        check_positive(count=count)
    root, maps = Path(path), None if masks is None else Path(masks)
    files = inside.find(root, maps, count)
    plan = inside.planned(root, files, _pair(image_size), channels, fit)
    arrays = inside.read(root, files, plan, cache=cache, progress=progress)
    problems = [head.problem for head in files.heads]
    for row, said in enumerate(arrays.pop("problem").tolist()):
        problems[row] = problems[row] or said.decode(errors="replace")
    skipped = {name: said for name, said in zip(files.names, problems) if said}
    if skipped:
        sentence = inside.left_out(root, skipped, len(problems))
        if len(skipped) == len(problems):
            raise ValueError(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    rows = [row for row, said in enumerate(problems) if not said]
    return Pictures(
        arrays["image"],
        arrays.get("labels"),
        names=[files.names[row] for row in rows],
        rows=rows,
        skipped=skipped,
        notes=inside.notes(files),
    )


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
    loaded: Any = load(Path(path))
    if isinstance(loaded, np.ndarray):
        if images is not None or labels is not None:
            raise ValueError(
                f"{path} is one array without a name; leave out `images` and `labels`."
            )
        return arrays(loaded)
    names = list(loaded)
    if images is None and len(names) == 1:
        images = names[0]
    for argument, name in (("images", images), ("labels", labels)):
        if name not in names and not (argument == "labels" and name is None):
            raise ValueError(f"`{argument}` must be one of {names}, got {name!r}.")
    return arrays(loaded[images], None if labels is None else loaded[labels])


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
        from ._picture_folder import of_rows

    size = len(rows) if count is None else min(count, len(rows))
    check_positive(rows=size, channels=channels)
    return Pictures(of_rows(rows, size, image, _pair(image_size), channels, fit))


def _pair(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    one = isinstance(image_size, int)
    height, width = (image_size, image_size) if one else image_size
    check_positive(height=height, width=width)
    return height, width
