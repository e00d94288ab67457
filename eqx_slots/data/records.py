"""The files of Multi-Object Datasets (Kabra et al. 2019) and of CLEVR, read without
TensorFlow.

`records.tetrominoes(path)[0]` is the first scene of a file, as the painters of this
room give them, in NumPy. A file is decoded once, into a cache on the disk, from which
scenes are then read in any order; nothing is downloaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from .._misc import sides
from ._clevr import (
    Annotated as Annotated,
    clevr as clevr,
    Contents as Contents,
    elements as elements,
)
from ._record_files import (
    Arrays,
    arrays_of,
    choice,
    cut_and_resized,
    Path_,
    Progress,
    schema_of,
    TRAINED_ON,
)
from ._scene import Scene
from ._tfrecord import Field


SPRITES = {"binarized": 4, "colored_on_grayscale": 6, "colored_on_colored": 5}
"""The kinds of Multi-dSprites, and how many entities each has with the background."""
ROOMS = {"train": 7, "six_objects": 10, "empty_room": 4, "identical_color": 10}
"""The files of Objects Room, and how many entities each has with four of background."""


class Entities(NamedTuple):
    """What a file says of the objects of a scene, one row each, without the background.

    **Fields:**

    - `present`: Whether a pixel of it is seen, after cropping, `objects`.
    - `properties`: What the file has besides, by its own names, such as `x`, `shape`
        or `visibility`, `objects ...`. `visibility` is 1 for objects there are, seen or
        not.
    - `parts`: Of Objects Room, a label map in which sky, floor and walls, which are 0
        in `Scene.segmentation`, are 0 to 3 and objects count from 4, `height width`.
        None of others.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import records

    present = np.array([True, True, False])
    entities = records.Entities(present, {"visibility": np.array([1.0, 1.0, 1.0])})
    print(int(entities.properties["visibility"].sum()))  # 3
    ```
    """

    present: NDArray[Any]
    properties: dict[str, NDArray[Any]]
    parts: NDArray[Any] | None = None


class Records(Sequence[Scene]):
    """The scenes of a file, in their order.

    `records[i]` is a [`eqx_slots.data.Scene`][] of NumPy arrays: `image` in [0, 1],
    `segmentation` with 0 for background, `objects`
    [`eqx_slots.data.records.Entities`][]. It has random access, and so is a source for
    Grain and PyTorch as it is.

    **Fields:**

    - `images`: All pictures as bytes, `scenes height width channels`.
    - `labels`: All label maps, `scenes height width`.
    - `properties`: What the file has besides, by name, `scenes entities ...`, the
        background first.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import records

    images = np.zeros((2, 35, 35, 3), np.uint8)
    labels = np.zeros((2, 35, 35), np.uint8)
    scenes = records.Records(images, labels, {"x": np.zeros((2, 4))})
    print(len(scenes), scenes[1].image.shape)  # 2 (3, 35, 35)
    ```
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    properties: dict[str, NDArray[Any]]

    def __init__(
        self,
        images: NDArray[Any],
        labels: NDArray[Any],
        properties: Mapping[str, NDArray[Any]],
        *,
        num_background: int = 1,
        num_entities: int = 4,
    ):
        """**Arguments:** the fields, and

        - `num_background`: How many of the first labels are background. (Keyword only
            argument.)
        - `num_entities`: How many labels there can be. (Keyword only argument.)
        """
        self.images, self.labels = images, labels
        self.properties = dict(properties)
        self._background, self._entities = num_background, num_entities

    def __len__(self) -> int:
        """How many scenes."""
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        """A scene, or of a slice the scenes in it, which are not read before they are
        asked for."""
        if isinstance(index, slice):
            properties = {name: x[index] for name, x in self.properties.items()}
            counts = {"num_background": self._background}
            counts |= {"num_entities": self._entities}
            return Records(self.images[index], self.labels[index], properties, **counts)
        pixels = self.images[index].astype(np.float32) / 255
        image: Any = rearrange(pixels, "h w c -> c h w")
        parts = self.labels[index].astype(np.int32)
        first = self._background
        labels: Any = np.maximum(parts - (first - 1), 0)
        numbers = np.arange(first, self._entities)
        present = np.isin(numbers, parts)
        properties = {
            name: np.asarray(values[index][1:])
            for name, values in self.properties.items()
        }
        objects = Entities(present, properties, parts if first > 1 else None)
        return Scene(image, labels, objects)


def tetrominoes(
    path: Path_,
    *,
    split: str | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Progress = None,
) -> Records:
    """Tetrominoes: 35 x 35, three pieces on black.

    **Arguments:**

    - `path`: The file, such as `tetrominoes_train.tfrecords`.
    - `split`: `"train"` or `"test"` of the Slot Attention paper: the first 60,000
        scenes of the file, or the 320 that follow; `None` means all. (Keyword only
        argument, as all that follow.)
    - `count`: How many scenes, the first of these; `None` means all.
    - `cache`: Folder of the decoded scenes; `None` is `eqx_slots` in `XDG_CACHE_HOME`,
        or in `~/.cache`. The cache of another file, or of the same with other options,
        is another; what is there can be deleted at any time.
    - `progress`: Called with the number of scenes decoded so far, now and then.

    **Returns:**

    [`eqx_slots.data.records.Records`][]. A file that is cut short, damaged or of
    another kind is a `ValueError` that names file, record and feature, a full disk an
    `OSError` after which the next call goes on.

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    path = Path("tetrominoes_train.tfrecords")
    if path.exists():
        scenes = records.tetrominoes(path, count=1000)
        print(scenes[0].image.shape, scenes[0].objects.properties["x"])
    ```
    """
    entities = 4
    floats = {"x": (), "y": (), "shape": (), "color": (3,), "visibility": ()}
    schema = schema_of((35, 35), 3, entities, floats)
    options = {"of": "tetrominoes"}
    where: dict[str, Any] = {"count": count, "cache": cache, "progress": progress}
    where |= {"split": split, "num_train": TRAINED_ON["tetrominoes"]}
    return _records(arrays_of(path, schema, options, **where), entities)


def multi_dsprites(
    path: Path_,
    kind: str,
    *,
    split: str | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Progress = None,
) -> Records:
    """Multi-dSprites: 64 x 64, in three kinds.

    **Arguments:**

    - `path`: The file, such as `multi_dsprites_colored_on_grayscale.tfrecords`.
    - `kind`: Which of `records.SPRITES`; another is a `ValueError`.
    - `split`, `count`, `cache`, `progress`: As in
        [`eqx_slots.data.records.tetrominoes`][]. (Keyword only arguments.)

    **Returns:**

    [`eqx_slots.data.records.Records`][], of one channel where `kind` is `"binarized"`.

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    path = Path("multi_dsprites_binarized.tfrecords")
    if path.exists():
        scenes = records.multi_dsprites(path, "binarized", count=1000)
        print(scenes[0].image.shape)
    ```
    """
    entities = choice("kind", kind, SPRITES)
    channels = 1 if kind == "binarized" else 3
    floats = {"x": (), "y": (), "shape": (), "color": (channels,), "visibility": ()}
    floats |= {"orientation": (), "scale": ()}
    schema = schema_of((64, 64), channels, entities, floats)
    schema["mask"] = Field((64, 64, entities, 1), is_bytes=True)
    options = {"of": f"multi_dsprites {kind}"}
    where: dict[str, Any] = {"count": count, "cache": cache, "progress": progress}
    where |= {"split": split, "num_train": TRAINED_ON["multi_dsprites"]}
    return _records(arrays_of(path, schema, options, **where), entities)


def objects_room(
    path: Path_,
    kind: str = "train",
    *,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Progress = None,
) -> Records:
    """Objects Room: 64 x 64, objects in a room of sky, floor and two walls.

    The four parts of the room are background, 0 in `Scene.segmentation`, as FG-ARI
    wants it; `Entities.parts` tells them apart, for ARI.

    **Arguments:**

    - `path`: The file, such as `objects_room_train.tfrecords`.
    - `kind`: Which of `records.ROOMS`; another is a `ValueError`.
    - `count`, `cache`, `progress`: As in [`eqx_slots.data.records.tetrominoes`][].
        (Keyword only arguments.)

    **Returns:**

    [`eqx_slots.data.records.Records`][].

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    path = Path("objects_room_train.tfrecords")
    if path.exists():
        scenes = records.objects_room(path, count=1000)
        print(scenes[0].objects.parts.max())
    ```
    """
    entities = choice("kind", kind, ROOMS)
    schema = schema_of((64, 64), 3, entities, {})
    options = {"of": f"objects_room {kind}"}
    where: dict[str, Any] = {"count": count, "cache": cache}
    where["progress"] = progress
    arrays = arrays_of(path, schema, options, **where)
    return _records(arrays, entities, num_background=4)


def clevr_with_masks(
    path: Path_,
    *,
    image_size: int | tuple[int, int] = (128, 128),
    crop: tuple[tuple[int, int], tuple[int, int]] | None = ((29, 221), (64, 256)),
    max_objects: int | None = None,
    split: str | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Progress = None,
) -> Records:
    """CLEVR with masks: pictures of 240 x 320, here the square that papers cut out.

    **Arguments:**

    - `path`: The file, `clevr_with_masks_train.tfrecords`.
    - `image_size`: Height and width, or the side of a square, to which pictures are
        resized, bilinearly between the middles of the pixels, and label maps to the
        nearest. (Keyword only argument, as all that follow.)
    - `crop`: Rows and columns, from and to; `None` is the whole picture. By default
        those of the Slot Attention paper.
    - `max_objects`: Leave out scenes with more, as the file's `visibility` counts them:
        6 makes CLEVR6. `None` leaves out none.
    - `split`: As in [`eqx_slots.data.records.tetrominoes`][], but trained on is what
        is kept of the first 70,000.
    - `count`, `cache`, `progress`: As there; `count` is of scenes that are kept.

    **Returns:**

    [`eqx_slots.data.records.Records`][].

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    path = Path("clevr_with_masks_train.tfrecords")
    if path.exists():
        scenes = records.clevr_with_masks(path, max_objects=6, split="test")
        print(scenes[0].image.shape)
    ```
    """
    entities = 11
    size = sides(image_size)
    floats = {"x": (), "y": (), "z": (), "pixel_coords": (3,), "rotation": ()}
    schema = schema_of((240, 320), 3, entities, floats | {"visibility": ()})
    for name in ("size", "material", "shape", "color"):
        schema[name] = Field((entities,), is_bytes=True)
    rows, columns = crop or ((0, 240), (0, 320))
    _check_crop(rows, columns)

    def prepare(scene: Arrays) -> Arrays | None:
        seen = int(np.sum(scene["visibility"][1:] > 0))
        if max_objects is not None and seen > max_objects:
            return None
        return cut_and_resized(scene, rows, columns, size)

    options = {"of": "clevr_with_masks", "crop": (rows, columns)}
    arrays = arrays_of(
        path,
        schema,
        options | {"max_objects": max_objects},
        count=count,
        cache=cache,
        progress=progress,
        split=split,
        num_train=TRAINED_ON["clevr_with_masks"],
        image_size=size,
        prepare=prepare,
    )
    return _records(arrays, entities)


def _records(arrays: Arrays, entities: int, *, num_background: int = 1) -> Records:
    image, labels = arrays.pop("image"), arrays.pop("labels")
    counts = {"num_background": num_background, "num_entities": entities}
    return Records(image, labels, arrays, **counts)


def _check_crop(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    for name, (start, end), side in (("rows", rows, 240), ("columns", columns, 320)):
        if not 0 <= start < end <= side:
            raise ValueError(
                f"`crop` must be {name} from and to with 0 <= from < to <= {side}, got"
                f" {(start, end)}."
            )
