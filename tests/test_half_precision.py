"""Inputs in half precision: never written out in float32, and no less exact for it."""

import json
import re
import subprocess
import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots._misc import cast
from eqx_slots.nn import SlotAttention

from .helpers import as_users_compile, normal


HALF = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
ORDERS = pytest.mark.parametrize("qkv_size", [64, 8])  # absorbed, and projected
SETS, SLOTS, INPUTS, SIZE = 32, 3, 256, 64


def make(**options):
    key = jax.random.key(0)
    return SlotAttention(SIZE, SIZE, num_slots=SLOTS, **options, key=key)


def results(layer, inputs, slots):
    """Slots after two rounds, and what a loss on them leaves for the inputs."""
    weights = normal(9, SLOTS, SIZE)

    def total(inputs):
        made = layer(inputs, slots=slots, num_iters=2).slots
        return jnp.sum(weights.astype(made.dtype) * made), made

    d_inputs, made = jax.grad(total, has_aux=True)(inputs)
    return made, d_inputs


def of_sets(layer, inputs, slots):
    made = eqx.filter_jit(jax.vmap(results, in_axes=(None, 0, 0)))(layer, inputs, slots)
    assert {x.dtype for x in made} == {inputs.dtype}
    return [np.asarray(x, np.float64) for x in made]


KINDS = {
    "noise": lambda noise: noise,
    # What is rounded away adds up where weights are alike, or inputs far from zero.
    "alike": lambda noise: jnp.tile(noise[:, :1], (1, INPUTS, 1)),
    "far from zero": lambda noise: noise + 64.0,
    "tiny": lambda noise: 1e-4 * noise,
}


@HALF
@ORDERS
@pytest.mark.parametrize("kind", KINDS)
def test_no_less_exact_than_with_inputs_in_float32(kind, qkv_size, dtype):
    inputs = KINDS[kind](normal(0, SETS, INPUTS, SIZE)).astype(dtype)
    slots = normal(1, SETS, SLOTS, SIZE).astype(dtype)
    layer, widening = (
        cast(make(qkv_size=qkv_size, use_custom_vjp=own), dtype)
        for own in (True, False)
    )
    with jax.enable_x64(True):
        exact = (cast(x, jnp.float64) for x in (layer, inputs, slots))
        want = of_sets(*exact)
    for got, wide, exactly in zip(
        of_sets(layer, inputs, slots), of_sets(widening, inputs, slots), want
    ):
        # Of the usual set: in one of a hundred a rounding tips over and counts as much
        # as all others together, in float32 as well.
        error, usual = (
            np.median(np.sqrt(np.mean((x - exactly) ** 2, axis=(1, 2))))
            for x in (got, wide)
        )
        assert error < 1.25 * usual


@HALF
@ORDERS
def test_no_product_on_a_gpu_has_the_inputs_in_float32(qkv_size, dtype):
    layer = cast(make(qkv_size=qkv_size), dtype)
    inputs, slots = jnp.zeros((INPUTS, SIZE), dtype), jnp.zeros((SLOTS, SIZE), dtype)
    program = jax.jit(partial(results, layer))
    lowered = program.trace(inputs, slots).lower(lowering_platforms=("cuda",))
    products = re.findall(r"dot_general .*: \((.*)\) ->", lowered.as_text())
    assert any(f"{INPUTS}x" in factors for factors in products)
    for factors in products:
        for shape in re.findall(r"tensor<([\dx]*)xf32>", factors):
            assert np.prod([int(n) for n in shape.split("x")]) < INPUTS * SIZE // 2


def test_no_more_memory_than_in_float32():
    """In a process without the flags by which the suite compiles in less time."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.half_precision", "--memory"],
        env=as_users_compile(),
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(ran.stdout)
    widened = np.array(found["product"])  # none, where a machine has such products
    assert np.all(np.array(found["bfloat16"]) <= np.array(found["float32"]) + widened)
