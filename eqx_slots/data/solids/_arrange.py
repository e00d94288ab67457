"""What is where: objects by the rule of CLEVR, camera and lamps."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from ..._misc import check_key, check_positive
from ...properties import CLEVR
from .._places import find_places
from .._scene import check_number, count_visible, only_where
from ._bodies import look
from ._kinds import CUBE, SIZES, Solids, View


CAMERA = (7.5, -6.5, 5.4)
LAMPS = ((6.4, -2.9, 4.3), (-4.7, -4.0, 3.0), (-1.2, 2.6, 5.8))  # key, fill, back
_TRIES = 50


def arrange(
    key: PRNGKeyArray,
    *,
    image_size: tuple[int, int] = (128, 128),
    num_objects: tuple[int, int] = (3, 6),
    min_visible: float = 0.0026,
    field_of_view: float = 31.0,
) -> tuple[Solids, View]:
    """Draw what is in a scene and from where it is seen, without painting it.

    Number, size, material, shape, colour and angle of the objects are uniform, and so
    is their place in the square from -3 to 3, as far as the rule of CLEVR allows it:
    between the circles that two objects stand on there is a gap of 0.25, their middles
    are 0.4 apart as the camera sees them both to the side and in depth, and of each
    enough is visible. An object has 50 tries, and where they fail all is drawn anew, up
    to 50 times; after that the rule gives way and not the number. The camera is moved
    by up to 0.5 in each direction, each lamp by up to 1.

    **Arguments:** those of [`eqx_slots.data.solids.scene`][].

    **Returns:**

    [`eqx_slots.data.solids.Solids`][] and [`eqx_slots.data.solids.View`][], for
    [`eqx_slots.data.solids.render`][].

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.data import solids

    objects, view = solids.arrange(jr.key(0), num_objects=(5, 5))
    print(objects.coordinates.shape, view.lamps.shape)  # (5, 3) (3, 3)
    ```
    """
    check_key(key)
    check_number(num_objects)
    check_positive(image_size=min(image_size))
    if not 0 <= min_visible < 1:
        raise ValueError(f"`min_visible` must lie in [0, 1), got {min_visible}.")
    if not 0 < field_of_view < 120:
        raise ValueError(
            f"`field_of_view` must be between 0 and 120 degrees, got {field_of_view}."
        )
    count_key, key = jr.split(key)
    count = jr.randint(count_key, (), num_objects[0], num_objects[1] + 1)
    least = max(1, math.ceil(min_visible * image_size[0] * image_size[1]))
    draw = partial(_draw, count, num_objects[1], field_of_view, image_size, least)

    def anew(state: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        number, best, most = state
        made, right = draw(key=jr.fold_in(key, number))
        is_better = right > most
        best = jax.tree.map(lambda x, y: jnp.where(is_better, x, y), made, best)
        return number + 1, best, jnp.maximum(right, most)

    unfinished = lambda state: (state[2] < count) & (state[0] < _TRIES)
    blank = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: draw(key=key)[0])
    )
    start = (jnp.zeros((), jnp.int32), blank, jnp.full((), -1))
    _, (objects, view), _ = jax.lax.while_loop(unfinished, anew, start)
    return objects, view


def _draw(
    count: Int[Array, ""],
    most: int,
    field_of_view: float,
    image_size: tuple[int, int],
    least: int,
    *,
    key: PRNGKeyArray,
) -> tuple[tuple[Solids, View], Int[Array, ""]]:
    """Objects and view, and of how many objects place and visibility are right."""
    # One draw of all numbers: each of its own takes long to compile.
    parts = {"camera": (3,), "lamps": (3, 3), "rotation": (most,)}
    parts |= {"tries": (most, _TRIES, 2)}
    parts |= {name: (most,) for name in ("size", "material", "shape", "colour")}
    numbers = jr.uniform(key, (sum(map(math.prod, parts.values())),))
    ends = np.cumsum([math.prod(shape) for shape in parts.values()])
    pieces = jnp.split(numbers, ends[:-1])
    drawn = {name: x.reshape(parts[name]) for name, x in zip(parts, pieces)}
    choose = lambda name: jnp.floor(len(CLEVR.group(name).labels) * drawn[name]).astype(
        jnp.int32
    )
    camera = jnp.array(CAMERA) + drawn["camera"] - 0.5
    lamps = jnp.array(LAMPS) + 2 * drawn["lamps"] - 1
    view = View(camera, lamps, jnp.asarray(field_of_view, float))
    exists = jnp.arange(most) < count
    size, shape = choose("size"), choose("shape")
    radius = jnp.asarray(SIZES)[size]
    place, fits = find_places(radius, camera, drawn["tries"])
    upwards = radius * jnp.where(shape == CUBE, math.sqrt(0.5), 1)
    objects = Solids(
        coordinates=jnp.concatenate([place, upwards[:, None]], axis=1),
        size=size,
        material=choose("material"),
        shape=shape,
        colour=choose("colour"),
        rotation=2 * math.pi * drawn["rotation"],
        centre=jnp.zeros((most, 2)),
        visible=jnp.zeros(most, jnp.int32),
        present=exists,
    )
    objects = only_where(exists, objects)
    _, label = look(objects, view, image_size)
    visible = count_visible(label, most)
    right = jnp.sum(exists & fits & (visible >= least), dtype=jnp.int32)
    return (objects, view), right
