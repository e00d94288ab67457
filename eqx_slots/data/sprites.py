"""Sprites: squares, ellipses and hearts, in the manner of Multi-dSprites.

Multi-Object Datasets (Kabra et al. 2019) has such scenes of 64 x 64 pixels in three
kinds: two or three white sprites on black, two to five in colours on a random gray, one
to four in colours on a random colour. It does not say how sizes, places and colours are
distributed, so these scenes are like those and not those: sizes, angles and places are
uniform, and every sprite lies wholly inside the image.
"""

import math
from functools import partial
from typing import get_args, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_positive
from ._flow import rigid_flow
from ._motion import (
    check_edges,
    check_range,
    moments,
    Moving,
    paths,
    spins,
    velocities,
)
from ._scene import (
    check_number,
    count_visible,
    only_where,
    paint,
    rgb_of,
    Scene,
    track,
    Video,
)


_Kind = Literal["binarized", "colored_on_grayscale", "colored_on_colored"]
SHAPES = ("square", "ellipse", "heart")
"""What `Sprites.shape` counts."""
NUM_OBJECTS = {
    "binarized": (2, 3),
    "colored_on_grayscale": (2, 5),
    "colored_on_colored": (1, 4),
}
"""The kinds by the names of their files, and how many sprites they have."""
# A square of side 1 and what has its area: an ellipse half as long again as it is wide,
# and the heart (x² + y² - 1)³ <= x² y³, of the area 3.662 and its middle at y = 0.2935.
_LONG = math.sqrt(1.5 / math.pi)
_HEART_AREA, _HEART_MIDDLE = 3.662, 0.2935
_RADIUS = math.sqrt(0.5)  # no point of a shape is farther from its middle


class Sprites(NamedTuple):
    """What is in a scene of sprites, one row a sprite, the first row farthest back.

    **Fields:**

    - `shape`: Which of `sprites.SHAPES`, an integer, `objects`.
    - `colour`: Its colour in [0, 1], `objects channels`.
    - `centre`: `(y, x)` of its middle, in pixels from the upper left corner of the
        image, `objects 2`.
    - `size`: Side in pixels of a square of its area, `objects`.
    - `orientation`: Angle that it is turned to the left, in radians from 0 to 2 pi,
        `objects`.
    - `visible`: How many of its pixels one sees, `objects`.
    - `present`: Whether that is one at least, `objects`. Other rows are fully covered,
        or padding, whose numbers are all zero.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import sprites

    objects = jax.jit(sprites.scene)(jr.key(0)).objects
    names = [sprites.SHAPES[i] for i in objects.shape[objects.present]]
    print(objects.centre.shape, 2 <= len(names) <= 5)  # (5, 2) True
    ```
    """

    shape: Int[Array, " objects"]
    colour: Float[Array, "objects channels"]
    centre: Float[Array, "objects 2"]
    size: Float[Array, " objects"]
    orientation: Float[Array, " objects"]
    visible: Int[Array, " objects"]
    present: Bool[Array, " objects"]


def scene(
    key: PRNGKeyArray,
    *,
    kind: _Kind = "colored_on_grayscale",
    image_size: tuple[int, int] = (64, 64),
    num_objects: tuple[int, int] | None = None,
    sprite_size: tuple[float, float] = (10.0, 20.0),
) -> Scene:
    """Paint one scene.

    Number, shape, size, angle and place of the sprites are uniform, and later ones
    cover earlier ones, entirely if it comes to that. A pixel belongs to a sprite if its
    middle lies in it: edges are hard, and the picture has as many colours as it has
    sprites, and one more.

    **Arguments:**

    - `key`: Randomness of the scene.
    - `kind`: `"binarized"`: white on black, in one channel; `"colored_on_grayscale"`:
        hue uniform, saturation and value uniform in [0.5, 1], on a gray uniform in
        [0, 1]; `"colored_on_colored"`: red, green and blue uniform in [0, 1], of the
        sprites as of the background. (Keyword only argument, as all that follow.)
    - `image_size`: Height and width in pixels.
    - `num_objects`: Fewest and most sprites; if it is None, those of the kind, in
        `sprites.NUM_OBJECTS`. The second is the number of rows of `Scene.objects`.
    - `sprite_size`: Least and greatest side, in pixels, of a square of the area of a
        sprite.

    **Returns:**

    A [`eqx_slots.data.Scene`][] whose `objects` are
    [`eqx_slots.data.sprites.Sprites`][]. A `ValueError` says so if a number is out of
    range, or the largest sprite does not fit into the image in every direction.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import sprites

    keys = jr.split(jr.key(0), 8)
    scenes = jax.jit(jax.vmap(sprites.scene))(keys)
    print(scenes.image.shape, scenes.segmentation.max())  # (8, 3, 64, 64) 5
    ```
    """
    check_key(key)
    num_objects = _check(kind, image_size, num_objects, sprite_size)
    exists, objects, behind, _ = _draw(
        kind, image_size, num_objects, sprite_size, key=key
    )
    image, segmentation = _show(objects, exists, behind, image_size)
    visible = count_visible(segmentation, len(exists))
    objects = objects._replace(visible=visible, present=visible > 0)
    return Scene(image, segmentation, only_where(exists, objects))


def video(
    key: PRNGKeyArray,
    *,
    num_frames: int,
    kind: _Kind = "colored_on_grayscale",
    image_size: tuple[int, int] = (64, 64),
    num_objects: tuple[int, int] | None = None,
    sprite_size: tuple[float, float] = (10.0, 20.0),
    speed: tuple[float, float] = (0.5, 3.0),
    spin: tuple[float, float] = (0.0, 0.2),
    edges: Literal["bounce", "leave"] = "bounce",
) -> Video:
    """Paint one clip: the sprites of a scene, which move and turn.

    Each goes straight on and turns evenly, in front of those before it and behind those
    after it; its shape, size and colour stay.

    **Arguments:** those of [`eqx_slots.data.sprites.scene`][], and

    - `num_frames`: How many frames. (Keyword only argument, as all that follow.)
    - `speed`: Least and greatest, in pixels a frame, uniform like the direction.
    - `spin`: Least and greatest, in radians a frame, uniform, to the left as to the
        right.
    - `edges`: `"bounce"`: sprites stay in the picture, and turn round where they would
        touch its edge however they were turned. `"leave"`: they go straight on, and are
        in the picture at a moment of their own: they enter and leave.

    **Returns:**

    A [`eqx_slots.data.Video`][] whose `objects` are
    [`eqx_slots.data.sprites.Sprites`][]. A `ValueError` says so if a number is out of
    range.

    **Example:**

    ```python
    from functools import partial
    import jax
    import jax.random as jr
    from eqx_slots.data import sprites

    paint = jax.jit(partial(sprites.video, num_frames=6))
    video = paint(jr.key(0))
    print(video.images.shape, video.flow.shape)  # (6, 3, 64, 64) (6, 2, 64, 64)
    ```
    """
    check_key(key)
    num_objects = _check(kind, image_size, num_objects, sprite_size)
    check_positive(num_frames=num_frames)
    check_range(speed=speed, spin=spin)
    check_edges(edges)
    exists, first, behind, key = _draw(
        kind, image_size, num_objects, sprite_size, key=key
    )
    speed_key, spin_key, moment_key = jr.split(key, 3)
    number = len(exists)
    margin = jnp.broadcast_to(_RADIUS * first.size[:, None], (number, 2))
    moving = Moving(
        2 * margin,
        first.centre - margin,
        velocities(speed, number, key=speed_key),
        moments(edges, number, num_frames, key=moment_key),
    )
    centre = paths(moving, image_size, num_frames, edges) + margin[None]
    time = jnp.arange(num_frames, dtype=float)[:, None] - moving.moment[None]
    turn = first.orientation[None] + spins(spin, number, key=spin_key)[None] * time

    always = lambda x: jnp.broadcast_to(x, (num_frames, *x.shape))
    objects = jax.tree.map(always, first)
    objects = objects._replace(centre=centre, orientation=turn % (2 * math.pi))
    show = lambda objects: _show(objects, exists, behind, image_size)
    images, segmentation = jax.vmap(show)(objects)
    around, visible = track(segmentation, number)
    objects = objects._replace(visible=visible, present=visible > 0)
    objects = jax.vmap(partial(only_where, exists))(objects)
    flow = rigid_flow(segmentation, centre, turn)
    return Video(images, segmentation, objects, flow, around, visible)


def _draw(
    kind: _Kind,
    image_size: tuple[int, int],
    num_objects: tuple[int, int],
    sprite_size: tuple[float, float],
    *,
    key: PRNGKeyArray,
) -> tuple[Bool[Array, " objects"], Sprites, Float[Array, " channels"], PRNGKeyArray]:
    """Which rows are sprites, sprites for all of them, the colour behind them, and
    randomness of how they move."""
    count_key, shape_key, size_key, angle_key, place_key, colour_key = jr.split(key, 6)
    fewest, most = num_objects
    count = jr.randint(count_key, (), fewest, most + 1)
    least, greatest = sprite_size
    size = jr.uniform(size_key, (most,), minval=least, maxval=greatest)
    margin = _RADIUS * size[:, None]
    room = jnp.array([image_size], float) - 2 * margin
    colour, behind = _colours(kind, most, key=colour_key)
    objects = Sprites(
        shape=jr.randint(shape_key, (most,), 0, len(SHAPES)),
        colour=colour,
        centre=margin + room * jr.uniform(place_key, (most, 2)),
        size=size,
        orientation=jr.uniform(angle_key, (most,), maxval=2 * math.pi),
        visible=jnp.zeros(most, jnp.int32),
        present=jnp.zeros(most, bool),
    )
    return jnp.arange(most) < count, objects, behind, jr.fold_in(place_key, 1)


def _show(
    objects: Sprites,
    exists: Bool[Array, " objects"],
    behind: Float[Array, " channels"],
    image_size: tuple[int, int],
) -> tuple[Float[Array, "channels height width"], Int[Array, "height width"]]:
    """The sprites that exist, painted on a plain colour."""
    shape, colour, centre, size, orientation, *_ = objects
    masks = _masks(shape, centre, size, orientation, image_size) & exists[:, None, None]
    canvas = jnp.broadcast_to(behind[:, None, None], (len(behind), *image_size))
    return paint(canvas, masks, colour)


def _colours(
    kind: _Kind, number: int, *, key: PRNGKeyArray
) -> tuple[Float[Array, "objects channels"], Float[Array, " channels"]]:
    """Of the sprites, and of what is behind them."""
    sprite_key, behind_key = jr.split(key)
    if kind == "binarized":
        return jnp.ones((number, 1)), jnp.zeros(1)
    if kind == "colored_on_colored":
        return jr.uniform(sprite_key, (number, 3)), jr.uniform(behind_key, (3,))
    hue, saturation, value = rearrange(
        jr.uniform(sprite_key, (number, 3)), "n c -> c n"
    )
    rgb = rgb_of(6 * hue, 0.5 + saturation / 2, 0.5 + value / 2)
    return rgb.transpose(), jnp.broadcast_to(jr.uniform(behind_key), (3,))


def _masks(
    shape: Int[Array, " objects"],
    centre: Float[Array, "objects 2"],
    size: Float[Array, " objects"],
    orientation: Float[Array, " objects"],
    image_size: tuple[int, int],
) -> Bool[Array, "objects height width"]:
    """The pixels whose middle lies in each sprite, those that others cover included."""
    height, width = image_size
    each = lambda x: x[:, None, None]
    cos, sin = each(jnp.cos(orientation)), each(jnp.sin(orientation))
    at = lambda size: jnp.arange(size, dtype=float) + 0.5
    down = at(height)[None, :, None] - each(centre[:, 0])
    right = at(width)[None, None, :] - each(centre[:, 1])
    # In the sprite's own frame, y upwards, in units of its size.
    x = (cos * right - sin * down) / each(size)
    y = -(sin * right + cos * down) / each(size)
    square = (jnp.abs(x) <= 0.5) & (jnp.abs(y) <= 0.5)
    ellipse = (x / _LONG) ** 2 + (1.5 * y / _LONG) ** 2 <= 1
    root = math.sqrt(_HEART_AREA)
    u, v = root * x, root * y + _HEART_MIDDLE
    heart = (u**2 + v**2 - 1) ** 3 <= u**2 * v**3
    which = each(shape)
    return jnp.where(which == 0, square, jnp.where(which == 1, ellipse, heart))


def _check(
    kind: str,
    image_size: tuple[int, int],
    num_objects: tuple[int, int] | None,
    sprite_size: tuple[float, float],
) -> tuple[int, int]:
    """How many sprites there are at least and at most."""
    if kind not in get_args(_Kind):
        listed = ", ".join(f'"{choice}"' for choice in get_args(_Kind))
        raise ValueError(f"`kind` must be one of {listed}, got {kind!r}.")
    num_objects = NUM_OBJECTS[kind] if num_objects is None else num_objects
    check_number(num_objects)
    least, greatest = sprite_size
    fits = min(image_size) / (2 * _RADIUS)
    if not 0 < least <= greatest <= fits:
        raise ValueError(
            f"`sprite_size` must be (least, greatest) with 0 < least <= greatest <="
            f" {fits:.4g}, so that a turned square lies in an image of {image_size},"
            f" got {sprite_size}."
        )
    return num_objects
