"""How many pixels each true object shares with each predicted one: all that the scores
of a segmentation ask for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array, Bool, Float

from .._misc import as_array, check_positive, one_hot


class Counts(NamedTuple):
    """Pixels that true object `i` has in common with predicted object `j`.

    Where each pixel draws its owner from its masks the number is a random one: `mean`
    is what to expect, and `variance` its variance, summed over `j`, which labels do not
    have.
    """

    mean: Float[Array, "true predicted"]
    variance: Float[Array, " true"]
    valid: Bool[Array, ""]


def count_labels(
    true: Array, predicted: Array, num_true: int, num_predicted: int
) -> Counts:
    """`valid` if all labels are in range."""
    check_positive(num_true=num_true, num_predicted=num_predicted)
    true, predicted = as_array("true", true), as_array("predicted", predicted)
    if true.shape != predicted.shape:
        raise ValueError(
            "`true` and `predicted` must label the same pixels, got shapes"
            f" {true.shape} and {predicted.shape}. One example at a time: a batch is"
            " mapped by `jax.vmap`."
        )
    _check_labels("true", true)
    _check_labels("predicted", predicted)
    true_hot = one_hot(true.ravel(), num_true, jnp.float32)
    predicted_hot = one_hot(predicted.ravel(), num_predicted, jnp.float32)
    pixels = einsum(
        true_hot, predicted_hot, "pixels true, pixels predicted -> true predicted"
    )
    return Counts(
        pixels, jnp.zeros(num_true, jnp.float32), jnp.sum(pixels) == true.size
    )


def count_masks(true: Array, masks: Array, num_true: int) -> Counts:
    """`valid` if all labels are in range and the masks of each pixel a distribution."""
    check_positive(num_true=num_true)
    true, masks = as_array("true", true), as_array("masks", masks)
    _check_labels("true", true)
    if masks.ndim != true.ndim + 1 or masks.shape[1:] != true.shape:
        raise ValueError(
            "`masks` must have the shape of `true` behind an axis of slots, got"
            f" {masks.shape} for {true.shape}. One example at a time: a batch is mapped"
            " by `jax.vmap`."
        )
    if not jnp.issubdtype(masks.dtype, jnp.floating):
        raise ValueError(
            f"`masks` must hold floating point numbers, got {masks.dtype}; labels are"
            " scored by the function without `soft_` in its name."
        )
    rounding = (masks.shape[0] + 8) * jnp.finfo(masks.dtype).eps
    masks = rearrange(masks, "slots ... -> slots (...)").astype(jnp.float32)
    # NaN compares as False.
    off = jnp.abs(jnp.sum(masks, axis=0) - 1)
    proper = jnp.all(masks >= 0) & jnp.all(off <= float(rounding))
    true_hot = one_hot(true.ravel(), num_true, jnp.float32)
    drawn = jnp.sum(masks * (1 - masks), axis=0)
    with jax.default_matmul_precision("highest"):
        mean = einsum(true_hot, masks, "pixels true, slots pixels -> true slots")
        variance = einsum(true_hot, drawn, "pixels true, pixels -> true")
    # What is not valid is a number all the same.
    mean, variance = (jnp.where(proper, x, 0) for x in (mean, variance))
    return Counts(mean, variance, proper & (jnp.sum(true_hot) == true.size))


def _check_labels(name: str, labels: Array) -> None:
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"`{name}` must hold integer labels, got {labels.dtype}; masks become"
            " labels by `jnp.argmax(masks, axis=0)`."
        )
