import jax.numpy as jnp
from jaxtyping import Array, Float

from .._misc import as_array, check_floating


def mean_squared_error(
    predicted: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """The autoencoder's loss: squared error, averaged over channels and pixels.

    **Arguments:**

    - `predicted`: The reconstructed image.
    - `target`: The image, of the same shape; another shape, or integers, are a
        `ValueError`.

    **Returns:**

    A non-negative number.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    image = jnp.zeros((3, 32, 32))
    print(losses.mean_squared_error(image + 0.5, image))  # 0.25
    ```
    """
    predicted, target = as_array("predicted", predicted), as_array("target", target)
    check_floating("predicted", predicted)
    check_floating("target", target)
    if predicted.shape != target.shape:
        raise ValueError(
            "`predicted` and `target` must have the same shape, got"
            f" {predicted.shape} and {target.shape}; a decoder paints images of one"
            " size, `model.decoder.image_size`, so bring the targets to that."
        )
    return jnp.mean(jnp.square(predicted - target))
