"""The folder of CLEVR v1.0 (Johnson et al. 2017): pictures, and what is in them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float
from numpy.typing import NDArray

from .._misc import check_positive, needs_extra, sides
from ..properties import CLEVR
from ._cache import cached, Layout, stamp_of
from ._record_files import Arrays, bilinear, choice, Path_, Progress


SPLITS = {"train": 70_000, "val": 15_000}
"""The splits that say what is in their pictures, and how many these are."""
_MOST = 10
_NAMES = {"size": "size", "material": "material", "shape": "shape", "colour": "color"}
_NUMBERS = {
    "coordinates": "3d_coords",
    "rotation": "rotation",
    "pixel_coords": "pixel_coords",
}


class Contents(NamedTuple):
    """What is in a picture of CLEVR, ten rows, those of no object all zero.

    **Fields:**

    - `coordinates`: Middle of the object, x and y on the ground, z upwards,
        `objects 3`.
    - `size`, `material`, `shape`, `colour`: Integers that count the labels of the same
        group of [`eqx_slots.properties.CLEVR`][], `objects`.
    - `rotation`: In degrees, `objects`.
    - `pixel_coords`: x and y in the picture of the file, and depth, `objects 3`.
    - `present`: Whether the row is an object, `objects`.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import records

    none, places = np.zeros(10, int), np.zeros((10, 3))
    empty = records.Contents(places, *[none] * 4, places[:, 0], places, none > 0)
    print(records.elements(empty).shape)  # (10, 19)
    ```
    """

    coordinates: NDArray[Any]
    size: NDArray[Any]
    material: NDArray[Any]
    shape: NDArray[Any]
    colour: NDArray[Any]
    rotation: NDArray[Any]
    pixel_coords: NDArray[Any]
    present: NDArray[Any]


class Annotated(NamedTuple):
    """A picture and what is in it, without masks.

    **Fields:**

    - `image`: Colours in [0, 1], `3 height width`.
    - `objects`: [`eqx_slots.data.records.Contents`][].

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    if Path("CLEVR_v1.0").exists():
        picture: records.Annotated = records.clevr("CLEVR_v1.0", count=64)[0]
        print(picture.image.shape, picture.objects.colour)
    ```
    """

    image: NDArray[Any]
    objects: Contents


class _Pictures(Sequence[Annotated]):
    """All pictures of a split, with random access."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]):
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(self.arrays["image"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Pictures({name: x[index] for name, x in self.arrays.items()})
        row = {name: np.asarray(values[index]) for name, values in self.arrays.items()}
        pixels = row.pop("image").astype(np.float32) / 255
        image: Any = rearrange(pixels, "h w c -> c h w")
        row |= {name: row[name].astype(np.int32) for name in _NAMES}
        row["present"] = np.arange(_MOST) < row.pop("count")
        return Annotated(image, Contents(**row))


def elements(objects: Contents) -> Float[Array, "objects 19"]:
    """The truth of a picture as a set, to be predicted.

    **Arguments:**

    - `objects`: What is in it, as [`eqx_slots.data.records.clevr`][] gives it.

    **Returns:**

    An element of [`eqx_slots.properties.CLEVR`][] for each of ten objects, a row of
    zeros where there is none.

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    if Path("CLEVR_v1.0").exists():
        picture = records.clevr("CLEVR_v1.0", "val", count=64)[0]
        print(records.elements(picture.objects).shape)
    ```
    """
    names = ("coordinates", *_NAMES)
    values = {name: jnp.asarray(getattr(objects, name)) for name in names}
    return CLEVR.encode(values, present=jnp.asarray(objects.present))


def clevr(
    path: Path_,
    split: str = "train",
    *,
    image_size: int | tuple[int, int] = (128, 128),
    crop: tuple[tuple[int, int], tuple[int, int]] | None = None,
    max_objects: int | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Progress = None,
) -> Sequence[Annotated]:
    """CLEVR v1.0 as it is unpacked: a folder of PNGs of 320 x 480, and a JSON file that
    says what is in each. There are no masks; it is for set prediction.

    **Arguments:**

    - `path`: The folder `CLEVR_v1.0`, in which `images` and `scenes` lie.
    - `split`: `"train"` or `"val"`; of `test` nothing is said about the pictures.
    - `image_size`: Height and width, or the side of a square, to which pictures are
        resized, bilinearly between the middles of the pixels. (Keyword only argument,
        as all that follow.)
    - `crop`: Rows and columns, from and to, to be cut out before; `None` is the whole
        picture, as the Slot Attention paper predicts sets of it.
    - `max_objects`, `count`, `cache`, `progress`: As in
        [`eqx_slots.data.records.clevr_with_masks`][].

    **Returns:**

    A sequence of [`eqx_slots.data.records.Annotated`][] with random access. What is
    missing, damaged or not CLEVR's is a `ValueError` that names the file. Needs pillow
    (`pip install 'eqx-slots[data]'`).

    **Example:**

    ```python
    from pathlib import Path
    from eqx_slots.data import records

    if Path("CLEVR_v1.0").exists():
        pictures = records.clevr("CLEVR_v1.0", "val", image_size=64)
        print(len(pictures))  # 15000
    ```
    """
    choice("split", split, SPLITS)
    size = sides(image_size)
    if count is not None:
        check_positive(count=count)
    scenes = Path(path) / "scenes" / f"CLEVR_{split}_scenes.json"
    images = Path(path) / "images" / split
    for needed, is_there in ((scenes, scenes.is_file()), (images, images.is_dir())):
        if not is_there:
            raise ValueError(
                f"`path` must be the folder of CLEVR v1.0, unpacked: {needed} is not"
                " there."
            )
    numbers = dict.fromkeys((*_NAMES, "rotation"), (_MOST,))
    shapes: dict[str, tuple[int, ...]] = {"image": (*size, 3), "count": ()}
    shapes |= numbers | dict.fromkeys(("coordinates", "pixel_coords"), (_MOST, 3))
    floats = dict.fromkeys(_NUMBERS, "<f4")
    layout = Layout(shapes, dict.fromkeys(shapes, "u1") | floats)

    def decode(skip: int) -> Iterator[Arrays | None]:
        for scene in _scenes(scenes)[skip:]:
            if max_objects is not None and len(scene["objects"]) > max_objects:
                yield None
            else:
                picture = _picture(images / scene["image_filename"], crop)
                yield {"image": bilinear(picture, size)} | _contents(scene)

    options = {"of": "clevr", "size": size, "crop": crop, "count": count}
    options |= {"max_objects": max_objects}
    where: dict[str, Any] = {"cache": cache, "progress": progress}
    stamp = stamp_of(scenes)
    return _Pictures(cached(scenes, stamp, options, layout, decode, count, **where))


def _scenes(path: Path) -> list[dict[str, Any]]:
    """What the file says of all pictures, looked at before any picture is."""
    try:
        scenes = json.loads(path.read_bytes())["scenes"]
        for scene in scenes:
            if not len(scene["objects"]) <= _MOST or "image_filename" not in scene:
                raise KeyError("image_filename")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the scenes of CLEVR v1.0, each with `image_filename` and"
            f" up to {_MOST} `objects`: {error}."
        ) from error
    return scenes


def _contents(scene: Mapping[str, Any]) -> Arrays:
    """The objects of a scene, with the labels as numbers."""
    objects, name = scene["objects"], scene["image_filename"]
    made = {"count": np.array(len(objects))}
    try:
        for ours, theirs in _NAMES.items():
            labels = CLEVR.group(ours).labels
            made[ours] = _rows([labels.index(each[theirs]) for each in objects])
        for ours, theirs in _NUMBERS.items():
            rows = [np.asarray(each[theirs], float) for each in objects]
            made[ours] = _rows(rows, *(() if ours == "rotation" else (3,)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"An object of {name} is not one of CLEVR's, with"
            f" {', '.join([*_NAMES.values(), *_NUMBERS.values()])}: {error}."
        ) from error
    return made


def _rows(values: Sequence[Any], *shape: int) -> np.ndarray:
    """A row for each object there can be."""
    rows = np.zeros((_MOST, *shape))
    if values:
        rows[: len(values)] = np.stack(values)
    return rows


def _picture(
    path: Path, crop: tuple[tuple[int, int], tuple[int, int]] | None
) -> np.ndarray:
    with needs_extra("data", "`records.clevr`"):
        from PIL import Image
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
    if crop is None:
        return pixels
    (top, bottom), (left, right) = crop
    height, width = pixels.shape[:2]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(
            f"`crop` must be rows and columns, from and to, within {height} x {width},"
            f" got {crop}."
        )
    return pixels[top:bottom, left:right]
