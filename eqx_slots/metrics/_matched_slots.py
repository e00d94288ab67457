from typing import NamedTuple

import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Bool, Float, Int

from .._matching import match
from .._misc import accumulator_dtype, as_array, check_shape


class Matched(NamedTuple):
    """Which slots of `b` go with those of `a`: `a[i]` with `b[order[i]]`.

    `distance` is Euclidean, of each pair; without `valid` neither means anything.
    """

    order: Int[Array, " slots"]
    distance: Float[Array, " slots"]
    valid: Bool[Array, ""]


def match_slots(
    a: Float[Array, "slots slot_size"], b: Float[Array, "slots slot_size"]
) -> Matched:
    """Pair two sets of slots so that the squared distances sum to the least.

    Slots have no order of their own: this is how to follow them from frame to frame, or
    to compare runs and rounds. `b[match_slots(a, b).order]` is in the order of `a`.

    **Arguments:**

    - `a`, `b`: As many slots, of the same width.

    **Returns:**

    [`eqx_slots.metrics.Matched`][], `valid` if all slots are finite. Shapes that differ
    are a `ValueError`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import metrics

    a = jr.normal(jr.key(0), (7, 64))
    order, distance, valid = metrics.match_slots(a, a[::-1])
    print(order, distance.max(), valid)  # [6 5 4 3 2 1 0] 0.0 True
    ```
    """
    a, b = as_array("a", a), as_array("b", b)
    call = "jax.vmap(match_slots)(a, b)"
    check_shape("a", a, "slots slot_size", (-1, -1), batch=call)
    check_shape("b", b, "slots slot_size", a.shape, batch=call)
    # The square of a distance may be beyond the range of float16.
    a, b = (x.astype(accumulator_dtype(x.dtype)) for x in (a, b))
    cost = reduce(jnp.square(a[:, None] - b[None, :]), "i j d -> i j", "sum")
    order, valid = match(cost)
    chosen = cost[jnp.arange(a.shape[0]), order]
    # Where two slots are equal a square root would have no gradient.
    apart = valid & (chosen > 0)
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, chosen, 1)), 0)
    return Matched(order, distance, valid)
