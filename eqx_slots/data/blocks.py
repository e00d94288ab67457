"""Coloured blocks: rectangles of distinct colours that may partly cover each other.

`scene(key)` paints one scene inside `jax.jit`; `jax.vmap` paints many. Nothing is read
from disk and the same key gives the same scene, so a training run needs no dataset but
its step number: `scene(jax.random.fold_in(key, step))`.
"""

from typing import Literal

import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_positive, check_shape
from ..properties import BLOCKS
from ._scene import Objects, paint, Scene


COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
}
"""The default palette by name: six corners of the RGB cube."""


def scene(
    key: PRNGKeyArray,
    *,
    image_size: tuple[int, int] = (32, 32),
    num_objects: tuple[int, int] = (2, 4),
    block_size: tuple[int, int] = (5, 10),
    max_overlap: float = 0.25,
    background: Literal["gray", "black"] = "gray",
    noise: float = 0.02,
    colours: tuple[tuple[float, float, float], ...] = tuple(COLOURS.values()),
) -> Scene:
    """Paint one scene.

    The number of blocks, their sides and colours are uniform, no colour comes twice,
    and each block is placed uniformly among the places where it covers at most
    `max_overlap` of any block below it (or as little as possible, where no such place
    is left). With the defaults at least a quarter of every block stays visible.

    **Arguments:**

    - `key`: Randomness of the scene.
    - `image_size`: Height and width in pixels. (Keyword only argument, as all that
        follow.)
    - `num_objects`: Fewest and most blocks. The second is the number of rows of
        `Scene.objects`.
    - `block_size`: Shortest and longest side of a block in pixels.
    - `max_overlap`: From 0 (blocks never overlap) to 1 (they fall anywhere and may
        hide each other entirely).
    - `background`: `"gray"` is 0.5 plus Gaussian noise, `"black"` is exactly 0.
    - `noise`: Standard deviation of the noise on gray; images stay within [0, 1].
    - `colours`: The palette, red, green and blue in [0, 1].

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
    _check(image_size, num_objects, block_size, max_overlap, background, noise, colours)
    count_key, size_key, place_key, colour_key, noise_key = jr.split(key, 5)
    count = jr.randint(count_key, (), fewest, most + 1)
    exists = jnp.arange(most) < count
    size = jr.randint(size_key, (most, 2), shortest, longest + 1)
    corner = _place(size, image_size, max_overlap, key=place_key)
    size = jnp.where(exists[:, None], size, 0)
    colour = jr.permutation(colour_key, len(colours))[:most]
    colour = jnp.where(exists, colour, 0)

    if background == "gray":
        canvas = 0.5 + noise * jr.normal(noise_key, (3, *image_size))
        canvas = jnp.clip(canvas, 0, 1)
    else:
        canvas = jnp.zeros((3, *image_size))
    image, segmentation = paint(
        canvas, _boxes(corner, size, image_size), jnp.asarray(colours)[colour]
    )
    number = 1 + jnp.arange(most, dtype=segmentation.dtype)
    present = jnp.any(segmentation[None] == number[:, None, None], axis=(1, 2))
    centre = jnp.where(exists[:, None], (2 * corner + size) / 2, 0)
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


def _place(
    size: Int[Array, "objects 2"],
    image_size: tuple[int, int],
    max_overlap: float,
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
        worst = jnp.zeros(image_size)
        for j, corner in enumerate(corners):
            tall = _common(top, size[i, 0], corner[0], size[j, 0])
            wide = _common(left, size[i, 1], corner[1], size[j, 1])
            worst = jnp.maximum(worst, (tall * wide).astype(float) / area[j])
        inside = (top <= height - size[i, 0]) & (left <= width - size[i, 1])
        worst = jnp.where(inside, worst, jnp.inf)
        allowed = worst <= jnp.maximum(max_overlap, jnp.min(worst))
        # The place at rank floor(draw * number of places), counted row by row.
        rank = jnp.cumsum(rearrange(allowed, "h w -> (h w)"))
        before = jnp.floor(draw * rank[-1].astype(float)).astype(rank.dtype)
        place = jnp.sum(rank <= before)
        corners.append(jnp.stack([place // width, place % width]))
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


def _check(
    image_size: tuple[int, int],
    num_objects: tuple[int, int],
    block_size: tuple[int, int],
    max_overlap: float,
    background: str,
    noise: float,
    colours: tuple[tuple[float, float, float], ...],
) -> None:
    fewest, most = num_objects
    shortest, longest = block_size
    for sizes in (image_size, block_size):
        if min(sizes) < 1:
            name = "image_size" if sizes is image_size else "block_size"
            raise ValueError(f"`{name}` must be two positive integers, got {sizes}.")
    check_positive(num_objects=most)
    if not 0 <= fewest <= most:
        raise ValueError(
            f"`num_objects` must be (fewest, most) with 0 <= fewest <= most, got"
            f" {num_objects}."
        )
    if most > len(colours):
        raise ValueError(
            f"No colour comes twice in a scene, so {most} objects need at least {most}"
            f" `colours`, got {len(colours)}."
        )
    if not shortest <= longest <= min(image_size):
        raise ValueError(
            "`block_size` must be (shortest, longest) with shortest <= longest and no"
            f" longer than the image, got {block_size} for an image of {image_size}."
        )
    if not 0 <= max_overlap <= 1:
        raise ValueError(f"`max_overlap` must lie in [0, 1], got {max_overlap}.")
    if background not in ("gray", "black"):
        raise ValueError(f'`background` must be "gray" or "black", got {background!r}.')
    if not noise >= 0:
        raise ValueError(f"`noise` must not be negative, got {noise}.")
