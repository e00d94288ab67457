from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Float

from .._misc import accumulator_dtype, check_shape
from ._competition import Softmax
from ._reduction import WeightedMean


class Attended(NamedTuple):
    """What [`eqx_slots.nn.inverted_attention`][] gives back."""

    updates: Float[Array, "slots value_size"]
    attention: Float[Array, "slots inputs"]


def inverted_attention(
    q: Float[Array, "slots size"],
    k: Float[Array, "inputs size"],
    v: Float[Array, "inputs value_size"],
    *,
    scale: float | None = None,
    competition: Callable = Softmax(),
    reduction: Callable = WeightedMean(),
) -> Attended:
    r"""Attention in which the queries (slots) compete for the keys (inputs).

    $$A = \mathrm{competition}(s\, q k^\top), \qquad
    u = \mathrm{reduction}(A, v)$$

    With the default parts: a softmax over slots, then for each slot the mean of the
    values weighted by what it won (Locatello et al. 2020, Algorithm 1). The sums run
    in float32 or wider and the results come back in the dtype of `q`.

    **Arguments:**

    - `q`: One query for each slot.
    - `k`: One key for each input.
    - `v`: One value for each input.
    - `scale`: Factor on the logits; `None` means `size ** -0.5`. (Keyword only.)
    - `competition`: How the slots share out each input. (Keyword only.)
    - `reduction`: What a slot takes from the inputs it won. (Keyword only.)

    **Returns:**

    `updates` for each slot, and the `attention` whose columns sum to 1. Arrays that do
    not fit each other are a `ValueError`.
    """
    wide = accumulator_dtype(q.dtype)
    call = "jax.vmap(inverted_attention)(q, k, v)"
    check_shape("q", q, "slots size", (-1, k.shape[-1]), batch=call)
    check_shape("k", k, "inputs size", (-1, -1), batch=call)
    check_shape("v", v, "inputs value_size", (k.shape[0], -1), batch=call)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    logits = einsum(
        q.astype(wide) * factor, k.astype(wide), "slots d, inputs d -> slots inputs"
    )
    attention = competition(logits)
    updates = reduction(attention, v.astype(wide))
    return Attended(
        updates=jnp.asarray(updates, q.dtype), attention=attention.astype(q.dtype)
    )
