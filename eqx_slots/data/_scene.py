from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int


class Objects(NamedTuple):
    """What is in a scene, one row an object, the first row farthest back.

    `colour` counts in the palette of the dataset; `centre` is `(y, x)` and `size`
    `(height, width)`, both in pixels, the upper left corner of the image being 0.
    `present` says that at least one pixel is visible: other rows are fully covered, or
    padding, whose numbers are all zero.
    """

    colour: Int[Array, " objects"]
    centre: Float[Array, "objects 2"]
    size: Float[Array, "objects 2"]
    present: Bool[Array, " objects"]


class Scene(NamedTuple):
    """A picture and the exact truth about it.

    `image` lies in [0, 1]. `segmentation` is 0 for background and `1 + i` where object
    `i` is what one sees.
    """

    image: Float[Array, "3 height width"]
    segmentation: Int[Array, "height width"]
    objects: Objects


def paint(
    background: Float[Array, "3 height width"],
    shapes: Bool[Array, "objects height width"],
    colours: Float[Array, "objects 3"],
) -> tuple[Float[Array, "3 height width"], Int[Array, "height width"]]:
    """Paint shapes over a background, later ones over earlier ones.

    **Arguments:**

    - `background`: What is seen where no object is.
    - `shapes`: The pixels of each object, hidden ones included.
    - `colours`: The colour of each object.

    **Returns:**

    The image, and the segmentation: 0 for background, `1 + i` for object `i`.
    """
    number = 1 + jnp.arange(shapes.shape[0], dtype=jnp.int32)
    labels = jnp.where(shapes, rearrange(number, "objects -> objects 1 1"), 0)
    segmentation = jnp.max(labels, axis=0, initial=0)
    painted = rearrange(colours[segmentation - 1], "h w rgb -> rgb h w")
    return jnp.where(segmentation[None] > 0, painted, background), segmentation
