"""Objects and view as a picture."""

import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._misc import check_positive, check_shape
from ...properties import CLEVR
from .._light import light, Paint
from .._rays import through_pixels
from .._scene import count_visible, only_where, Scene
from ._arrange import arrange
from ._bodies import bodies_of, in_image, look
from ._kinds import COLOURS, Solids, View


_SUB = 2  # rays a pixel, along each side of it


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
    depth, segmentation = look(objects, view, image_size)
    palette = (jnp.array(list(COLOURS.values()), float) / 255) ** 1.6
    linear = light(
        bodies_of(objects),
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


def _seen(
    objects: Solids, view: View, segmentation: Int[Array, "height width"]
) -> Solids:
    """The objects with where their middles are in the image, and how much is seen."""
    height, width = segmentation.shape
    place = in_image(tuple(objects.coordinates.T), view, (height, width))
    visible = count_visible(segmentation, len(objects.size))
    centre = only_where(objects.present, place.T)
    return objects._replace(centre=centre, visible=visible, present=visible > 0)
