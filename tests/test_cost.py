"""What an option costs that nobody asked for: nothing."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from .helpers import assert_close, normal
from .test_slot_attention import make


def rounds(layer, slots, num_inputs, updates):
    """Three rounds, `updates(q)` telling what queries get, and from which attention."""

    def once(carry, _):
        slots, _ = carry
        q = jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots))
        taken, attention = updates(q * 5**-0.5)
        slots = jax.vmap(layer.cell)(taken, slots)
        slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
        return (slots, attention), None

    nothing = jnp.zeros((slots.shape[0], num_inputs))
    # The layer counts its rounds, for competitions that draw.
    return jax.lax.scan(once, (slots, nothing), 0 + jnp.arange(3))[0]


def bare(layer, inputs, slots):
    """The paper's algorithm and nothing else, on the parameters of a layer."""
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)

    def updates(q):
        logits = jax.lax.optimization_barrier(jnp.einsum("kd,nd->kn", q, k))
        attention = jax.nn.softmax(logits, axis=0)
        weights = attention + 1e-8
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        return jnp.einsum("kn,nd->kd", weights, v), attention

    return rounds(layer, slots, inputs.shape[0], updates)


def bare_absorbed(layer, inputs, slots):
    """The same in the other order: neither keys, values nor normalised inputs."""
    norm = layer.norm_inputs
    mean = jnp.mean(inputs, 1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(inputs - mean), 1) + 1e-3)
    spread = lambda x: jnp.broadcast_to(inverse, x.shape)
    centred = lambda x: x - jnp.mean(x, -1, keepdims=True)
    key_weight, value_weight = layer.key_proj.weight, layer.value_proj.weight
    key_offset, value_offset = key_weight @ norm.bias, value_weight @ norm.bias
    scale = norm.weight[None]
    key_weight, value_weight = key_weight * scale, value_weight * scale

    def updates(q):
        rows = centred(jnp.einsum("kd,di->ki", q, key_weight))
        logits = jax.lax.optimization_barrier(jnp.einsum("ki,ni->kn", rows, inputs))
        logits = logits * spread(logits)
        logits = logits + jnp.einsum("kd,d->k", q, key_offset)[:, None]
        attention = jax.nn.softmax(logits, axis=0)
        weights = attention + 1e-8
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        taken = jnp.einsum("kn,ni->ki", weights * spread(weights), inputs)
        updates = jnp.einsum("ki,di->kd", centred(taken), value_weight)
        total = jnp.sum(weights, axis=1)
        return updates + jnp.einsum("k,d->kd", total, value_offset), attention

    return rounds(layer, slots, inputs.shape[0], updates)


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


@pytest.mark.parametrize(
    ("num_slots", "bare"),
    [(3, bare_absorbed), (5, bare)],
    ids=["absorbed", "projected"],
)
def test_the_default_call_computes_what_a_bare_function_does(num_slots, bare):
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, num_slots, 7)
    call = lambda layer, inputs, slots: layer(inputs, slots=slots)
    assert count(call, layer, inputs, slots) == count(bare, layer, inputs, slots)
    for a, b in zip(call(layer, inputs, slots), bare(layer, inputs, slots)):
        assert_close(a, b)


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
