"""What more rounds cost: memory of forward and backward, and time to compile.

    python -m tests.benchmarks.rounds

Gradients of all weights and inputs, at 4 x 16384 x 7 and 16 x 4096 x 7 (sets x inputs x
slots, 64 wide), for three rounds and for nine. Temporaries are what XLA keeps beside
arguments and results.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots import SlotAttention


SHAPES = [(4, 16384, 7), (16, 4096, 7)]


def compiled(sets, inputs, slots, num_iters):
    layer = SlotAttention(64, 64, num_slots=slots, key=jr.key(0))
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def total(params, x, first):
        layer = eqx.combine(params, static)
        one = lambda x, first: layer(x, slots=first, num_iters=num_iters).slots
        return jnp.sum(jax.vmap(one)(x, first) ** 2)

    x, first = jnp.zeros((sets, inputs, 64)), jnp.zeros((sets, slots, 64))
    lowered = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, x, first)
    start = time.perf_counter()
    program = lowered.compile()
    return program, time.perf_counter() - start


def main():
    compiled(1, 8, 7, 3)  # whatever is slow the first time
    for shape in SHAPES:
        for num_iters in (3, 9):
            program, seconds = compiled(*shape, num_iters)
            megabytes = program.memory_analysis().temp_size_in_bytes / 1e6
            name = " x ".join(map(str, shape))
            text = f"temporaries {megabytes:.1f} MB, compiled in {seconds:.2f} s"
            print(f"{name}, {num_iters} rounds: {text}", flush=True)


if __name__ == "__main__":
    main()
