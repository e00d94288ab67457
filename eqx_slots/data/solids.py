"""Solids: cubes, balls and cylinders of rubber and metal, in the manner of CLEVR.

`scene(key)` casts rays inside `jax.jit`: three lamps with soft shadows, metal that
mirrors what is around it, exact masks, depth, and the nineteen numbers of each object
that set prediction wants. CLEVR (Johnson et al. 2017) was rendered by Blender: its rule
of places, its sizes and its colours are kept here, its light is not, and these scenes
are like those and not those.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import reduce
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._misc import check_key, check_positive, check_shape
from ..properties import CLEVR
from ._light import light, Paint
from ._places import find_places
from ._rays import Bodies, camera_axes, dot, half_pixel, nearest, through_pixels
from ._scene import check_number, count_visible, only_where, Scene


COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""The palette by name, of 255."""
SIZES = (0.35, 0.7)
"""Radius of a small and of a large ball or cylinder, where the ground goes from -3 to 3
in both directions. A cube stands on the circle of that radius."""
_CUBE, _BALL = 0, 1  # in the order of `properties.CLEVR`
_CAMERA = (7.5, -6.5, 5.4)
_LAMPS = ((6.4, -2.9, 4.3), (-4.7, -4.0, 3.0), (-1.2, 2.6, 5.8))  # key, fill, back
_TRIES = 50
_SUB = 2  # rays a pixel, along each side of it


class View(NamedTuple):
    """From where a scene is seen, and what lights it.

    **Fields:**

    - `camera`: Its place, `3`, not straight above the middle of the ground, which it
        looks at.
    - `lamps`: Places of three lamps, the first the brightest, `3 3`.
    - `field_of_view`: Degrees that the shorter side of the image spans. 31 are those of
        the square that papers cut out of CLEVR's images, 38 those of the whole.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.data import solids

    objects, view = solids.arrange(jr.key(0))
    from_above = view._replace(camera=view.camera.at[2].set(9.0))
    scene = solids.render(objects, from_above, (64, 64))
    print(scene.image.shape)  # (3, 64, 64)
    ```
    """

    camera: Float[Array, "3"]
    lamps: Float[Array, "3 3"]
    field_of_view: Float[Array, ""]


class Solids(NamedTuple):
    """What is in a scene of solids, one row an object.

    Integers count the labels of the same group of [`eqx_slots.properties.CLEVR`][].

    **Fields:**

    - `coordinates`: Its middle, x and y from -3 to 3 on the ground and z upwards,
        `objects 3`.
    - `size`: 0 small, 1 large, `objects`; the radii are `solids.SIZES`.
    - `material`: 0 rubber, 1 metal, `objects`.
    - `shape`: 0 cube, 1 sphere, 2 cylinder, `objects`.
    - `colour`: Which of `solids.COLOURS`, `objects`.
    - `rotation`: About the vertical, in radians from 0 to 2 pi, `objects`.
    - `centre`: `(y, x)` of its middle in the image, in pixels from the upper left
        corner, `objects 2`.
    - `visible`: How many of its pixels one sees, `objects`.
    - `present`: Whether that is one at least, `objects`. Rows of padding are all zero.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.data import solids
    from eqx_slots.properties import CLEVR

    objects = solids.scene(jr.key(1), image_size=(64, 64)).objects
    shapes = CLEVR.group("shape").labels
    print(len([shapes[i] for i in objects.shape[objects.present]]))  # 6
    ```
    """

    coordinates: Float[Array, "objects 3"]
    size: Int[Array, " objects"]
    material: Int[Array, " objects"]
    shape: Int[Array, " objects"]
    colour: Int[Array, " objects"]
    rotation: Float[Array, " objects"]
    centre: Float[Array, "objects 2"]
    visible: Int[Array, " objects"]
    present: Bool[Array, " objects"]


def scene(
    key: PRNGKeyArray,
    *,
    image_size: tuple[int, int] = (128, 128),
    num_objects: tuple[int, int] = (3, 6),
    min_visible: float = 0.0026,
    field_of_view: float = 31.0,
) -> Scene:
    """Paint one scene: [`eqx_slots.data.solids.arrange`][], then
    [`eqx_slots.data.solids.render`][].

    **Arguments:**

    - `key`: Randomness of the scene.
    - `image_size`: Height and width in pixels. (Keyword only argument, as all that
        follow.)
    - `num_objects`: Fewest and most objects; `(3, 10)` are those of CLEVR. The second
        is the number of rows of `Scene.objects`.
    - `min_visible`: Least share of the image in which one sees each object.
    - `field_of_view`: As in [`eqx_slots.data.solids.View`][].

    **Returns:**

    A [`eqx_slots.data.Scene`][] whose `objects` are [`eqx_slots.data.solids.Solids`][],
    with `depth` and `view`. A `ValueError` says so if a number is out of range.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots.data import solids

    scene = jax.jit(solids.scene)(jr.key(0))
    print(scene.image.shape, scene.depth.shape)  # (3, 128, 128) (128, 128)
    ```
    """
    objects, view = arrange(
        key,
        image_size=image_size,
        num_objects=num_objects,
        min_visible=min_visible,
        field_of_view=field_of_view,
    )
    return render(objects, view, image_size)


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


def render(objects: Solids, view: View, image_size: tuple[int, int]) -> Scene:
    """Paint given objects as one sees them.

    **Arguments:**

    - `objects`: What is there, where `present`. Of two that meet each ray sees the
        nearer; `centre`, `visible` and `present` of the result are of this view.
    - `view`: Where camera and lamps are.
    - `image_size`: Height and width in pixels. An image that is not square is cut to
        size from what its shorter side spans.

    **Returns:**

    A [`eqx_slots.data.Scene`][]. A pixel belongs to what the ray through its middle
    meets, and `depth` is that of this ray along the camera's axis (1e6 above the
    horizon); its colour is the mean over 2 x 2 rays.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.data import solids

    objects, view = solids.arrange(jr.key(0))
    alone = objects._replace(present=jnp.arange(6) == 0)
    print(solids.render(alone, view, (64, 64)).segmentation.max())  # 1
    ```
    """
    check_positive(image_size=min(image_size))
    check_shape("view.camera", view.camera, "xyz", (3,))
    check_shape("view.lamps", view.lamps, "lamps xyz", (3, 3))
    depth, segmentation = _look(objects, view, image_size)
    palette = (jnp.array(list(COLOURS.values()), float) / 255) ** 1.6
    linear = light(
        _bodies(objects),
        Paint(palette[objects.colour], objects.material == 1),
        tuple((x, y, z) for x, y, z in view.lamps),
        tuple(view.camera),
        through_pixels(tuple(view.camera), view.field_of_view, image_size, _SUB),
        _SUB * image_size[0],
    )
    of_pixels = "rgb (h down w right) -> rgb h w"
    sizes = {"h": image_size[0], "w": image_size[1], "down": _SUB, "right": _SUB}
    linear = reduce(linear, of_pixels, "mean", **sizes)
    image = jnp.clip(linear, 0, 1) ** (1 / 2.2)
    return Scene(image, segmentation, _seen(objects, view, segmentation), depth, view)


def elements(scene: Scene) -> Float[Array, "objects 19"]:
    """The truth of a scene as a set, to be predicted.

    **Arguments:**

    - `scene`: One that [`eqx_slots.data.solids.scene`][] has painted.

    **Returns:**

    An element of [`eqx_slots.properties.CLEVR`][] for each object, a row of zeros where
    none is visible. A batch of scenes is a `ValueError`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.data import solids

    scene = solids.scene(jr.key(0), image_size=(64, 64))
    print(solids.elements(scene).shape)  # (6, 19)
    ```
    """
    call = "jax.vmap(solids.elements)(scenes)"
    check_shape("scene.image", scene.image, "rgb height width", (3, -1, -1), batch=call)
    names = ("coordinates", "size", "material", "shape", "colour")
    truth = scene.objects
    values = {name: getattr(truth, name) for name in names}
    return CLEVR.encode(values, present=truth.present)


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
    camera = jnp.array(_CAMERA) + drawn["camera"] - 0.5
    lamps = jnp.array(_LAMPS) + 2 * drawn["lamps"] - 1
    view = View(camera, lamps, jnp.asarray(field_of_view, float))
    exists = jnp.arange(most) < count
    size, shape = choose("size"), choose("shape")
    radius = jnp.asarray(SIZES)[size]
    place, fits = find_places(radius, camera, drawn["tries"])
    upwards = radius * jnp.where(shape == _CUBE, math.sqrt(0.5), 1)
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
    _, label = _look(objects, view, image_size)
    visible = count_visible(label, most)
    right = jnp.sum(exists & fits & (visible >= least), dtype=jnp.int32)
    return (objects, view), right


def _bodies(objects: Solids) -> Bodies:
    is_cube = objects.shape == _CUBE
    radius = jnp.asarray(SIZES)[objects.size]
    return Bodies(
        objects.coordinates,
        jnp.where(is_cube, math.sqrt(0.5), 1) * radius,
        jnp.stack([jnp.cos(objects.rotation), jnp.sin(objects.rotation)], axis=1),
        is_cube,
        objects.shape == _BALL,
        objects.present,
    )


def _look(
    objects: Solids, view: View, image_size: tuple[int, int]
) -> tuple[Float[Array, "height width"], Int[Array, "height width"]]:
    """Depth and label of what the ray through the middle of each pixel meets."""
    camera = tuple(view.camera)
    rays = through_pixels(camera, view.field_of_view, image_size)
    depth, label = nearest(_bodies(objects), camera, rays)
    return depth.reshape(image_size), label.reshape(image_size)


def _seen(
    objects: Solids, view: View, segmentation: Int[Array, "height width"]
) -> Solids:
    """The objects with where their middles are in the image, and how much is seen."""
    height, width = segmentation.shape
    right, down, ahead = camera_axes(tuple(view.camera))
    away = tuple((objects.coordinates - view.camera[None]).T)
    scale = 1 / (dot(away, ahead) * half_pixel(view.field_of_view, (height, width)))
    y, x = dot(away, down) * scale + height, dot(away, right) * scale + width
    centre = only_where(objects.present, jnp.stack([y, x], axis=1) / 2)
    visible = count_visible(segmentation, len(objects.size))
    return objects._replace(centre=centre, visible=visible, present=visible > 0)
