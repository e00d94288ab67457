"""Losses: one example in, one number out; `jax.vmap` and `jnp.mean` make a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_squared_error(
    predicted: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """The autoencoder's loss: squared error, averaged over channels and pixels.

    **Arguments:**

    - `predicted`: The reconstructed image.
    - `target`: The image, of the same shape; another shape is a `ValueError`.

    **Returns:**

    A non-negative number.
    """
    if predicted.shape != target.shape:
        raise ValueError(
            "`predicted` and `target` must have the same shape, got"
            f" {predicted.shape} and {target.shape}."
        )
    return jnp.mean(jnp.square(predicted - target))
