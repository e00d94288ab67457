"""The layer and the textbook's in float32 and in bfloat16: times, in turns, and memory.

    python -m tests.benchmarks.half_precision [--memory]

Milliseconds forward and both ways, gradients of weights and inputs, of some sets x
inputs x slots, 64 wide, and the temporaries of each. With `--memory` alone a line of
JSON: arguments, results and temporaries of our layer for one set, by dtype, and the
temporaries of a bare product in bfloat16. Where a machine has no such product, XLA
widens what it is given.
"""

import argparse
import json
import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots._misc import cast

from .peers.jax_layers import layer_of, ours, SIZE, textbook
from .turns import milliseconds


SHAPES = [(16, 4096, 7), (4, 16384, 7), (32, 1024, 5)]
DTYPES = [jnp.float32, jnp.bfloat16]
TURNS = 25


def programs(call, dtype, sets, inputs, slots):
    """Forward and both ways, compiled, with what they are called with."""
    params, static = eqx.partition(layer_of(slots), eqx.is_inexact_array)
    shapes = (sets, inputs, SIZE), (sets, slots, SIZE)
    drawn = [jr.normal(jr.key(seed), shape) for seed, shape in enumerate(shapes)]
    arguments = cast((params, *drawn), dtype)

    def forward(params, inputs, slots):
        layer = eqx.combine(params, static)
        return jax.vmap(call, in_axes=(None, 0, 0))(layer, inputs, slots)

    def total(*arguments):
        return jnp.sum(forward(*arguments).astype(jnp.float32) ** 2)

    both = jax.grad(total, argnums=(0, 1))
    made = [jax.jit(f).lower(*arguments).compile() for f in (forward, both)]
    return made, arguments


def in_all(program):
    found = program.memory_analysis()
    given = found.argument_size_in_bytes + found.output_size_in_bytes
    return given + found.temp_size_in_bytes


def memory():
    product = lambda inputs, slots: jnp.einsum(
        "n d, k d -> n k", inputs, slots, preferred_element_type=jnp.float32
    )
    narrow = jnp.zeros((4096, SIZE), jnp.bfloat16)
    bare = jax.jit(product).lower(narrow, narrow[:7]).compile()
    found = {
        jnp.dtype(dtype).name: [in_all(x) for x in programs(ours, dtype, 1, 4096, 7)[0]]
        for dtype in DTYPES
    }
    return found | {"product": bare.memory_analysis().temp_size_in_bytes}


def main():
    for shape in SHAPES:
        runs = {}
        for call in (ours, textbook):
            for dtype in DTYPES:
                made, arguments = programs(call, dtype, *shape)
                for way, program in zip(("forward", "both ways"), made):
                    one = lambda program=program, given=arguments: (
                        jax.block_until_ready(program(*given))
                    )
                    one()
                    temporaries = program.memory_analysis().temp_size_in_bytes
                    name = f"{call.__name__}, {jnp.dtype(dtype).name}, {way}"
                    runs[name] = one, temporaries, []
        for _ in range(TURNS):
            for one, _, times in runs.values():
                times.append(milliseconds(one))
        print(" x ".join(map(str, shape)))
        for name, (_, temporaries, times) in runs.items():
            took = statistics.median(times)
            print(f"{name:32} {took:7.1f} ms {temporaries / 1e6:7.1f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    if parser.parse_args().memory:
        print(json.dumps(memory()))
    else:
        main()
