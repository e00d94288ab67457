from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from .._misc import as_array, check_positive, check_shape


class Objects(NamedTuple):
    """What is in a scene, one row an object, the first row farthest back.

    **Fields:**

    - `colour`: Which colour of the dataset's palette, an integer, `objects`.
    - `centre`: `(y, x)` in pixels from the upper left corner of the image, `objects 2`.
    - `size`: `(height, width)` in pixels, `objects 2`.
    - `present`: Whether at least one pixel is visible, `objects`. Other rows are fully
        covered, or padding, whose numbers are all zero.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    objects = jax.jit(blocks.scene)(jr.key(0)).objects
    names = [list(blocks.COLOURS)[i] for i in objects.colour[objects.present]]
    print(objects.centre.shape, 1 <= len(names) <= 4)  # (4, 2) True
    ```
    """

    colour: Int[Array, " objects"]
    centre: Float[Array, "objects 2"]
    size: Float[Array, "objects 2"]
    present: Bool[Array, " objects"]


class Scene(NamedTuple):
    """A picture and the exact truth about it.

    **Fields:**

    - `image`: Colours in [0, 1], `channels height width`: red, green and blue, unless
        the painter was given another palette.
    - `segmentation`: Integers, 0 for background and `1 + i` where object `i` is what
        one sees, `height width`.
    - `objects`: What is in it, a row an object, of the painter's own kind: the
        [`eqx_slots.data.Objects`][] of blocks, the
        [`eqx_slots.data.tetrominoes.Pieces`][] of tetrominoes, the
        [`eqx_slots.data.sprites.Sprites`][] of sprites, the
        [`eqx_slots.data.solids.Solids`][] of solids.
    - `depth`: Of solids, how far away each pixel is, `height width`. None of others.
    - `view`: Of solids, from where they are seen. None of others.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    scene = jax.jit(blocks.scene)(jr.key(0))
    print(scene.image.shape, scene.segmentation.shape)  # (3, 32, 32) (32, 32)
    ```
    """

    image: Float[Array, "channels height width"]
    segmentation: Int[Array, "height width"]
    objects: Any
    depth: Float[Array, "height width"] | None = None
    view: Any = None


class Video(NamedTuple):
    """A clip and the exact truth about it: row `i` is the same object in every frame.

    **Fields:**

    - `images`: Colours in [0, 1], `frames channels height width`.
    - `segmentation`: Integers, 0 for background and `1 + i` where object `i` is what
        one sees, `frames height width`.
    - `objects`: What is in it, of the painter's own kind as in a
        [`eqx_slots.data.Scene`][], each field with frames in front. `present` is of the
        frame: an object that is covered, or out of the picture, keeps its row, its
        place and its size.
    - `flow`: How far away, in pixels down and to the right, what a pixel shows was in
        the frame before, `frames 2 height width`. Zero in the first frame.
    - `boxes`: `(top, left, bottom, right)` around the pixels that one sees of each
        object, from 0 to 1 over the image, zero where there are none,
        `frames objects 4`.
    - `visible`: How many pixels those are, `frames objects`.
    - `depth`: Of solids, how far away each pixel is, `frames height width`. None of
        others.
    - `view`: Of solids, from where they are seen, each field with frames in front. None
        of others.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    paint = jax.jit(blocks.video, static_argnames="num_frames")
    video = paint(jr.key(0), num_frames=6)
    print(video.images.shape, video.flow.shape)  # (6, 3, 32, 32) (6, 2, 32, 32)
    print(video.objects.centre.shape, video.boxes.shape)  # (6, 4, 2) (6, 4, 4)
    ```
    """

    images: Float[Array, "frames channels height width"]
    segmentation: Int[Array, "frames height width"]
    objects: Any
    flow: Float[Array, "frames 2 height width"]
    boxes: Float[Array, "frames objects 4"]
    visible: Int[Array, "frames objects"]
    depth: Float[Array, "frames height width"] | None = None
    view: Any = None


def boxes(
    segmentation: Int[Array, "height width"], num_objects: int
) -> Float[Array, "objects 4"]:
    """The box around what one sees of each object, such as SAVi's slots begin at.

    **Arguments:**

    - `segmentation`: Integers, 0 for background and `1 + i` for object `i`.
    - `num_objects`: How many objects there can be, a Python integer.

    **Returns:**

    `(top, left, bottom, right)` of each, from 0 to 1 over the image: zero where it is
    not seen. A `ValueError` says so if the segmentation is that of a batch or a clip,
    or not of integers.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import data

    segmentation = jnp.zeros((4, 8), int).at[1:3, 2:4].set(1)
    print(data.boxes(segmentation, 2)[0].tolist())  # [0.25, 0.25, 0.75, 0.5]
    ```
    """
    check_positive(num_objects=num_objects)
    segmentation = as_array("segmentation", segmentation)
    call = "jax.vmap(lambda frame: boxes(frame, num_objects))({name})"
    axes = "height width"
    check_shape("segmentation", segmentation, axes, (-1, -1), batch=call)
    if not jnp.issubdtype(segmentation.dtype, jnp.integer):
        raise ValueError(
            f"`segmentation` must hold integer labels, got {segmentation.dtype}; the"
            " mask of one object becomes labels by `mask.astype(int)`."
        )
    number = 1 + jnp.arange(num_objects, dtype=segmentation.dtype)
    seen = segmentation[None] == rearrange(number, "objects -> objects 1 1")

    def along(axis: int) -> tuple[Array, Array]:
        touched = jnp.any(seen, axis=2 - axis)
        size = touched.shape[1]
        end = size - jnp.argmax(touched[:, ::-1], axis=1)
        sides = (jnp.argmax(touched, axis=1), jnp.where(jnp.any(touched, 1), end, 0))
        start, end = (side.astype(float) / size for side in sides)
        return start, end

    (top, bottom), (left, right) = along(0), along(1)
    return jnp.stack([top, left, bottom, right], axis=1)


def paint(
    background: Float[Array, "channels height width"],
    shapes: Bool[Array, "objects height width"],
    colours: Float[Array, "objects channels"],
) -> tuple[Float[Array, "channels height width"], Int[Array, "height width"]]:
    """Paint shapes over a background, later ones over earlier ones.

    **Arguments:**

    - `background`: What is seen where no object is.
    - `shapes`: The pixels of each object, hidden ones included.
    - `colours`: The colour of each object.

    **Returns:**

    The image, and the segmentation: 0 for background, `1 + i` for object `i`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import data

    shapes = jnp.zeros((2, 32, 32), bool)
    shapes = shapes.at[0, :, :16].set(True).at[1, :8, :].set(True)
    colours = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    image, segmentation = data.paint(jnp.ones((3, 32, 32)), shapes, colours)
    print(segmentation[::31, ::31].tolist())  # [[2, 2], [1, 0]]
    ```
    """
    number = 1 + jnp.arange(shapes.shape[0], dtype=jnp.int32)
    labels = jnp.where(shapes, rearrange(number, "objects -> objects 1 1"), 0)
    segmentation = jnp.max(labels, axis=0, initial=0)
    painted = rearrange(colours[segmentation - 1], "h w channels -> channels h w")
    return jnp.where(segmentation[None] > 0, painted, background), segmentation


def nth_place(
    allowed: Bool[Array, "height width"], draw: Float[Array, ""]
) -> Int[Array, "2"]:
    """The place at rank floor(draw * number of places), counted row by row."""
    rank = jnp.cumsum(rearrange(allowed, "h w -> (h w)"))
    before = jnp.floor(draw * rank[-1].astype(float)).astype(rank.dtype)
    place, width = jnp.sum(rank <= before), allowed.shape[1]
    return jnp.stack([place // width, place % width])


def count_visible(
    segmentation: Int[Array, "height width"], number: int
) -> Int[Array, " objects"]:
    """How many pixels each of so many objects has."""
    labels = rearrange(1 + jnp.arange(number, dtype=segmentation.dtype), "n -> n 1 1")
    return jnp.sum(segmentation[None] == labels, axis=(1, 2), dtype=jnp.int32)


def track(
    segmentation: Int[Array, "frames height width"], number: int
) -> tuple[Float[Array, "frames objects 4"], Int[Array, "frames objects"]]:
    """Boxes and visible pixels of each object in each frame."""
    return (
        jax.vmap(partial(boxes, num_objects=number))(segmentation),
        jax.vmap(partial(count_visible, number=number))(segmentation),
    )


def only_where(exists: Bool[Array, " objects"], rows: Any) -> Any:
    """The rows of the objects that exist; those of the others are zero."""
    return jax.tree.map(
        lambda x: jnp.where(
            exists.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x)
        ),
        rows,
    )


def rgb_of(
    hue: Float[Array, "*of"],
    saturation: Float[Array, "*of"],
    value: Float[Array, "*of"],
) -> Float[Array, "3 *of"]:
    """Of hue in [0, 6): red, yellow, green, cyan, blue, magenta, and back to red."""
    from_channel = jnp.stack([hue + 5, hue + 3, hue + 1]) % 6
    missing = jnp.clip(jnp.minimum(from_channel, 4 - from_channel), 0, 1)
    return value[None] * (1 - saturation[None] * missing)


def check_number(num_objects: tuple[int, int]) -> None:
    """Refuse what is not the fewest and the most objects of a scene."""
    fewest, most = num_objects
    check_positive(num_objects=most)
    if not 0 <= fewest <= most:
        raise ValueError(
            f"`num_objects` must be (fewest, most) with 0 <= fewest <= most, got"
            f" {num_objects}."
        )


def channels_of(colours: tuple[tuple[float, ...], ...]) -> int:
    """How many numbers a colour of the palette has."""
    return len(colours[0])


def check_colours(
    colours: tuple[tuple[float, ...], ...], most: int, repeat_colours: bool
) -> None:
    """Refuse a palette that `most` objects cannot be painted with."""
    if (most > len(colours) and not repeat_colours) or not colours:
        raise ValueError(
            f"No colour comes twice in a scene, so {most} objects need at least {most}"
            f" `colours`, got {len(colours)}; `repeat_colours=True` lets them."
        )
    lengths = sorted({len(colour) for colour in colours})
    if len(lengths) > 1 or lengths == [0]:
        raise ValueError(
            "`colours` must have as many numbers each, one for each channel of the"
            f" image, got colours of {' and '.join(map(str, lengths))}."
        )
