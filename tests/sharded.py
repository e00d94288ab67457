"""Gradients of a layer on eight devices, with the batch or the inputs shared out.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.sharded

`test_sharding.py` runs it in a process of its own: the number of devices is fixed at
the first use of JAX. Prints what was sent between devices, and how far the results are
from those of one device.
"""

import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqx_slots import SlotAttention


SETS, INPUTS, SIZE, SLOTS = 8, 1024, 16, 5
COLLECTIVE = r"= (.*?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("


def gradients(layer, inputs, slots):
    def total(arguments):
        layer, inputs, slots = arguments
        made = jax.vmap(lambda x, s: layer(x, slots=s))(inputs, slots)
        return jnp.sum(made.slots**2) + jnp.sum(made.attention**2)

    return eqx.filter_value_and_grad(total)((layer, inputs, slots))


def numbers_sent(text: str) -> dict[str, list[int]]:
    """For each kind of collective in a compiled program how many numbers it moves."""
    found = {}
    for shapes, kind in re.findall(COLLECTIVE, text):
        sizes = re.findall(r"\w\d+\[([\d,]*)\]", shapes)
        sent = sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in sizes)
        found.setdefault(kind, []).append(sent)
    return found


def main():
    layer = SlotAttention(SIZE, SIZE, num_slots=SLOTS, key=jr.key(0))
    inputs = jr.normal(jr.key(1), (SETS, INPUTS, SIZE))
    slots = jr.normal(jr.key(2), (SETS, SLOTS, SIZE))
    want = jax.device_get(eqx.filter_jit(gradients)(layer, inputs, slots))
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    on = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    ways = {
        "batch": (on("devices"), on("devices")),
        "inputs": (on(None, "devices"), on()),
    }
    params, static = eqx.partition(layer, eqx.is_array)
    call = lambda params, *args: gradients(eqx.combine(params, static), *args)
    report = {}
    for name, (of_inputs, of_slots) in ways.items():
        given = (
            jax.device_put(params, on()),
            jax.device_put(inputs, of_inputs),
            jax.device_put(slots, of_slots),
        )
        compiled = jax.jit(call).lower(*given).compile()
        got = compiled(*given)
        d_inputs = got[1][1]
        leaves = [jax.tree.leaves(jax.device_get(tree)) for tree in (got, want)]
        largest = max(np.max(np.abs(leaf)) for leaf in leaves[1][1:])
        errors = [np.max(np.abs(a - b)) / largest for a, b in zip(*leaves, strict=True)]
        report[name] = {
            "sent": numbers_sent(compiled.as_text()),
            "error": float(max(errors[1:])),
            "shared out": d_inputs.sharding.is_equivalent_to(of_inputs, 3),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
