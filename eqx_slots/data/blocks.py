"""Coloured blocks: rectangles of distinct colours that may partly cover each other.

`scene(key)` paints one scene inside `jax.jit`, `video(key, num_frames=6)` one clip in
which they move; `jax.vmap` paints many. Nothing is read from disk and the same key
gives the same scene, so a training run needs no dataset but its step number:
`scene(jax.random.fold_in(key, step))`.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_positive, check_shape
from ..properties import BLOCKS
from ._canvas import Background, Blocks, check_canvas, gray_canvas
from ._flow import rigid_flow
from ._motion import (
    check_crossing,
    check_edges,
    check_range,
    crossing,
    moments,
    Moving,
    on_grid,
    paths,
    velocities,
)
from ._scene import (
    channels_of,
    check_colours,
    check_number,
    count_visible,
    nth_place,
    Objects,
    only_where,
    Scene,
    track,
    Video,
)


COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
}
"""The default palette by name: six corners of the RGB cube."""
GRAYS = ((0.0,), (0.125,), (0.25,), (0.75,), (0.875,), (1.0,))
"""A palette of one channel, three shades darker than gray and three lighter."""


def scene(
    key: PRNGKeyArray,
    *,
    image_size: tuple[int, int] = (32, 32),
    num_objects: tuple[int, int] = (2, 4),
    block_size: tuple[int, int] = (5, 10),
    max_overlap: float = 0.25,
    gap: int = 0,
    background: Background = "gray",
    noise: float = 0.02,
    noise_on: Literal["background", "everything"] = "background",
    colours: tuple[tuple[float, ...], ...] = tuple(COLOURS.values()),
    repeat_colours: bool = False,
) -> Scene:
    """Paint one scene.

    The number of blocks, their sides and colours are uniform, no colour comes twice
    unless it may, and each block is placed uniformly among the places where it covers
    at most `max_overlap` of any block below it (or as little as possible, where no such
    place is left). With the defaults at least a quarter of every block stays visible.

    **Arguments:**

    - `key`: Randomness of the scene.
    - `image_size`: Height and width in pixels. (Keyword only argument, as all that
        follow.)
    - `num_objects`: Fewest and most blocks. The second is the number of rows of
        `Scene.objects`.
    - `block_size`: Shortest and longest side of a block in pixels.
    - `max_overlap`: From 0 (blocks never overlap) to 1 (they fall anywhere and may
        hide each other entirely).
    - `gap`: Least number of pixels between blocks, sideways as diagonally, where there
        is room for it; 0 asks for none.
    - `background`: `"gray"` is 0.5, `"black"` exactly 0. `"gradient"` goes from 0.25 to
        0.75 across the image, `"stripes"` are of 0.35 and 0.65 and 2 to 6 pixels wide,
        both gray and in a direction of its own in each scene.
    - `noise`: Standard deviation of Gaussian noise, on what is not black; images stay
        within [0, 1].
    - `noise_on`: The background alone, or the blocks as well, and then on black too.
    - `colours`: The palette, a number in [0, 1] for each channel of the image: red,
        green and blue, or one as in `blocks.GRAYS`.
    - `repeat_colours`: Whether blocks of a scene may have the same colour.

    **Returns:**

    A [`eqx_slots.data.Scene`][]. A `ValueError` says so if the numbers cannot be
    satisfied (blocks larger than the image, more blocks than colours) or are out of
    range.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    keys = jr.split(jr.key(0), 8)
    scenes = jax.jit(jax.vmap(blocks.scene))(keys)
    print(scenes.image.shape)  # (8, 3, 32, 32)
    ```
    """
    check_key(key)
    _check_places(image_size, num_objects, block_size, max_overlap, gap)
    check_canvas(background, noise, noise_on)
    check_colours(colours, num_objects[1], repeat_colours)
    *keys, place_key, colour_key, noise_key = jr.split(key, 5)
    exists, size = _sizes(num_objects, block_size, keys=keys)
    corner = _place(size, image_size, max_overlap, gap, key=place_key).astype(float)
    size = only_where(exists, size).astype(float)
    colour = _colours(exists, len(colours), repeat_colours, key=colour_key)

    grain = noise * jr.normal(noise_key, (channels_of(colours), *image_size))
    gray = gray_canvas(background, image_size, key=jr.fold_in(noise_key, 1))
    show = Blocks(gray, jnp.asarray(colours)[colour], size, background, noise_on)
    image, segmentation = show(corner, grain)
    present = count_visible(segmentation, len(colour)) > 0
    centre = only_where(exists, corner + size / 2)
    return Scene(image, segmentation, Objects(colour, centre, size, present))


def video(
    key: PRNGKeyArray,
    *,
    num_frames: int,
    image_size: tuple[int, int] = (32, 32),
    num_objects: tuple[int, int] = (2, 4),
    block_size: tuple[int, int] = (5, 10),
    max_overlap: float = 0.25,
    gap: int = 0,
    speed: tuple[float, float] = (0.5, 2.0),
    edges: Literal["bounce", "leave"] = "bounce",
    occlusion: bool = False,
    background: Background = "gray",
    noise: float = 0.02,
    noise_on: Literal["background", "everything"] = "background",
    colours: tuple[tuple[float, ...], ...] = tuple(COLOURS.values()),
    repeat_colours: bool = False,
) -> Video:
    """Paint one clip: the blocks of a scene, each with a speed and a direction.

    Blocks pass in front of each other, later ones in front of earlier ones. A pixel
    belongs to a block if its middle lies in it. The background is the same in all
    frames, its noise is not.

    **Arguments:** those of [`eqx_slots.data.blocks.scene`][], whose rules of places
    hold for the first frame, and

    - `num_frames`: How many frames. (Keyword only argument, as all that follow.) A
        longer clip of blocks that bounce begins with the shorter one, but with
        `occlusion`.
    - `speed`: Least and greatest, in pixels a frame, uniform like the direction.
    - `edges`: `"bounce"`: blocks stay in the picture. `"leave"`: they go straight on,
        and the rules hold for the places that they pass at a moment of their own: they
        enter and leave.
    - `occlusion`: Whether the last but one block passes behind the last, at a speed
        that this needs: it is wholly covered for two to four frames, and seen before
        and after. Their sides are then at least 3 pixels apart, and `max_overlap` and
        `gap` do not hold for these two.

    **Returns:**

    A [`eqx_slots.data.Video`][] whose `objects` are [`eqx_slots.data.Objects`][]. A
    `ValueError` says so if the numbers cannot be satisfied or are out of range.

    **Example:**

    ```python
    from functools import partial
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    paint = partial(blocks.video, num_frames=6, occlusion=True)
    videos = jax.jit(jax.vmap(paint))(jr.split(jr.key(0), 8))
    print(videos.images.shape)  # (8, 6, 3, 32, 32)
    ```
    """
    check_key(key)
    _check_places(image_size, num_objects, block_size, max_overlap, gap)
    check_canvas(background, noise, noise_on)
    check_colours(colours, num_objects[1], repeat_colours)
    check_positive(num_frames=num_frames)
    check_range(speed=speed)
    check_edges(edges)
    *keys, place_key, colour_key, noise_key = jr.split(key, 5)
    exists, size = _sizes(num_objects, block_size, keys=keys)
    place = _place(size, image_size, max_overlap, gap, key=place_key).astype(float)
    speed_key, moment_key, pair_key = jr.split(jr.fold_in(place_key, 1), 3)
    moving = Moving(
        size.astype(float),
        place,
        on_grid(velocities(speed, len(size), key=speed_key)),
        moments(edges, len(size), num_frames, key=moment_key),
    )
    if occlusion:
        check_crossing(num_frames, image_size, block_size, num_objects[0])
        pair = crossing(num_frames, image_size, block_size, speed, key=pair_key)
        last = jnp.sum(exists) - 1
        moving = jax.tree.map(
            lambda x, two: x.at[jnp.stack([last - 1, last])].set(two), moving, pair
        )
    moving = only_where(exists, moving)
    corner = paths(moving, image_size, num_frames, edges)
    colour = _colours(exists, len(colours), repeat_colours, key=colour_key)

    shape = (channels_of(colours), *image_size)
    grains = jax.vmap(lambda i: noise * jr.normal(jr.fold_in(noise_key, i), shape))
    gray = gray_canvas(background, image_size, key=jr.fold_in(noise_key, 1))
    show = Blocks(gray, jnp.asarray(colours)[colour], moving.size, background, noise_on)
    images, segmentation = jax.vmap(show)(corner, grains(2 + jnp.arange(num_frames)))
    around, visible = track(segmentation, len(colour))
    always = lambda x: jnp.broadcast_to(x, (num_frames, *x.shape))
    centre = jax.vmap(partial(only_where, exists))(corner + moving.size[None] / 2)
    objects = Objects(always(colour), centre, always(moving.size), visible > 0)
    flow = rigid_flow(segmentation, centre)
    return Video(images, segmentation, objects, flow, around, visible)


def elements(scene: Scene) -> Float[Array, "objects 11"]:
    """The truth of a scene as a set, to be predicted.

    **Arguments:**

    - `scene`: One that [`eqx_slots.data.blocks.scene`][] has painted, in the default
        colours.

    **Returns:**

    An element of [`eqx_slots.properties.BLOCKS`][] for each object, a row of zeros
    where none is visible. A batch of scenes is a `ValueError`.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import blocks

    scene = jax.jit(blocks.scene)(jr.key(0))
    print(blocks.elements(scene).shape)  # (4, 11)
    ```
    """
    call = "jax.vmap(blocks.elements)(scenes)"
    check_shape("scene.image", scene.image, "rgb height width", (3, -1, -1), batch=call)
    _, height, width = scene.image.shape
    side = jnp.array([[height, width]], float)
    truth = scene.objects
    values = {
        "centre": 6 * truth.centre / side,
        "size": 6 * truth.size / side,
        "colour": truth.colour,
    }
    return BLOCKS.encode(values, present=truth.present)


def _sizes(
    num_objects: tuple[int, int],
    block_size: tuple[int, int],
    *,
    keys: list[PRNGKeyArray],
) -> tuple[Bool[Array, " objects"], Int[Array, "objects 2"]]:
    """Which rows are blocks, and sides for all of them."""
    count_key, size_key = keys
    fewest, most = num_objects
    count = jr.randint(count_key, (), fewest, most + 1)
    shortest, longest = block_size
    size = jr.randint(size_key, (most, 2), shortest, longest + 1)
    return jnp.arange(most) < count, size


def _colours(
    exists: Bool[Array, " objects"],
    number: int,
    repeat_colours: bool,
    *,
    key: PRNGKeyArray,
) -> Int[Array, " objects"]:
    """Which of so many colours."""
    if repeat_colours:
        return only_where(exists, jr.randint(key, exists.shape, 0, number))
    return only_where(exists, jr.permutation(key, number)[: len(exists)])


def _place(
    size: Int[Array, "objects 2"],
    image_size: tuple[int, int],
    max_overlap: float,
    gap: int,
    *,
    key: PRNGKeyArray,
) -> Int[Array, "objects 2"]:
    """Upper left corners, drawn one block after the other."""
    height, width = image_size
    top, left = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    area = jnp.prod(size, axis=1).astype(float)
    corners = []
    for i, draw in enumerate(jr.uniform(key, (size.shape[0],))):
        # Of each block below: the share that a corner at (top, left) would cover.
        worst, near = jnp.zeros(image_size), jnp.zeros(image_size)
        for j, corner in enumerate(corners):
            tall = _common(top, size[i, 0], corner[0], size[j, 0])
            wide = _common(left, size[i, 1], corner[1], size[j, 1])
            worst = jnp.maximum(worst, (tall * wide).astype(float) / area[j])
            if gap > 0:  # the block with a margin of that width is to touch none
                tall = _common(top - gap, size[i, 0] + 2 * gap, corner[0], size[j, 0])
                wide = _common(left - gap, size[i, 1] + 2 * gap, corner[1], size[j, 1])
                near = near + jnp.sign(tall * wide).astype(float)
        inside = (top <= height - size[i, 0]) & (left <= width - size[i, 1])
        # Where all places are near a block, rather near several than over one.
        worst = jnp.where(inside, worst + 1e-3 * near, jnp.inf)
        most = 0 if gap > 0 else max_overlap
        allowed = worst <= jnp.maximum(most, jnp.min(worst))
        corners.append(nth_place(allowed, draw))
    return jnp.stack(corners)


def _common(
    start: Array, length: Array, other_start: Array, other_length: Array
) -> Array:
    """Length that two intervals have in common."""
    end = jnp.minimum(start + length, other_start + other_length)
    return jnp.maximum(end - jnp.maximum(start, other_start), 0)


def _check_places(
    image_size: tuple[int, int],
    num_objects: tuple[int, int],
    block_size: tuple[int, int],
    max_overlap: float,
    gap: int,
) -> None:
    shortest, longest = block_size
    for sizes in (image_size, block_size):
        if min(sizes) < 1:
            name = "image_size" if sizes is image_size else "block_size"
            raise ValueError(f"`{name}` must be two positive integers, got {sizes}.")
    check_number(num_objects)
    if not shortest <= longest <= min(image_size):
        raise ValueError(
            "`block_size` must be (shortest, longest) with shortest <= longest and no"
            f" longer than the image, got {block_size} for an image of {image_size}."
        )
    if not 0 <= max_overlap <= 1:
        raise ValueError(f"`max_overlap` must lie in [0, 1], got {max_overlap}.")
    if gap < 0:
        raise ValueError(f"`gap` must not be negative, got {gap}.")
