from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._misc import accumulator_dtype


_Tree = TypeVar("_Tree")


class Settled(NamedTuple):
    slots: Float[Array, "slots slot_size"]
    num_iters: Int[Array, ""]
    residual: Float[Array, ""]


def settle(
    move: Callable[[Array, Array], Array], slots: Array, *, tol: float, max_iters: int
) -> Settled:
    """Repeat `slots = move(slots, count)` until the residual falls to `tol`.

    Reverse-mode differentiation cannot pass: the loop has no length known beforehand.
    """

    def goes_on(carry: Settled) -> Array:
        # A residual of NaN ends it too: there is nothing left to settle.
        return (carry.num_iters < max_iters) & (carry.residual > tol)

    def once(carry: Settled) -> Settled:
        after = move(carry.slots, carry.num_iters)
        return Settled(after, carry.num_iters + 1, residual(carry.slots, after))

    infinite = jnp.asarray(jnp.inf, accumulator_dtype(slots.dtype))
    start = Settled(slots, jnp.zeros((), int), infinite)
    return jax.lax.while_loop(goes_on, once, start)


def residual(
    before: Float[Array, "slots slot_size"], after: Float[Array, "slots slot_size"]
) -> Float[Array, ""]:
    """How far all slots have moved, relative to how large they are; no gradient."""
    wide = accumulator_dtype(after.dtype)
    before, after = jax.lax.stop_gradient((before.astype(wide), after.astype(wide)))
    size = jnp.sum(jnp.square(after))
    moved = jnp.sum(jnp.square(after - before))
    return jnp.sqrt(moved / jnp.where(size > 0, size, 1))


def without_gradient(tree: _Tree) -> _Tree:
    arrays, others = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), others)
