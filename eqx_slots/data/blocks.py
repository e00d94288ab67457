"""Coloured blocks: rectangles of distinct colours that may partly cover each other.

`scene(key)` paints one scene inside `jax.jit`; `jax.vmap` paints many. Nothing is read
from disk and the same key gives the same scene, so a training run needs no dataset but
its step number: `scene(jax.random.fold_in(key, step))`.
"""

import math
from typing import get_args, Literal

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_shape
from ..properties import BLOCKS
from ._scene import (
    channels_of,
    check_colours,
    check_number,
    count_visible,
    nth_place,
    Objects,
    only_where,
    paint,
    Scene,
)


_Background = Literal["gray", "black", "gradient", "stripes"]
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
    background: _Background = "gray",
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
    fewest, most = num_objects
    shortest, longest = block_size
    check_key(key)
    _check_places(image_size, num_objects, block_size, max_overlap, gap)
    _check_canvas(background, noise, noise_on)
    check_colours(colours, most, repeat_colours)
    channels = channels_of(colours)
    count_key, size_key, place_key, colour_key, noise_key = jr.split(key, 5)
    count = jr.randint(count_key, (), fewest, most + 1)
    exists = jnp.arange(most) < count
    size = jr.randint(size_key, (most, 2), shortest, longest + 1)
    corner = _place(size, image_size, max_overlap, gap, key=place_key)
    size = jnp.where(exists[:, None], size, 0)
    if repeat_colours:
        colour = jr.randint(colour_key, (most,), 0, len(colours))
    else:
        colour = jr.permutation(colour_key, len(colours))[:most]
    colour = jnp.where(exists, colour, 0)

    everywhere = noise_on == "everything"
    grain = noise * jr.normal(noise_key, (channels, *image_size))
    gray = _gray(background, image_size, key=jr.fold_in(noise_key, 1))
    canvas = jnp.broadcast_to(gray, (channels, *image_size))
    if background != "black" and not everywhere:
        canvas = jnp.clip(canvas + grain, 0, 1)
    image, segmentation = paint(
        canvas, _boxes(corner, size, image_size), jnp.asarray(colours)[colour]
    )
    if everywhere:
        image = jnp.clip(image + grain, 0, 1)
    present = count_visible(segmentation, most) > 0
    centre = only_where(exists, (2 * corner + size) / 2)
    objects = Objects(colour, centre, size.astype(float), present)
    return Scene(image, segmentation, objects)


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


def _gray(
    background: _Background, image_size: tuple[int, int], *, key: PRNGKeyArray
) -> Float[Array, "height width"]:
    """What is behind the blocks, without noise."""
    if background in ("gray", "black"):
        return jnp.full(image_size, 0.5 if background == "gray" else 0.0)
    angle_key, width_key, start_key = jr.split(key, 3)
    angle = jr.uniform(angle_key, maxval=2 * math.pi)
    down, right = jnp.sin(angle), jnp.cos(angle)
    height, width = image_size
    if background == "gradient":
        # From -1 to 1 along each axis, and after the division from corner to corner.
        y, x = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
        along = down * y[:, None] + jnp.broadcast_to(right * x[None], image_size)
        return 0.5 + 0.25 * along / (jnp.abs(down) + jnp.abs(right))
    y, x = jnp.arange(height, dtype=float), jnp.arange(width, dtype=float)
    along = down * y[:, None] + jnp.broadcast_to(right * x[None], image_size)
    stripe = jr.uniform(width_key, minval=2, maxval=6)
    start = 2 * jr.uniform(start_key)
    return 0.35 + 0.3 * (jnp.floor(along / stripe + start) % 2)


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


def _boxes(
    corner: Int[Array, "objects 2"],
    size: Int[Array, "objects 2"],
    image_size: tuple[int, int],
) -> Bool[Array, "objects height width"]:
    def along(axis: int) -> Bool[Array, "objects pixels"]:
        pixel = jnp.arange(image_size[axis])[None, :]
        start = corner[:, axis, None]
        return (pixel >= start) & (pixel < start + size[:, axis, None])

    return along(0)[:, :, None] & along(1)[:, None, :]


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


def _check_canvas(background: str, noise: float, noise_on: str) -> None:
    for name, value, choices in (
        ("background", background, get_args(_Background)),
        ("noise_on", noise_on, ("background", "everything")),
    ):
        if value not in choices:
            listed = ", ".join(f'"{choice}"' for choice in choices)
            raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
    if not noise >= 0:
        raise ValueError(f"`noise` must not be negative, got {noise}.")
