"""Absorbed or not: two orders of one computation, and which of them is chosen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from eqx_slots.nn import (
    AbstractLinearReduction,
    GumbelSoftmax,
    LayerNormSum,
    ScaledMean,
    Sinkhorn,
    Softmax,
    WeightedMean,
    WeightedSum,
)
from eqx_slots.nn._inputs import Absorbed, Projected, Raw, seen_by

from .helpers import as_float64, assert_close, float64, normal, seeds
from .test_slot_attention import make


class Foreign(eqx.Module):
    """A projection that the layer cannot look into: it has to call it."""

    linear: eqx.nn.Linear

    @property
    def weight(self):
        return jnp.full_like(self.linear.weight, jnp.nan)

    bias = None

    def __call__(self, x):
        return self.linear(x)


def projected(layer):
    return eqx.tree_at(lambda m: m.value_proj, layer, Foreign(layer.value_proj))


def is_absorbed(layer, num_slots=3, num_iters=3):
    inputs = normal(0, 17, layer.input_size, dtype=layer.query_proj.weight.dtype)
    projections, seen = seen_by(layer, inputs, num_slots, num_iters, widen=False)
    assert isinstance(seen, Raw if isinstance(projections, Absorbed) else Projected)
    return isinstance(projections, Absorbed)


OPTIONS = {
    "default": {},
    "biases": {"use_qkv_bias": True},
    "own scale": {"scale": 0.3},
    "heads": {"num_heads": 2, "qkv_size": 6, "use_qkv_bias": True, "num_slots": 1},
    "joint heads": {
        "num_heads": 2,
        "qkv_size": 6,
        "num_slots": 1,
        "competition": Softmax(over_heads=True),
    },
    "epsilon of one": {"reduction": WeightedMean(eps=1.0)},
    "epsilon in the sum": {"reduction": WeightedMean(1.0, "sum"), "use_qkv_bias": True},
    "sum": {"reduction": WeightedSum(), "use_qkv_bias": True},
    "scaled mean": {"reduction": ScaledMean(7), "use_qkv_bias": True},
    "sinkhorn": {"competition": Sinkhorn(), "use_qkv_bias": True},
    "gumbel": {"competition": GumbelSoftmax()},
}


@eqx.filter_jit
def outcome(layer, inputs, slots, **masks):
    def total(arguments):
        layer, inputs, slots = arguments
        state = layer(inputs, slots=slots, num_iters=2, key=jax.random.key(0), **masks)
        made = state.slots.astype(slots.dtype)
        weights = jnp.cos(jnp.arange(slots.size, dtype=slots.dtype))
        loss = jnp.sum(made * weights.reshape(slots.shape))
        return loss + jnp.sum(state.attention.astype(slots.dtype) ** 2), state

    (_, state), grads = eqx.filter_value_and_grad(total, has_aux=True)(
        (layer, inputs, slots)
    )
    return state, grads


CASES = [(name, False) for name in OPTIONS]
CASES += [
    (name, True) for name in ("biases", "heads", "sum", "scaled mean", "sinkhorn")
]


@pytest.mark.parametrize(("name", "masked"), CASES)
def test_both_orders_agree_in_float64(name, masked):
    options = OPTIONS[name]
    with float64():
        layer = as_float64(make(seed=1, **options))
        num_slots = layer.num_slots
        assert is_absorbed(layer, num_slots, 2)
        assert not is_absorbed(projected(layer), num_slots, 2)
        inputs = normal(2, 17, 11, dtype=jnp.float64)
        slots = normal(3, num_slots, 7, dtype=jnp.float64)
        masks = {}
        if masked:
            masks = {"input_mask": jnp.arange(17) % 3 > 0}
            masks["slot_mask"] = jnp.arange(num_slots) < max(num_slots - 1, 1)
        got = outcome(layer, inputs, slots, **masks)
        want = outcome(projected(layer), inputs, slots, **masks)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@settings(max_examples=5)
@given(seed=seeds)
def test_both_orders_agree_in_float32(seed):
    layer = make(seed)
    inputs, slots = normal(seed, 17, 11), normal(seed + 1, 3, 7)
    got = outcome(layer, inputs, slots)
    want = outcome(projected(layer), inputs, slots)
    assert_close(got[0].slots, want[0].slots)
    assert_close(got[0].attention, want[0].attention)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("without", ["weight", "bias"])
def test_a_norm_without_scale_or_shift(without):
    layer = make(use_qkv_bias=True)
    norm = eqx.nn.LayerNorm(11, **{f"use_{without}": False})
    layer = eqx.tree_at(lambda m: m.norm_inputs, layer, norm)
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    assert is_absorbed(layer)
    got = outcome(layer, inputs, slots)[0]
    want = outcome(projected(layer), inputs, slots)[0]
    assert_close(got.slots, want.slots)


def test_half_precision_is_averaged_in_float32():
    layer = make()
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    got = outcome(layer, inputs.astype(jnp.bfloat16), slots)[0]
    assert got.slots.dtype == jnp.bfloat16
    assert_close(got.slots, outcome(layer, inputs, slots)[0].slots, jnp.bfloat16)


def test_the_cheaper_order_is_chosen():
    # 3 rounds x K slots x (H x 64 - 64) multiplications against 64 x 64.
    paper = dict(input_size=64, slot_size=64, qkv_size=None, num_slots=7)
    assert is_absorbed(make(**paper), 7, 3)
    assert is_absorbed(make(**paper), 999, 99)  # one head: a round costs the same
    four = make(**paper, num_heads=4)
    assert is_absorbed(four, 7, 3)
    assert not is_absorbed(four, 8, 3)
    assert not is_absorbed(four, 7, 4)
    assert is_absorbed(make(**(paper | {"qkv_size": 128})), 999, 3)
    assert not is_absorbed(make(**(paper | {"qkv_size": 32})), 7, 10)


def test_what_cannot_be_looked_into_is_called():
    layer = make()
    assert is_absorbed(layer)
    assert not is_absorbed(make(reduction=LayerNormSum(5)))
    for where in (
        lambda m: m.norm_inputs,
        lambda m: m.key_proj,
        lambda m: m.value_proj,
    ):
        foreign = eqx.tree_at(where, layer, Foreign(where(layer)))
        assert not is_absorbed(foreign)
        got = outcome(foreign, normal(0, 17, 11), normal(1, 3, 7))[0]
        want = outcome(layer, normal(0, 17, 11), normal(1, 3, 7))[0]
        assert_close(got.slots, want.slots)


def test_a_linear_reduction_of_ones_own_is_absorbed():
    class Half(AbstractLinearReduction):
        def weights(self, attention, *, mask=None):
            return attention / 2

    layer = make(reduction=Half(), use_qkv_bias=True)
    assert is_absorbed(layer)
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    got = outcome(layer, inputs, slots)[0]
    assert_close(got.slots, outcome(projected(layer), inputs, slots)[0].slots)
