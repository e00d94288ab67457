"""Losses: one example in, one number out; `jax.vmap` and `jnp.mean` make a batch."""

import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Bool, Float

from ._misc import check_mask, check_shape


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


def expected_num_slots(
    probability: Float[Array, " slots"],
) -> Float[Array, ""]:
    """How many slots [`eqx_slots.nn.KeepSlots`][] keeps, on average over its draws.

    Times a weight it is the price of a slot: one is kept as long as it saves more
    reconstruction error than it costs (AdaSlot, Fan et al. 2024).

    **Arguments:**

    - `probability`: That each slot is kept, in [0, 1].

    **Returns:**

    A number from 0 to the number of slots.
    """
    check_shape("probability", probability, "slots", (-1,), batch=_MAPPED)
    return jnp.sum(probability)


def orthogonality(
    slots: Float[Array, "slots slot_size"],
    *,
    slot_mask: Bool[Array, " slots"] | None = None,
) -> Float[Array, ""]:
    """How alike the slots are: the mean squared cosine of all pairs of them.

    Added to another loss it drives slots apart, where several hold the same object.
    Cosines make it blind to the size of slots (lucidrains' `OrthoSlotWrapper` centres
    the slots and squares their inner products instead).

    **Arguments:**

    - `slots`: The slots of one example.
    - `slot_mask`: Slots that take part; `None` means all. (Keyword only argument.)

    **Returns:**

    A number from 0 (all at right angles) to 1 (all in line); 0 for fewer than two.
    """
    check_shape("slots", slots, "slots slot_size", (-1, -1), batch=_MAPPED)
    exists = jnp.ones(slots.shape[0], bool) if slot_mask is None else slot_mask
    check_mask("slot_mask", exists, "slots", slots.shape[:1])
    # A slot of zeros has no direction: it is at right angles to all, and so is its
    # gradient, which a plain norm would make NaN.
    squared = jnp.sum(jnp.square(slots), axis=1)
    pointing = exists & (squared > 0)
    size = jnp.sqrt(jnp.where(pointing, squared, 1))
    unit = jnp.where(pointing[:, None], slots / size[:, None], 0)
    cosine = einsum(unit, unit, "i d, j d -> i j")
    other = ~jnp.eye(slots.shape[0], dtype=bool) & exists[:, None] & exists[None, :]
    number = jnp.sum(other, dtype=slots.dtype)
    return jnp.sum(jnp.where(other, cosine**2, 0)) / jnp.maximum(number, 1)


_MAPPED = "jax.vmap(loss)({name})"
