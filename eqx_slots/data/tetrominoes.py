"""Tetrominoes: three pieces of four squares on black, in the manner of the data set.

Multi-Object Datasets (Kabra et al. 2019) has such scenes of 35 x 35 pixels. Its README
counts 17 shapes with their orientations; four squares joined by their sides have 19,
and all of them are painted here. What else the generator does it does not say, so these
scenes are like those and not those: places, and how often shapes and colours come, are
uniform.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_positive
from ._scene import channels_of, check_colours, check_number, nth_place, paint, Scene
from .blocks import COLOURS


_PIECES = {
    "I": ("####",),
    "O": ("##", "##"),
    "T": ("###", ".#."),
    "S": (".##", "##."),
    "Z": ("##.", ".##"),
    "J": ("#..", "###"),
    "L": ("..#", "###"),
}


def _orientations() -> dict[str, tuple[tuple[int, int], ...]]:
    """The row and the column of each square, from the upper left of the piece."""
    shapes: dict[str, tuple[tuple[int, int], ...]] = {}
    for name, rows in _PIECES.items():
        grid = np.array([[cell == "#" for cell in row] for row in rows])
        for turns in range(4):
            cells = tuple(
                (int(y), int(x)) for y, x in np.argwhere(np.rot90(grid, turns))
            )
            if cells not in shapes.values():
                shapes[f"{name}{90 * turns}"] = cells
    return shapes


SHAPES = _orientations()
"""The squares of all 19 shapes, `(row, column)`: a letter and the degrees it is turned
to the left."""
_CELLS = np.array(list(SHAPES.values()))
_SIDE = 4  # squares in the longest piece


class Pieces(NamedTuple):
    """What is in a scene of tetrominoes, one row a piece.

    **Fields:**

    - `shape`: Which of `tetrominoes.SHAPES`, an integer, `objects`.
    - `colour`: Which colour of the palette, an integer, `objects`.
    - `centre`: `(y, x)` of the middle of its bounding box, in pixels from the upper
        left corner of the image, `objects 2`.
    - `size`: `(height, width)` of that box in pixels, `objects 2`.
    - `present`: Whether there is such a piece, `objects`. Other rows are all zero.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import tetrominoes

    pieces = jax.jit(tetrominoes.scene)(jr.key(0)).objects
    names = [list(tetrominoes.SHAPES)[i] for i in pieces.shape]
    print(len(names), pieces.centre.shape)  # 3 (3, 2)
    ```
    """

    shape: Int[Array, " objects"]
    colour: Int[Array, " objects"]
    centre: Float[Array, "objects 2"]
    size: Float[Array, "objects 2"]
    present: Bool[Array, " objects"]


def scene(
    key: PRNGKeyArray,
    *,
    image_size: tuple[int, int] = (35, 35),
    num_objects: tuple[int, int] = (3, 3),
    cell_size: int = 5,
    gap: int = 0,
    colours: tuple[tuple[float, ...], ...] = tuple(COLOURS.values()),
    repeat_colours: bool = True,
) -> Scene:
    """Paint one scene.

    Shape, colour and place of each piece are uniform; pieces lie at any pixel, wholly
    inside the image, and none covers another. A shape for which the pieces before it
    have left no room is drawn anew.

    **Arguments:**

    - `key`: Randomness of the scene.
    - `image_size`: Height and width in pixels. (Keyword only argument, as all that
        follow.)
    - `num_objects`: Fewest and most pieces. Three have room with the defaults; of more
        those that have none are not there.
    - `cell_size`: Side of each of the four squares in pixels.
    - `gap`: Least number of pixels between pieces, sideways as diagonally, where there
        is room for it; with 0 they may touch.
    - `colours`: The palette, as for [`eqx_slots.data.blocks.scene`][].
    - `repeat_colours`: Whether pieces of a scene may have the same colour.

    **Returns:**

    A [`eqx_slots.data.Scene`][] whose `objects` are
    [`eqx_slots.data.tetrominoes.Pieces`][]. A `ValueError` says so if the numbers
    cannot be satisfied or are out of range.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import tetrominoes

    keys = jr.split(jr.key(0), 8)
    scenes = jax.jit(jax.vmap(tetrominoes.scene))(keys)
    print(scenes.image.shape, scenes.segmentation.max())  # (8, 3, 35, 35) 3
    ```
    """
    fewest, most = num_objects
    check_key(key)
    check_number(num_objects)
    check_positive(cell_size=cell_size)
    if min(image_size) < _SIDE * cell_size:
        raise ValueError(
            f"`image_size` must be {_SIDE * cell_size} x {_SIDE * cell_size} at least,"
            f" the longest piece of `cell_size={cell_size}`, got {image_size}."
        )
    if gap < 0:
        raise ValueError(f"`gap` must not be negative, got {gap}.")
    check_colours(colours, most, repeat_colours)
    count_key, colour_key, *keys = jr.split(key, 2 + most)
    count = jr.randint(count_key, (), fewest, most + 1)
    if repeat_colours:
        colour = jr.randint(colour_key, (most,), 0, len(colours))
    else:
        colour = jr.permutation(colour_key, len(colours))[:most]

    occupied = jnp.zeros(image_size, bool)
    pieces: list[Pieces] = []
    masks: list[Array] = []
    for number, piece_key in enumerate(keys):
        shape, place, fits = _place(occupied, cell_size, gap, key=piece_key)
        present = fits & (number < count)
        mask = present & _mask(shape, place, image_size, cell_size)
        size = cell_size * (1 + jnp.max(jnp.asarray(_CELLS)[shape], axis=0))
        centre = place.astype(float) + size.astype(float) / 2
        piece = Pieces(shape, colour[number], centre, size.astype(float), present)
        pieces.append(
            Pieces(*(jnp.where(present, x, jnp.zeros_like(x)) for x in piece))
        )
        masks.append(mask)
        occupied |= mask
    objects = Pieces(*(jnp.stack(rows) for rows in zip(*pieces)))
    canvas = jnp.zeros((channels_of(colours), *image_size))
    image, segmentation = paint(
        canvas, jnp.stack(masks), jnp.asarray(colours)[objects.colour]
    )
    return Scene(image, segmentation, objects)


def _place(
    occupied: Bool[Array, "height width"],
    cell_size: int,
    gap: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Array, Array, Array]:
    """A shape, the upper left corner of a place for it, and whether there is any."""
    shape_key, place_key = jr.split(key)
    allowed = _allowed(occupied, cell_size, 0)
    if gap > 0:
        apart = _allowed(occupied, cell_size, gap)
        allowed = jnp.where(jnp.any(apart), apart, allowed)
    has_room = jnp.any(allowed, axis=(1, 2))
    shape = jr.categorical(shape_key, jnp.where(has_room, 0.0, -jnp.inf))
    place = nth_place(allowed[shape], jr.uniform(place_key))
    return shape, place, jnp.any(has_room)


def _allowed(
    occupied: Bool[Array, "height width"], cell_size: int, gap: int
) -> Bool[Array, "shapes height width"]:
    """Where each shape covers nothing and lies inside, by its upper left corner."""
    height, width = occupied.shape
    # A square is free if its window, with a margin of the gap, has nothing in it.
    padded = jnp.pad(occupied.astype(jnp.int32), gap)
    total = jnp.pad(jnp.cumsum(jnp.cumsum(padded, axis=0), axis=1), ((1, 0), (1, 0)))
    side = cell_size + 2 * gap
    inside = total[side:, side:] - total[:-side, side:]
    inside += total[:-side, :-side] - total[side:, :-side]
    reach = _SIDE * cell_size
    free = jnp.pad(inside == 0, ((0, reach), (0, reach)))  # outside nothing is free
    at = lambda row, column: free[
        row * cell_size : row * cell_size + height,
        column * cell_size : column * cell_size + width,
    ]
    cells = jnp.stack([at(y, x) for y in range(_SIDE) for x in range(_SIDE)])
    return jnp.all(cells[_SIDE * _CELLS[..., 0] + _CELLS[..., 1]], axis=1)


def _mask(
    shape: Int[Array, ""],
    place: Int[Array, "2"],
    image_size: tuple[int, int],
    cell_size: int,
) -> Bool[Array, "height width"]:
    corners = place[None] + cell_size * jnp.asarray(_CELLS)[shape]

    def along(axis: int) -> Bool[Array, "cells pixels"]:
        pixel = jnp.arange(image_size[axis])[None]
        start = rearrange(corners[:, axis], "cells -> cells 1")
        return (pixel >= start) & (pixel < start + cell_size)

    return jnp.any(along(0)[:, :, None] & along(1)[:, None, :], axis=0)
