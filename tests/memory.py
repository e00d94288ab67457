"""Bytes that a layer needs, forward and both ways, compiled as users compile it.

    python -m tests.memory

Prints a line of JSON: arguments, results and temporaries in all, by dtype, and the
temporaries of a bare product in bfloat16. Where a machine has none for half precision,
XLA widens what it is given.
"""

import json

import equinox as eqx
import jax
import jax.numpy as jnp

from eqx_slots.nn import SlotAttention


INPUTS, SIZE, SLOTS = 4096, 64, 7


def memory(program, *arguments):
    compiled = eqx.filter_jit(program).lower(*arguments).compile()
    return compiled.compiled.memory_analysis()


def in_all(program, *arguments):
    found = memory(program, *arguments)
    given = found.argument_size_in_bytes + found.output_size_in_bytes
    return given + found.temp_size_in_bytes


def call(layer, inputs, slots):
    return layer(inputs, slots=slots).slots


@eqx.filter_grad
def both(arguments, slots):
    layer, inputs = arguments
    return jnp.sum(call(layer, inputs, slots).astype(jnp.float32))


def of_layer(dtype):
    key = jax.random.key(0)
    layer = SlotAttention(SIZE, SIZE, num_slots=SLOTS, dtype=dtype, key=key)
    inputs, slots = jnp.zeros((INPUTS, SIZE), dtype), jnp.zeros((SLOTS, SIZE), dtype)
    forward = in_all(call, layer, inputs, slots)
    return forward, in_all(both, (layer, inputs), slots)


def of_product(dtype):
    product = lambda inputs, slots: jnp.einsum(
        "n d, k d -> n k", inputs, slots, preferred_element_type=jnp.float32
    )
    inputs, slots = jnp.zeros((INPUTS, SIZE), dtype), jnp.zeros((SLOTS, SIZE), dtype)
    return memory(product, inputs, slots).temp_size_in_bytes


if __name__ == "__main__":
    found = {jnp.dtype(x).name: of_layer(x) for x in (jnp.float32, jnp.bfloat16)}
    print(json.dumps(found | {"product": of_product(jnp.bfloat16)}))
