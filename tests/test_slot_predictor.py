from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings

from eqx_slots.nn import SlotPredictor

from . import reference_video as reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    check_fields,
    float64,
    largest_error,
    normal,
    num_parameters,
    run,
    seeds,
)


ORDERS = pytest.mark.parametrize("norm_first", [False, True])


def make(seed=0, **options):
    """Of odd sizes: slots of 7, two heads of 5, an MLP of 13."""
    options = {"mlp_size": 13, "num_heads": 2, "qkv_size": 10} | options
    return built(partial(SlotPredictor, 7, **options), seed)


@ORDERS
def test_agrees_with_the_equations(norm_first):
    predictor, slots = make(norm_first=norm_first), normal(1, 5, 7)
    want = reference.slot_predictor(predictor, slots)
    assert_close(run(predictor, slots), want)
    with float64():
        got = run(as_float64(predictor), slots.astype(jnp.float64))
    assert got.dtype == jnp.float64
    assert_close(got, want, jnp.float64)


@eqx.filter_jit
def outcome(predictor, slots, weights, slot_mask):
    def total(arguments):
        predictor, slots = arguments
        moved = predictor(slots, slot_mask=slot_mask)
        return jnp.sum(moved * weights), moved

    call = eqx.filter_value_and_grad(total, has_aux=True)
    (_, moved), grads = call((predictor, slots))
    return moved, grads


@ORDERS
@given(seed=seeds)
@settings(max_examples=10)
def test_masked_equals_absent(norm_first, seed):
    predictor, slots = make(norm_first=norm_first), normal(seed, 5, 7)
    weights = normal(seed + 1, 5, 7)
    mask = np.random.default_rng(seed).permutation(5) < 3
    hidden = jnp.where(mask[:, None], slots, jnp.nan).at[:, 0].min(1e3)
    got, got_grads = outcome(predictor, hidden, weights, jnp.asarray(mask))
    want, want_grads = outcome(predictor, slots[mask], weights[mask], None)
    assert_close(got[mask], want)
    np.testing.assert_array_equal(got[~mask], 0)
    np.testing.assert_array_equal(got_grads[1][~mask], 0)
    np.testing.assert_allclose(got_grads[1][mask], want_grads[1], rtol=1e-3, atol=1e-4)
    for one, other in zip(*map(jax.tree.leaves, (got_grads[0], want_grads[0]))):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_nothing_but_masked_slots_is_finite():
    nobody = jnp.zeros(5, bool)
    moved, grads = outcome(make(), normal(0, 5, 7), normal(1, 5, 7), nobody)
    np.testing.assert_array_equal(moved, 0)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0)


@given(seed=seeds)
@settings(max_examples=10)
def test_slots_are_exchangeable(seed):
    predictor, slots = make(), normal(seed, 5, 7)
    order = np.random.default_rng(seed).permutation(5)
    assert_close(run(predictor, slots[order]), run(predictor, slots)[order])


def test_vmap_equals_a_loop_and_jit_equals_eager():
    predictor, batch = make(), normal(0, 2, 5, 7)
    mask = jnp.array([[True] * 5, [True, False] * 2 + [True]])
    call = lambda slots, mask: predictor(slots, slot_mask=mask)
    many = jax.jit(jax.vmap(call))(batch, mask)
    for slots, own, moved in zip(batch, mask, many):
        assert_close(moved, call(slots, own))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    predictor, slots = make(), normal(0, 5, 7)
    got = run(predictor, slots.astype(dtype))
    assert got.dtype == dtype
    assert largest_error(got, run(predictor, slots)) < 0.03


def test_has_the_published_sizes_and_settings():
    predictor = eqx.filter_eval_shape(SlotPredictor, 128, key=jr.key(0))
    assert num_parameters(predictor) == 132_480
    assert not predictor.norm_first
    assert predictor.norm_attention.eps == predictor.norm_mlp.eps == 1e-6
    assert predictor.attention.num_heads == 4


def test_weights_begin_as_asked():
    for weight_init, at_zero in (("paper", True), ("equinox", False)):
        predictor = SlotPredictor(8, weight_init=weight_init, key=jr.key(0))
        check_fields(predictor)
        for layer in (predictor.attention.query_proj, predictor.mlp.layers[0]):
            assert bool(jnp.all(layer.bias == 0)) == at_zero
    first, second = predictor.mlp.layers[0].weight, predictor.attention
    assert not np.allclose(first[:8], second.query_proj.weight)


def test_changing_a_mask_never_recompiles():
    call = eqx.filter_jit(
        eqx.debug.assert_max_traces(
            lambda predictor, slots, mask: predictor(slots, slot_mask=mask),
            max_traces=1,
        )
    )
    for mask in ([True] * 5, [False] * 5):
        call(make(), normal(0, 5, 7), jnp.array(mask))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SlotPredictor(0, key=jr.key(0)), "`slot_size` must be"),
        (lambda: SlotPredictor(8, mlp_size=0, key=jr.key(0)), "`mlp_size` must be"),
        (lambda: SlotPredictor(7, key=jr.key(0)), "`num_heads` must divide"),
        (lambda: SlotPredictor(8, key=0), "such as `jax.random.key"),
        (lambda: SlotPredictor(8, weight_init="x", key=jr.key(0)), "`weight_init`"),
        (lambda: make()(normal(0, 5, 8)), "slot_size=7"),
        (lambda: make()(normal(0, 2, 5, 7)), r"jax.vmap\(module\)\(slots\)"),
        (lambda: make()(jnp.ones((5, 7), int)), "must be floating point"),
        (lambda: make()(normal(0, 5, 7), slot_mask=jnp.ones(5)), "must be boolean"),
        (lambda: make()(normal(0, 5, 7), slot_mask=jnp.ones(4, bool)), "slots=5"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
