from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from einops import einsum, reduce
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_mask,
    check_shape,
)
from ._competition import Softmax
from ._reduction import WeightedMean


class Attended(NamedTuple):
    """What [`eqx_slots.nn.inverted_attention`][] gives back.

    An axis of heads stands in front where queries, keys and values have one.

    **Fields:**

    - `updates`: What each slot takes, `slots value_size`.
    - `attention`: What share of each input each slot won, `slots inputs`.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    q, k = jr.normal(jr.key(0), (4, 7, 16)), jr.normal(jr.key(1), (4, 256, 16))
    made = nn.inverted_attention(q, k, k)  # four heads
    print(made.updates.shape, made.attention.shape)  # (4, 7, 16) (4, 7, 256)
    print(jnp.allclose(made.attention.sum(axis=-2), 1))  # True
    ```
    """

    updates: Float[Array, "*heads slots value_size"]
    attention: Float[Array, "*heads slots inputs"]


def inverted_attention(
    q: Float[Array, "*heads slots size"],
    k: Float[Array, "*heads inputs size"],
    v: Float[Array, "*heads inputs value_size"],
    *,
    scale: float | None = None,
    competition: Callable[..., Array] = Softmax(),
    reduction: Callable[..., Array] = WeightedMean(),
    mask: Bool[Array, "slots inputs"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Attended:
    r"""Attention in which the queries (slots) compete for the keys (inputs).

    $$A = \mathrm{competition}(s\, q k^\top), \qquad
    u = \mathrm{reduction}(A, v)$$

    With the default parts: a softmax over slots, then for each slot the mean of the
    values weighted by what it won (Locatello et al. 2020, equations 1 and 2). The sums
    run in float32 or wider and the results come back in the dtype of `q`.

    **Arguments:**

    - `q`: One query for each slot; an axis of heads in front is optional, here and in
        what follows.
    - `k`: One key for each input.
    - `v`: One value for each input.
    - `scale`: Factor on the logits; `None` means `size ** -0.5`. (Keyword only
        argument, as all that follow.)
    - `competition`: How the slots share out each input, called as
        `competition(logits, mask=mask, key=key)`.
    - `reduction`: What a slot takes from the inputs it won, called as
        `reduction(attention, v, mask=mask)`.
    - `mask`: Which slot may take of which input; `None` means all of all. What is in an
        input that no slot may take, NaN included, reaches nothing.
    - `key`: Randomness for a competition that draws.

    **Returns:**

    `updates` for each slot, and the `attention` whose columns sum to 1. Arrays that do
    not fit each other, or of integers, are a `ValueError`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    q, k = jr.normal(jr.key(0), (7, 64)), jr.normal(jr.key(1), (256, 64))
    v = jr.normal(jr.key(2), (256, 32))
    updates, attention = nn.inverted_attention(q, k, v)
    print(updates.shape, attention.shape)  # (7, 32) (7, 256)
    ```
    """
    q, k, v = as_array("q", q), as_array("k", k), as_array("v", v)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_floating(name, x)
    call = "jax.vmap(inverted_attention)(q, k, v)"
    heads = q.shape[-3:-2]
    axes = "heads " * len(heads)
    check_shape("q", q, f"{axes}slots size", (*heads, -1, k.shape[-1]), batch=call)
    check_shape("k", k, f"{axes}inputs size", (*heads, -1, -1), batch=call)
    inputs = k.shape[-2]
    check_shape("v", v, f"{axes}inputs value_size", (*heads, inputs, -1), batch=call)
    if mask is not None:
        check_mask("mask", mask, "slots inputs", (q.shape[-2], inputs))
        seen = reduce(mask, "slots inputs -> inputs 1", "any")
        k = jnp.where(jnp.broadcast_to(seen, k.shape), k, 0)
        v = jnp.where(jnp.broadcast_to(seen, v.shape), v, 0)
    wide = accumulator_dtype(q.dtype)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    logits = einsum(
        q.astype(wide) * factor,
        k.astype(wide),
        "... slots d, ... inputs d -> ... slots inputs",
    )
    attention = competition(logits, mask=mask, key=key)
    updates = reduction(attention, v.astype(wide), mask=mask)
    return Attended(updates.astype(q.dtype), attention.astype(q.dtype))
