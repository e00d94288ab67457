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
MILLION, WIDTH = 2**20, 64
COLLECTIVE = (
    r"= (.*?) (all-reduce|all-gather|(?:ragged-)?all-to-all|collective-\w+"
    r"|reduce-scatter)(?:-start)?\("
)


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


def placements():
    """For each way of sharing out: where the inputs are, and where the slots are."""
    auto = (AxisType.Auto,)
    row = jax.make_mesh((8,), ("devices",), axis_types=auto)
    grid = jax.make_mesh((2, 4), ("batch", "inputs"), axis_types=2 * auto)
    on = lambda mesh, *axes: NamedSharding(mesh, PartitionSpec(*axes))
    return {
        "batch": (on(row, "devices"), on(row, "devices")),
        "inputs": (on(row, None, "devices"), on(row)),
        "both": (on(grid, "batch", "inputs"), on(grid, "batch")),
    }


def compiled(layer, inputs, slots, of_inputs, of_slots):
    """The program for the gradients, and the layer's arrays as it wants them."""
    params, static = eqx.partition(layer, eqx.is_array)
    call = lambda params, *args: gradients(eqx.combine(params, static), *args)
    whole = NamedSharding(of_inputs.mesh, PartitionSpec())
    struct = lambda sharding: (
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    )
    shapes = jax.tree.map(struct(whole), params)
    shapes = shapes, struct(of_inputs)(inputs), struct(of_slots)(slots)
    return jax.jit(call).lower(*shapes).compile(), jax.device_put(params, whole)


def small():
    """Numbers against those of one device."""
    layer = SlotAttention(SIZE, SIZE, num_slots=SLOTS, key=jr.key(0))
    inputs = jr.normal(jr.key(1), (SETS, INPUTS, SIZE))
    slots = jr.normal(jr.key(2), (SETS, SLOTS, SIZE))
    want = jax.device_get(eqx.filter_jit(gradients)(layer, inputs, slots))
    report = {}
    for name, (of_inputs, of_slots) in placements().items():
        program, params = compiled(layer, inputs, slots, of_inputs, of_slots)
        placed = jax.device_put(inputs, of_inputs), jax.device_put(slots, of_slots)
        got = program(params, *placed)
        d_inputs = got[1][1]
        leaves = [jax.tree.leaves(jax.device_get(tree)) for tree in (got, want)]
        largest = max(np.max(np.abs(leaf)) for leaf in leaves[1][1:])
        errors = [np.max(np.abs(a - b)) / largest for a, b in zip(*leaves, strict=True)]
        report[name] = {
            "sent": numbers_sent(program.as_text()),
            "error": float(max(errors[1:])),
            "shared out": d_inputs.sharding.is_equivalent_to(of_inputs, 3),
        }
    return report


def of_any_number():
    """What is sent with other numbers of inputs, an eighth of them on each device."""
    layer = SlotAttention(SIZE, SIZE, num_slots=SLOTS, key=jr.key(0))
    slots = jax.ShapeDtypeStruct((SETS, SLOTS, SIZE), jnp.float32)
    report = {}
    for number in (384, 512, 8192):
        inputs = jax.ShapeDtypeStruct((SETS, number, SIZE), jnp.float32)
        program, _ = compiled(layer, inputs, slots, *placements()["inputs"])
        report[number] = numbers_sent(program.as_text())
    return report


def a_million():
    """What is sent, and what a device holds, with a million inputs: only compiled."""
    layer = SlotAttention(WIDTH, WIDTH, num_slots=SLOTS, key=jr.key(0))
    mesh = jax.make_mesh((1,), ("alone",), axis_types=(AxisType.Auto,))
    alone = NamedSharding(mesh, PartitionSpec())
    ways = placements() | {"alone": (alone, alone)}
    report = {}
    for name, sets in (("inputs", 1), ("both", 2), ("alone", 1)):
        inputs = jax.ShapeDtypeStruct((sets, MILLION, WIDTH), jnp.float32)
        slots = jax.ShapeDtypeStruct((sets, SLOTS, WIDTH), jnp.float32)
        program, _ = compiled(layer, inputs, slots, *ways[name])
        memory = program.memory_analysis()
        report[name] = {
            "sent": numbers_sent(program.as_text()),
            "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        }
    return report


def main():
    report = {"small": small(), "of any number": of_any_number()}
    print(json.dumps(report | {"a million": a_million()}))


if __name__ == "__main__":
    main()
