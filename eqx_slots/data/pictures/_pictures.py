from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray


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
