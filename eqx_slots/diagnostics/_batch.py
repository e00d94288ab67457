"""What all diagnostics begin with: a batch and what a model made of it, checked."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._misc import accumulator_dtype, as_array, check_floating, check_shape
from ..models import Reconstruction


# The share of the pixels that a slot must have to be in use at all.
IN_USE = 0.01

_MAPPED = (
    " The diagnostics look at a batch of images and at the mapped model's answer, for"
    " example `jax.vmap(model)(images)`."
)
TOO_FEW = "A diagnosis compares images: give at least 2 (better 32 or more), got {}."


def checked(images: Array, made: Reconstruction) -> tuple[Array, Reconstruction]:
    """Both in float32 or wider, if they fit each other."""
    images = as_array("images", images)
    check_made(made)
    check_floating("images", images)
    if images.ndim != 4 or images.shape != made.image.shape:
        raise ValueError(
            "`images` and `made.image` must both have the shape (batch, channels,"
            f" height, width), got {images.shape} and {made.image.shape}." + _MAPPED
        )
    if images.shape[0] < 2:
        raise ValueError(TOO_FEW.format(images.shape[0]))
    with jax.numpy_dtype_promotion("standard"):  # widening on purpose
        wide = accumulator_dtype(jnp.result_type(images, made.image))
    wider = made._replace(
        image=made.image.astype(wide),
        rgb=made.rgb.astype(wide),
        masks=made.masks.astype(wide),
    )
    return images.astype(wide), wider


def check_made(made: Reconstruction) -> None:
    if not isinstance(made, Reconstruction):
        raise ValueError(
            f"`made` must be a `Reconstruction`, got {type(made).__name__}." + _MAPPED
        )


def checked_masks(made: Reconstruction) -> Float[Array, "batch slots height width"]:
    check_made(made)
    if made.masks.ndim != 4:
        raise ValueError(
            "`made.masks` must have the shape (batch, slots, height, width), got"
            f" {made.masks.shape}." + _MAPPED
        )
    return made.masks.astype(accumulator_dtype(made.masks.dtype))


def background_of(
    images: Float[Array, "batch channels height width"],
    segmentation: Int[Array, "batch height width"] | None,
) -> Bool[Array, "batch height width"]:
    """Label 0; without labels what has the image's median colour, if that is plain.

    It is where that colour is half of the image at least.
    """
    if segmentation is not None:
        check_segmentation(segmentation, images)
        return segmentation == 0
    colour = jnp.median(images, axis=(2, 3), keepdims=True)
    plain = is_near(images, jnp.broadcast_to(colour, images.shape))
    return plain & (jnp.mean(plain, axis=(1, 2), keepdims=True) >= 0.5)


def is_near(
    images: Float[Array, "batch channels height width"],
    others: Float[Array, "batch channels height width"],
) -> Bool[Array, "batch height width"]:
    """Where they are the same up to a tenth of the range of all values of images."""
    off = jnp.sqrt(jnp.mean(jnp.square(images - others), axis=1))
    return off <= 0.1 * (jnp.max(images) - jnp.min(images))


def check_segmentation(segmentation: Array, images: Array) -> None:
    batch, _, height, width = images.shape
    axes = "batch height width"
    check_shape("segmentation", segmentation, axes, (batch, height, width))
    if not jnp.issubdtype(segmentation.dtype, jnp.integer):
        raise ValueError(
            f"`segmentation` must hold integer labels, got {segmentation.dtype}."
        )
