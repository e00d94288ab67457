"""What an option costs that nobody asked for: nothing."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from eqx_slots.nn import LearnedSlots

from .helpers import built, normal
from .test_slot_attention import make


def bare(layer, inputs, slots):
    """The paper's algorithm and nothing else, on the parameters of a layer."""
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
    for _ in range(3):
        q = jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots))
        logits = jnp.einsum("kd,nd->kn", q * 5**-0.5, k)
        attention = jax.nn.softmax(logits, axis=0)
        weights = attention + 1e-8
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        slots = jax.vmap(layer.cell)(jnp.einsum("kn,nd->kd", weights, v), slots)
        slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
    return slots, attention


def primitives(jaxpr: Jaxpr) -> Counter:
    """How often each primitive stands in a computation, calls looked into."""
    found = Counter()
    for equation in jaxpr.eqns:
        inner = [x for x in equation.params.values() if isinstance(x, ClosedJaxpr)]
        for closed in inner:
            found += primitives(closed.jaxpr)
        if not inner:
            found[equation.primitive.name] += 1
    # einops and einsum bring axes into order in ways of their own: no arithmetic.
    for free in ("transpose", "reshape", "squeeze", "broadcast_in_dim", "copy"):
        del found[free]
    return found


def count(call, layer, *args) -> Counter:
    params, static = eqx.partition(layer, eqx.is_inexact_array)
    whole = lambda params, *args: tuple(call(eqx.combine(params, static), *args))
    return primitives(jax.make_jaxpr(whole)(params, *args).jaxpr)


def test_the_default_call_computes_what_a_bare_function_does():
    layer = make(slot_init=built(lambda key: LearnedSlots(3, 7, key=key)))
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    call = lambda layer, inputs, slots: layer(inputs, slots=slots)
    assert count(call, layer, inputs, slots) == count(bare, layer, inputs, slots)


@pytest.mark.parametrize("name", ["rounds", "step"])
def test_other_ways_to_call_add_nothing_but_their_result(name):
    layer, inputs, slots = make(num_iters=1), normal(0, 17, 11), normal(1, 3, 7)
    calls = {
        "rounds": lambda layer, inputs, slots: layer.rounds(inputs, slots=slots),
        "step": lambda layer, inputs, slots: layer.step(slots, inputs),
    }
    whole = count(lambda m, x, s: m(x, slots=s), layer, inputs, slots)
    got = count(calls[name], layer, inputs, slots)
    for stacking in ("stack", "concatenate"):  # the rounds, of which there is one
        del got[stacking]
    assert got == whole
