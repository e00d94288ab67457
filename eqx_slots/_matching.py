"""Which row goes with which column: the one matching that loss and metrics share."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from optax.assignment import hungarian_algorithm

from ._misc import accumulator_dtype


class Matching(NamedTuple):
    """For each row its column, or -1 for none; without `valid` it means nothing."""

    order: Int[Array, " rows"]
    valid: Bool[Array, ""]


def match(
    cost: Float[Array, "rows columns"],
    *,
    row_mask: Bool[Array, " rows"] | None = None,
    column_mask: Bool[Array, " columns"] | None = None,
) -> Matching:
    """As many pairs of a row and a column as there can be, for the least total cost.

    It is `valid` if all costs between rows and columns that take part are finite. The
    Hungarian algorithm runs on finite numbers in any case: on others it would match at
    random. No gradient goes through a choice.
    """
    rows, columns = cost.shape
    row_mask = jnp.ones(rows, bool) if row_mask is None else jnp.asarray(row_mask)
    if column_mask is None:
        column_mask = jnp.ones(columns, bool)
    column_mask = jnp.asarray(column_mask)
    both = row_mask[:, None] & column_mask[None, :]
    cost = lax.stop_gradient(cost).astype(accumulator_dtype(cost.dtype))
    valid = jnp.all(jnp.isfinite(cost) | ~both)
    taking_part = both & valid
    # From 0, so that a constant can be too much: whoever takes part is rather paired at
    # any cost with another that does than with one that does not.
    least = jnp.min(jnp.where(taking_part, cost, jnp.inf), initial=jnp.inf)
    above = jnp.where(taking_part, cost - least, 0)
    most = jnp.max(above, initial=0)
    too_much = jnp.where(most > 0, 2 * most, 1)
    one_of_both = row_mask[:, None] != column_mask[None, :]
    row, column = hungarian_algorithm(jnp.where(one_of_both, too_much, above))
    pairs = both[row, column]
    order = jnp.full(rows, -1, column.dtype)
    order = order.at[row].set(jnp.where(pairs, column, -1))
    return Matching(order, valid)
