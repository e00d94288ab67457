import math

import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Bool, Float

from .._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_mask,
    check_shape,
)


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

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    probability = jnp.array([1.0, 0.5, 0.25])
    print(losses.expected_num_slots(probability))  # 1.75
    ```
    """
    check_shape("probability", probability, "slots", (-1,), batch=MAPPED)
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
    Integers, or a mask that does not fit, are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    print(losses.orthogonality(jnp.eye(7, 64)))  # 0.0
    print(losses.orthogonality(jnp.ones((7, 64))))  # 1.0
    ```
    """
    slots = as_array("slots", slots)
    check_floating("slots", slots)
    check_shape("slots", slots, "slots slot_size", (-1, -1), batch=MAPPED)
    exists = jnp.ones(slots.shape[0], bool) if slot_mask is None else slot_mask
    exists = as_array("slot_mask", exists)
    check_mask("slot_mask", exists, "slots", slots.shape[:1])
    # The squares of what float16 can hold may be beyond its range.
    slots = slots.astype(accumulator_dtype(slots.dtype))
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


def noise_divergence(
    log_scale: Float[Array, "slots slot_size"], *, variance: float = 0.01
) -> Float[Array, ""]:
    r"""What keeps the noise on initial slots from being unlearned.

    $$\frac{1}{K} \sum_k \sum_d \left(\log\frac{\sigma_0}{\sigma_{kd}}
    + \frac{\sigma_{kd}^2}{2 \sigma_0^2} - \frac{1}{2}\right)$$

    The Kullback-Leibler divergence from the Gaussian that a slot is drawn from to one
    of the same mean and of variance $\sigma_0^2$, averaged over the slots. StoSAVi (Wu
    et al. 2023) has it with a weight of 1e-4 and a variance of 0.01, to find objects in
    videos without hints: the error of the pictures alone would learn the noise away.

    **Arguments:**

    - `log_scale`: Logarithm of the standard deviations, that of
        [`eqx_slots.nn.LearnedGaussianSlots`][].
    - `variance`: The one to hold to. Not positive is a `ValueError`. (Keyword only
        argument.)

    **Returns:**

    A non-negative number, 0 where all have that variance.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import losses, nn

    slot_init = nn.LearnedGaussianSlots(7, 64, scale=0.2, key=jr.key(0))
    print(f"{losses.noise_divergence(slot_init.log_scale):.1f}")  # 51.6
    ```
    """
    axes = "slots slot_size"
    check_shape("log_scale", log_scale, axes, (-1, -1), batch=MAPPED)
    check_floating("log_scale", log_scale)
    if not variance > 0:
        raise ValueError(f"`variance` must be positive, got {variance}.")
    wide = log_scale.astype(accumulator_dtype(log_scale.dtype))
    ahead = wide - math.log(variance) / 2  # of the logarithms
    divergence = 0.5 * jnp.expm1(2 * ahead) - ahead
    return jnp.mean(jnp.sum(divergence, axis=1))


MAPPED = "jax.vmap(loss)({name})"
