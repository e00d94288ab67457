from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import einsum
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    cast,
    check_floating,
    check_mask,
    check_positive,
    check_shape,
)


class Kept(NamedTuple):
    """Which slots to keep, and how likely that was.

    `mask` holds exactly 0 or 1, but its gradient is that of a soft choice, so that a
    loss on what the kept slots paint teaches the scores.

    **Fields:**

    - `mask`: Which slots are kept, `slots`.
    - `probability`: How likely each was to be kept, in [0, 1], `slots`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import losses, nn

    keep_slots = nn.KeepSlots(64, key=jr.key(0))
    kept = keep_slots(jr.normal(jr.key(1), (7, 64)), key=jr.key(2))
    price = 0.01 * losses.expected_num_slots(kept.probability)
    print(kept.mask.sum() >= 1, price.shape)  # True ()
    ```
    """

    mask: Float[Array, " slots"]
    probability: Float[Array, " slots"]


class KeepSlots(eqx.Module):
    r"""Decide for each slot whether it is needed: a number of slots for each input.

    A linear score gives the log-odds $l_k$ of keeping slot $k$. With a key a choice is
    drawn, and its gradient is that of the relaxed choice $\sigma((l_k + g_k) / \tau)$
    with the same noise (the straight-through Gumbel-softmax of two classes, Jang et al.
    2017; $g$ is logistic, the difference of two Gumbel draws). Without one, slots more
    likely kept than not are. Give `mask` to [`eqx_slots.models.composite`][] as
    `keep=`, and add [`eqx_slots.losses.expected_num_slots`][] to the loss (AdaSlot,
    Fan et al. 2024).

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    keep_slots = nn.KeepSlots(64, key=jr.key(0))
    slots = jr.normal(jr.key(1), (7, 64))
    mask, probability = keep_slots(slots, key=jr.key(2))
    print(mask.shape, probability.shape)  # (7,) (7,)
    ```
    """

    score: eqx.nn.Linear
    slot_size: int = eqx.field(static=True)
    min_slots: int = eqx.field(static=True)
    temperature: float
    inference: bool

    def __init__(
        self,
        slot_size: int,
        *,
        min_slots: int = 1,
        temperature: float = 1.0,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of a slot.
        - `min_slots`: So many are kept in any case, those of the highest score.
            (Keyword only argument, as all that follow.)
        - `temperature`: Of the relaxed choice that gradients come from; which slots are
            drawn does not depend on it. Not positive is a `ValueError`.
        - `inference`: Whether to draw nothing even with a key;
            `equinox.nn.inference_mode(model)` sets it.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_positive(slot_size=slot_size, min_slots=min_slots)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.score = eqx.nn.Linear(slot_size, "scalar", dtype=dtype, key=key)
        self.slot_size = slot_size
        self.min_slots = min_slots
        self.temperature = temperature
        self.inference = inference

    def __call__(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        *,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Kept:
        """**Arguments:**

        - `slots`: The slots of one example.
        - `slot_mask`: Slots that exist at all; the others are never kept. (Keyword only
            argument.)
        - `key`: Randomness of the choice; without it, or with `inference`, nothing is
            drawn. (Keyword only argument.)

        **Returns:**

        A [`eqx_slots.nn.Kept`][] in the dtype of `slots`. Fewer slots than `min_slots`,
        or integers, are a `ValueError`.
        """
        slots = as_array("slots", slots)
        check_floating("slots", slots)
        axes = "slots slot_size"
        check_shape("slots", slots, axes, (-1, self.slot_size), batch=_MAPPED)
        if slots.shape[0] < self.min_slots:
            raise ValueError(
                f"`min_slots`={self.min_slots} slots cannot be kept of"
                f" {slots.shape[0]}."
            )
        wide = accumulator_dtype(slots.dtype)
        if slot_mask is not None:
            check_mask("slot_mask", slot_mask, "slots", slots.shape[:1])
            slots = jnp.where(slot_mask[:, None], slots, 0)
        log_odds = jax.vmap(cast(self.score, wide))(slots.astype(wide))
        probability = jax.nn.sigmoid(log_odds)
        if key is not None and not self.inference:
            log_odds = log_odds + jr.logistic(key, log_odds.shape, wide)
        soft = jax.nn.sigmoid(log_odds / self.temperature)
        if slot_mask is not None:
            log_odds = jnp.where(slot_mask, log_odds, -jnp.inf)
        # Of equals the first is kept: ranks are those of a stable sort.
        rank = jnp.argsort(jnp.argsort(-log_odds))
        kept = (log_odds > 0) | (rank < self.min_slots)
        hard = kept.astype(wide)
        # The difference is exactly 0; its gradient is that of `soft`.
        mask = hard + (soft - jax.lax.stop_gradient(soft))
        if slot_mask is not None:
            mask = jnp.where(slot_mask, mask, 0)
            probability = jnp.where(slot_mask, probability, 0)
        return Kept(mask.astype(slots.dtype), probability.astype(slots.dtype))


class Merged(NamedTuple):
    """What [`eqx_slots.nn.merge_duplicates`][] gives back: slots without duplicates.

    **Fields:**

    - `slots`: The slots, `slots slot_size`; zero where there is none any more.
    - `slot_mask`: Which places still hold one, `slots`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    layer = nn.SlotAttention(32, 64, num_slots=7, key=jr.key(0))
    features = jr.normal(jr.key(1), (256, 32))
    merged = nn.merge_duplicates(layer(features, key=jr.key(2)).slots)
    state = layer(features, slots=merged.slots, slot_mask=merged.slot_mask)
    print(state.slots.shape)  # (7, 64)
    ```
    """

    slots: Float[Array, "slots slot_size"]
    slot_mask: Bool[Array, " slots"]


def merge_duplicates(
    slots: Float[Array, "slots slot_size"],
    *,
    threshold: float = 0.95,
    slot_mask: Bool[Array, " slots"] | None = None,
) -> Merged:
    """Put slots that say the same into one: their mean, in the place of the first.

    Two slots are duplicates if the cosine of the angle between them is above
    `threshold`, and so are two that a chain of duplicates links. The result can start
    another pass, `layer(inputs, slots=merged.slots, slot_mask=merged.slot_mask)`, as in
    MetaSlot (Liu et al. 2025, which finds duplicates by a codebook instead).

    **Arguments:**

    - `slots`: The slots of one example.
    - `threshold`: Cosine from -1 to 1. (Keyword only argument.)
    - `slot_mask`: Slots that exist at all. (Keyword only argument.)

    **Returns:**

    The [`eqx_slots.nn.Merged`][] slots, zero where there is none any more. A threshold
    out of range, integers, or a mask that does not fit, are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    slots = jr.normal(jr.key(0), (3, 64))
    slots, slot_mask = nn.merge_duplicates(slots[jnp.array([0, 1, 1, 2])])
    print(slots.shape, slot_mask)  # (4, 64) [ True  True False  True]
    ```
    """
    slots = as_array("slots", slots)
    check_floating("slots", slots)
    check_shape("slots", slots, "slots slot_size", (-1, -1), batch=_MAPPED)
    number = slots.shape[0]
    if not -1 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in [-1, 1], got {threshold}.")
    if slot_mask is None:
        slot_mask = jnp.ones(number, bool)
    check_mask("slot_mask", slot_mask, "slots", (number,))
    wide = accumulator_dtype(slots.dtype)
    exact = jnp.where(slot_mask[:, None], slots.astype(wide), 0)
    size = jnp.linalg.norm(jax.lax.stop_gradient(exact), axis=1, keepdims=True)
    unit = exact / jnp.where(size > 0, size, 1)
    cosine = einsum(unit, unit, "i d, j d -> i j")
    linked = (cosine > threshold) & slot_mask[:, None] & slot_mask[None, :]
    linked = linked | jnp.eye(number, dtype=bool)
    for _ in range(max(number - 1, 1).bit_length()):  # paths of twice the length
        linked = jnp.any(linked[:, :, None] & linked[None, :, :], axis=1)
    first = jnp.argmax(linked, axis=1)
    remains = (first == jnp.arange(number)) & slot_mask
    linked = linked.astype(wide)
    share = linked / jnp.sum(linked, axis=1, keepdims=True)
    merged = einsum(share, exact, "i j, j d -> i d")
    merged = jnp.where(remains[:, None], merged, 0)
    return Merged(merged.astype(slots.dtype), remains)


_MAPPED = "jax.vmap(function)({name})"
