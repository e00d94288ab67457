import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from ..._misc import check_positive, needs_extra
from .._record_files import Path_
from ._pictures import Pictures


class Clip(NamedTuple):
    """Some frames of a video, and the truth about them where that is known.

    **Fields:**

    - `images`: Colours in [0, 1], `frames channels height width`.
    - `segmentation`: Integers, 0 for background, `frames height width`; None without
        masks.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    frames = pictures.arrays(np.zeros((12, 32, 48, 3), np.uint8))
    images, segmentation = pictures.Clips(frames, [0, 6], num_frames=6)[1]
    print(images.shape, segmentation)  # (6, 3, 32, 48) None
    ```
    """

    images: Float[Array | np.ndarray, "frames channels height width"]
    segmentation: Int[Array | np.ndarray, "frames height width"] | None = None


class Clips(Sequence[Clip]):
    """Clips of one size and length, in an order that stays.

    `clips[i]` is a [`eqx_slots.data.pictures.Clip`][] of NumPy arrays: a source for
    [`eqx_slots.training.host_batches`][], as
    [`eqx_slots.data.pictures.Pictures`][] are.

    **Fields:**

    - `frames`: Of all clips, as pictures.
    - `starts`: Which of them is the first of each clip; the next ones follow it.
    - `num_frames`: Of each clip.
    - `names`: Of the clips; numbers where there are none.
    - `skipped`: What was left out, and why, by name.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import pictures

    frames = pictures.arrays(np.zeros((12, 32, 48, 3), np.uint8))
    source = pictures.Clips(frames, range(7), num_frames=6)  # these overlap
    print(len(source), source[6].images.shape)  # 7 (6, 3, 32, 48)
    ```
    """

    frames: Pictures
    starts: NDArray[Any]
    num_frames: int
    names: tuple[str, ...]
    skipped: dict[str, str]

    def __init__(
        self,
        frames: Pictures,
        starts: Sequence[int] | NDArray[Any],
        *,
        num_frames: int,
        names: Sequence[str] | None = None,
        skipped: Mapping[str, str] | None = None,
    ):
        """**Arguments:** the fields. A clip that begins where too few frames are left
        is a `ValueError`.
        """
        check_positive(num_frames=num_frames)
        self.frames, self.num_frames = frames, num_frames
        self.starts = np.asarray(starts, int)
        last = len(frames) - num_frames
        if np.any((self.starts < 0) | (self.starts > last)):
            raise ValueError(
                f"`starts` of clips of {num_frames} frames, of {len(frames)} in all,"
                f" must lie from 0 to {last}, got {self.starts.tolist()}."
            )
        self.names = tuple(map(str, self.starts)) if names is None else tuple(names)
        self.skipped = dict(skipped or {})

    def __len__(self) -> int:
        """How many clips."""
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        """A clip, or a list of them of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = self.starts[index]
        images, labels = zip(*self.frames[start : start + self.num_frames])
        return Clip(np.stack(images), None if labels[0] is None else np.stack(labels))

    def take(self, index: Any) -> "Clips":
        """Some of the clips, such as those to train on; nothing is copied.

        **Arguments:**

        - `index`: Their numbers, or a slice.

        **Returns:**

        The clips, in that order.
        """
        return Clips(
            self.frames,
            self.starts[index],
            num_frames=self.num_frames,
            names=np.asarray(self.names, dtype=object)[index].tolist(),
            skipped=self.skipped,
        )


def clips(
    path: Path_,
    *,
    num_frames: int,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    masks: Path_ | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Callable[[int], None] | None = None,
) -> Clips:
    """The videos of a folder: folders of frames in it, and animated GIFs.

    Each folder of PNG, JPEG or WebP files, however deep, is one video, and so is each
    GIF. Frames, and videos, are in the natural order of their names, in which numbers
    count: `frame_9.png` comes before `frame_10.png`. A video is cut into as many clips
    as there are in it, one after the other; what is left at its end is not used.
    `walk[6:12]` is the name of the second clip of six frames of `walk`.

    Pictures are read as by [`eqx_slots.data.pictures.folder`][]. GIFs count as colour.

    **Arguments:**

    - `path`: The folder.
    - `num_frames`: Of a clip. (Keyword only argument, as all that follow.) The cache is
        the same for any.
    - `image_size`, `fit`, `channels`, `cache`: As in
        [`eqx_slots.data.pictures.folder`][].
    - `masks`: A folder with a label map for each frame, as there; GIFs have none.
    - `count`: How many of the videos, the first by name; `None` means all.
    - `progress`: Called with the number of frames decoded so far, now and then.

    **Returns:**

    [`eqx_slots.data.pictures.Clips`][]. Videos of too few frames, and clips with a
    frame that is broken, too small or huge, are left out: a `RuntimeWarning` counts
    them, `skipped` says why of each. A `ValueError` says so if none are left, or if
    sizes or channels differ and none was asked for. `frames.notes` tells of pictures
    that lie beside the folders, and so are no frames.

    **Example:**

    ```python
    import tempfile

    from eqx_slots.data import pictures
    from PIL import Image

    with tempfile.TemporaryDirectory() as path:
        one, *others = [Image.new("RGB", (80, 60), (9 * i, 0, 0)) for i in range(8)]
        one.save(f"{path}/dawn.gif", save_all=True, append_images=others)
        options = {"image_size": (24, 32), "cache": f"{path}/.cache"}
        source = pictures.clips(path, num_frames=4, **options)
        print(source.names)  # ('dawn.gif[0:4]', 'dawn.gif[4:8]')
        print(source[0].images.shape)  # (4, 3, 24, 32)
    ```
    """
    with needs_extra("data", "`pictures.clips`"):
        from . import _clip_files as inside, _listing as listing

    check_positive(num_frames=num_frames)
    if count is not None:
        check_positive(count=count)
    root, maps = Path(path), None if masks is None else Path(masks)
    found = inside.find(root, maps, count)
    plan = listing.planned(root, found.files, image_size, channels, fit)
    decode = inside.decoded_frames(root, found.recordings, plan)
    options: dict[str, Any] = {"cache": cache, "progress": progress}
    arrays = listing.read(root, found.files, plan, of="clips", decode=decode, **options)
    problems = [said.decode(errors="replace") for said in arrays["problem"].tolist()]
    starts, names, skipped = inside.cut(found.recordings, problems, num_frames)
    if skipped:
        total = len(starts) + len(skipped)
        sentence = listing.left_out(root, skipped, total, "clips")
        if not starts:
            raise ValueError(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    every = [name for one in found.recordings for name in one.frames]
    frames = Pictures(
        arrays["image"],
        arrays.get("labels"),
        names=every,
        skipped={name: said for name, said in zip(every, problems) if said},
        notes=[*listing.notes(found.files), *found.notes],
    )
    return Clips(frames, starts, num_frames=num_frames, names=names, skipped=skipped)
