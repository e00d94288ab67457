import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Bool, Float

from .._misc import check_mask, check_shape


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

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    print(losses.orthogonality(jnp.eye(7, 64)))  # 0.0
    print(losses.orthogonality(jnp.ones((7, 64))))  # 1.0
    ```
    """
    check_shape("slots", slots, "slots slot_size", (-1, -1), batch=MAPPED)
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


MAPPED = "jax.vmap(loss)({name})"
