import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Float

from ..models import Reconstruction
from ._batch import checked


def reconstruction_error(
    images: Float[Array, "batch channels height width"], made: Reconstruction
) -> Float[Array, ""]:
    """The error of the picture as a share of the error of the batch's mean image.

    0 is a perfect picture and 1 what a model reaches that ignores its input; painting
    the colour of a plain background everywhere costs a little more than 1.

    **Arguments:**

    - `images`: What the model saw, two different images at least.
    - `made`: What it made of them, mapped over the batch.

    **Returns:**

    A non-negative number; not finite if a pixel of `made` is not, or if all images are
    the same.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    images = jr.uniform(jr.key(0), (8, 3, 16, 16))
    mean = jnp.broadcast_to(images.mean(axis=0), images.shape)  # whatever the image
    rgb, masks = jnp.stack([mean] * 4, axis=1), jnp.full((8, 4, 16, 16), 0.25)
    slots, attention = jnp.zeros((8, 4, 64)), jnp.full((8, 4, 256), 0.25)
    made = Reconstruction(mean, rgb, masks, slots, attention)
    print(diagnostics.reconstruction_error(images, made).round(3))  # 1.0
    ```
    """
    images, made = checked(images, made)
    error = jnp.mean(jnp.square(made.image - images))
    return error / jnp.mean(jnp.square(images - _mean_image(images)))


def saturated_error(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    rgb_range: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, ""]:
    """The part of [`eqx_slots.diagnostics.reconstruction_error`][] that no longer
    teaches: error on RGB that sits at the ends of a sigmoid's range.

    There the sigmoid's slope, a factor of the gradient, is below 0.01. Saturated colour
    without error is none of it: black painted black is right.

    **Arguments:**

    - `images`, `made`: As for [`eqx_slots.diagnostics.reconstruction_error`][].
    - `rgb_range`: The least and the largest value that RGB can have, `(-1, 1)` for a
        tanh. RGB that leaves it anywhere cannot be saturated. (Keyword only argument.)

    **Returns:**

    A number from 0 to `reconstruction_error(images, made)`.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    images = jr.uniform(jr.key(0), (8, 3, 16, 16))
    white, masks = jnp.ones((8, 4, 3, 16, 16)), jnp.full((8, 4, 16, 16), 0.25)
    slots, attention = jnp.zeros((8, 4, 64)), jnp.full((8, 4, 256), 0.25)
    made = Reconstruction(white[:, 0], white, masks, slots, attention)
    error = diagnostics.reconstruction_error(images, made)
    print(jnp.allclose(diagnostics.saturated_error(images, made), error))  # True
    ```
    """
    images, made = checked(images, made)
    low, high = rgb_range
    if not low < high:
        raise ValueError(f"`rgb_range` must be (least, largest), got {rgb_range}.")
    margin = 0.01 * (high - low)
    ended = (made.rgb < low + margin) | (made.rgb > high - margin)
    bounded = jnp.all((made.rgb >= low) & (made.rgb <= high))
    share = einsum(
        (ended & bounded).astype(made.masks.dtype),
        made.masks,
        "batch slots channels h w, batch slots h w -> batch channels h w",
    )
    error = jnp.mean(share * jnp.square(made.image - images))
    return error / jnp.mean(jnp.square(images - _mean_image(images)))


def _mean_image(images: Array) -> Array:
    mean = jnp.mean(images, axis=0, keepdims=True)
    return jnp.broadcast_to(mean, images.shape)
