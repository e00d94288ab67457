"""What takes the place of the GRU, and what becomes of the gradient over many rounds.

    python -m tests.benchmarks.cells

The layer of the README, untrained, with a temperature of 0.2, on 16 sets of 256 normal
vectors. Prints the norm of the gradient of the slots' mean square by all weights, mean
over the sets, after 3, 5, 10 and 20 rounds: with the GRU, with the update taken for the
slot, and with half of each.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array

from eqx_slots import nn


ROUNDS, SETS = (3, 5, 10, 20), 16


class Cell(eqx.Module):
    """A part of the update, the rest of the slot that there was."""

    part: float = eqx.field(static=True)

    def __call__(self, update: Array, slot: Array) -> Array:
        return self.part * update + (1 - self.part) * slot


CELLS: dict[str, Callable[[Array, Array], Array] | None] = {
    "the GRU": None,
    "half old, half new": Cell(0.5),
    "the update alone": Cell(1.0),
}


def norms(cell: Callable[[Array, Array], Array] | None, num_iters: int) -> Array:
    """Of the gradient, for each of the sets."""
    sharp = nn.Softmax(temperature=0.2)
    layer = nn.SlotAttention(32, 64, num_slots=7, competition=sharp, key=jr.key(0))
    if cell is not None:
        layer = eqx.tree_at(lambda m: m.cell, layer, cell)

    def total(layer: nn.SlotAttention, inputs: Array, key: Array) -> Array:
        slots = layer(inputs, num_iters=num_iters, key=key).slots
        return jnp.mean(slots**2)

    def norm(inputs: Array, key: Array) -> Array:
        return optax.tree.norm(eqx.filter_grad(total)(layer, inputs, key))

    sets = jr.normal(jr.key(1), (SETS, 256, 32))
    return jax.jit(jax.vmap(norm))(sets, jr.split(jr.key(2), SETS))


def main() -> None:
    rounds = " | ".join(f"{n} rounds" for n in ROUNDS)
    print(f"| | {rounds} |\n{'| --- ' * (len(ROUNDS) + 1)}|")
    for name, cell in CELLS.items():
        found = (float(jnp.mean(norms(cell, n))) for n in ROUNDS)
        print(f"| {name} | {' | '.join(f'{x:.2f}' for x in found)} |", flush=True)


if __name__ == "__main__":
    main()
