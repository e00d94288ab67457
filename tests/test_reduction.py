"""What a slot takes from the inputs it won, against loops in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from eqx_slots.nn import LayerNormSum, ScaledMean, WeightedMean, WeightedSum

from .helpers import assert_close, built, float64, normal, run, seeds


def layer_norm(x, norm):
    centred = x - x.mean()
    scaled = centred / np.sqrt((centred**2).mean() + 1e-3)
    return scaled * np.asarray(norm.weight) + np.asarray(norm.bias)


def by_hand(reduction, weights, values):
    """The definition for one slot: `weights` are what it won of `values`."""
    total = sum(w * v for w, v in zip(weights, values))
    match reduction:
        case WeightedMean(eps_in="weights", eps=eps) | ScaledMean(eps=eps):
            mean = sum((w + eps) * v for w, v in zip(weights, values))
            mean = mean / sum(w + eps for w in weights)
            scaled = isinstance(reduction, ScaledMean)
            return mean * (7 / 3 if scaled else 1)
        case WeightedMean(eps=eps):
            return total / (eps + sum(weights))
        case WeightedSum():
            return total / len(values)
        case LayerNormSum(norm=norm):
            return layer_norm(total, norm)


REDUCTIONS = {
    "mean": WeightedMean(),
    "mean, epsilon of one": WeightedMean(eps=1.0),
    "mean, epsilon in the sum": WeightedMean(eps=1.0, eps_in="sum"),
    "mean without epsilon": WeightedMean(eps=0.0),
    "sum": WeightedSum(),
    "scaled mean": ScaledMean(7, eps=0.5),
    "layer norm of sum": built(lambda key: LayerNormSum(5)),
}
each = pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())


@each
def test_equals_the_definition(reduction):
    with float64():
        attention = jnp.abs(normal(0, 3, 17, dtype=jnp.float64))
        values = normal(1, 17, 5, dtype=jnp.float64)
        got = reduction(attention, values)
        two = jnp.stack([values, 2 * values])
        heads = np.asarray(reduction(jnp.stack([attention] * 2), two))
    rows, values = np.asarray(attention), np.asarray(values)
    for taken, out in ((values, got), (values, heads[0]), (2 * values, heads[1])):
        want = np.stack([by_hand(reduction, row, taken) for row in rows])
        assert_close(out, want, jnp.float64)


@each
@settings(max_examples=5)
@given(seed=seeds)
def test_masked_equals_absent(reduction, seed):
    rng = np.random.default_rng(seed)
    slots, inputs = rng.permutation(5) < 3, rng.permutation(17) < 11
    mask = jnp.asarray(slots[:, None] & inputs[None, :])
    attention = jnp.where(mask, jnp.abs(normal(seed, 5, 17)), 0)
    values = normal(seed + 1, 17, 5)
    got = run(reduction, attention, values, mask=mask)
    want = run(reduction, attention[slots][:, inputs], values[inputs])
    assert_close(got[slots], want)
    np.testing.assert_array_equal(got[~slots], np.zeros((2, 5)))


@each
def test_nothing_left_to_take_is_an_update_of_zero(reduction):
    nothing = jnp.zeros((3, 17), bool)
    got = reduction(jnp.zeros((3, 17)), normal(0, 17, 5), mask=nothing)
    np.testing.assert_array_equal(got, np.zeros((3, 5)))


def test_a_slot_that_won_nothing():
    attention, values = jnp.zeros((1, 17)), normal(0, 17, 5)
    assert_close(WeightedMean()(attention, values)[0], np.mean(values, axis=0))
    for quiet in (WeightedMean(eps_in="sum"), WeightedMean(eps=0.0), WeightedSum()):
        np.testing.assert_array_equal(quiet(attention, values), np.zeros((1, 5)))


def test_a_slot_that_won_nothing_in_half_precision():
    attention, values = jnp.zeros((1, 17), jnp.float16), jnp.ones((17, 5), jnp.float16)
    for reduction, want in (
        (WeightedMean(), 1),  # the mean
        (ScaledMean(1), 1),
        (WeightedMean(eps_in="sum"), 0),
    ):
        got = reduction(attention, values)
        assert got.dtype == jnp.float16
        np.testing.assert_allclose(got, np.full((1, 5), want), rtol=1e-2)


def test_only_the_sum_knows_how_much_was_won():
    attention, values = jnp.abs(normal(0, 3, 17)), normal(1, 17, 5)
    mean, total = WeightedMean(), WeightedSum()
    assert_close(mean(2 * attention, values), mean(attention, values))
    assert_close(total(2 * attention, values), 2 * total(attention, values))


def test_half_precision_parameters_do_not_narrow_the_sum():
    norm = built(lambda key: LayerNormSum(5, dtype=jnp.float16))
    attention, values = jnp.abs(normal(0, 3, 17)), normal(1, 17, 5)
    assert norm(attention, values).dtype == jnp.float32


@each
def test_masked_down_to_one_slot_and_one_input_that_won_little(reduction):
    mask = jnp.zeros((3, 17), bool).at[1, 4].set(True)
    attention, values = jnp.where(mask, 0.25, 0), normal(0, 17, 5)
    got = reduction(attention, values, mask=mask)
    assert_close(got[1:2], reduction(attention[1:2, 4:5], values[4:5]))


@each
@pytest.mark.parametrize("mask", [None, jnp.ones((3, 17), bool)], ids=["all", "mask"])
def test_half_precision_is_kept(reduction, mask):
    attention, values = jnp.abs(normal(0, 3, 17)), normal(1, 17, 5)
    half = attention.astype(jnp.bfloat16), values.astype(jnp.bfloat16)
    assert reduction(*half, mask=mask).dtype == jnp.bfloat16


def test_parameters_have_the_dtype_that_was_asked_for():
    norm = LayerNormSum(5, dtype=jnp.float16).norm
    assert norm.weight.dtype == norm.bias.dtype == jnp.float16
