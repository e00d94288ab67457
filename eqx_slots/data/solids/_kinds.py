"""What is in a scene of solids, and from where it is seen."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


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
CUBE, BALL = 0, 1  # in the order of `properties.CLEVR`


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
