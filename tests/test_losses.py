"""The loss between sets, against SciPy and by the laws of matching."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import linear_sum_assignment

from eqx_slots import losses
from eqx_slots._matching import match
from eqx_slots.properties import Categorical, Continuous, Presence, Properties

from .helpers import assert_close, float64, normal, seeds


SHAPES = [(1, 1), (2, 5), (5, 2), (5, 5), (7, 3), (10, 10)]
matched = jax.jit(losses.matched_set_loss)


def best(cost):
    """The least total, by SciPy."""
    return cost[linear_sum_assignment(cost)].sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_the_matching_is_scipys_optimum(shape, ties):
    rng = np.random.default_rng(hash((shape, ties)) % 2**32)
    # Signs too: no pairwise cost has to be positive.
    draw = partial(rng.integers, -2, 3) if ties else partial(rng.normal)
    costs = np.asarray(draw(size=(100, *shape)), np.float32)
    order, valid = jax.jit(jax.vmap(match))(costs)
    assert np.all(valid)
    for cost, columns in zip(costs, np.asarray(order)):
        rows = np.flatnonzero(columns >= 0)
        chosen = columns[rows]
        assert len(rows) == len(set(chosen)) == min(shape)
        np.testing.assert_allclose(cost[rows, chosen].sum(), best(cost), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (2, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_masked_rows_and_columns_are_as_if_absent(shape, ties):
    rng = np.random.default_rng(3)
    draw = partial(rng.integers, 0, 2) if ties else partial(rng.normal)
    costs = np.asarray(draw(size=(60, *shape)), np.float32)
    rows = rng.random((60, shape[0])) < 0.6
    columns = rng.random((60, shape[1])) < 0.6
    hidden = ~(rows[:, :, None] & columns[:, None, :])
    costs[hidden] = rng.choice([np.nan, np.inf, -1e30], size=hidden.sum())
    call = lambda c, r, k: match(c, row_mask=r, column_mask=k)
    order, valid = jax.jit(jax.vmap(call))(costs, rows, columns)
    assert np.all(valid)
    for cost, row, column, chosen in zip(costs, rows, columns, np.asarray(order)):
        taken = np.flatnonzero(chosen >= 0)
        assert np.all(row[taken]) and np.all(column[chosen[taken]])
        assert len(taken) == len(set(chosen[taken])) == min(row.sum(), column.sum())
        left = cost[row][:, column]
        np.testing.assert_allclose(
            cost[taken, chosen[taken]].sum(), best(left), atol=1e-5
        )


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6)])
def test_the_loss_is_the_least_sum_of_huber_costs(shape):
    predicted, target = 2 * normal(0, shape[0], 5), 2 * normal(1, shape[1], 5)
    apart = np.abs(np.asarray(target)[:, None] - np.asarray(predicted)[None])
    cost = np.where(apart <= 1, 0.5 * apart**2, apart - 0.5).mean(axis=-1)
    made = matched(predicted, target)
    assert bool(made.valid)
    np.testing.assert_allclose(made.loss, best(cost), rtol=1e-5)
    pairs = [(i, j) for i, j in enumerate(np.asarray(made.order)) if j >= 0]
    assert len(pairs) == min(shape)
    np.testing.assert_allclose(made.loss, sum(cost[i, j] for i, j in pairs), rtol=1e-5)


@given(seed=seeds)
def test_order_does_not_matter(seed):
    predicted, target = normal(seed, 5, 3), normal(seed + 1, 4, 3)
    new = np.random.default_rng(seed).permutation
    loss = matched(predicted, target).loss
    assert_close(matched(predicted[new(5)], target[new(4)]).loss, loss)


@jax.jit
def with_gradient(predicted, target, nothing=None):
    """The loss and its gradient; elements with the entry `nothing` are masked."""

    def total(predicted):
        if nothing is None:
            matched = losses.matched_set_loss(predicted, target)
        else:
            more = jnp.full((2, 2), nothing)
            matched = losses.matched_set_loss(
                jnp.concatenate([predicted, more]),
                jnp.concatenate([more[:1], target]),
                prediction_mask=jnp.arange(5) < 3,
                target_mask=jnp.arange(3) > 0,
            )
        return matched.loss, matched

    (_, matched), gradient = jax.value_and_grad(total, has_aux=True)(predicted)
    return matched, gradient


@given(seed=seeds, nothing=st.sampled_from([np.nan, np.inf, 1e30]))
def test_masked_elements_are_as_if_absent(seed, nothing):
    predicted, target = normal(seed, 3, 2), normal(seed + 1, 2, 2)
    want, want_gradient = with_gradient(predicted, target)
    got, gradient = with_gradient(predicted, target, jnp.asarray(nothing))
    assert_close(got.loss, want.loss)
    np.testing.assert_array_equal(got.order, [-1, *want.order])
    assert_close(gradient, want_gradient)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_costs_in_half_precision_are_matched_as_exactly(dtype):
    rng = np.random.default_rng(5)
    costs = jnp.asarray(rng.uniform(0, 60_000, size=(40, 6, 6)), dtype)
    columns = jnp.arange(6) < 4
    call = jax.vmap(lambda c: match(c, column_mask=columns))
    order, valid = jax.jit(call)(costs)
    assert np.all(valid)
    for cost, chosen in zip(np.asarray(costs, np.float64), np.asarray(order)):
        rows = np.flatnonzero(chosen >= 0)
        total = cost[rows, chosen[rows]].sum()
        np.testing.assert_allclose(total, best(cost[:, :4]), rtol=1e-6)


def test_the_loss_of_half_precision_is_summed_in_float32():
    predicted, target = normal(0, 40, 3), normal(1, 40, 3)
    half = matched(predicted.astype(jnp.bfloat16), target.astype(jnp.bfloat16))
    assert half.loss.dtype == jnp.float32
    want = matched(predicted, target).loss
    np.testing.assert_allclose(half.loss, want, rtol=1e-2)


def test_float64():
    with float64():
        predicted, target = (normal(i, 4, 3, dtype=jnp.float64) for i in (0, 1))
        made = matched(predicted, target)
        apart = np.abs(np.asarray(target)[:, None] - np.asarray(predicted)[None])
        cost = np.where(apart <= 1, 0.5 * apart**2, apart - 0.5).mean(axis=-1)
        np.testing.assert_allclose(made.loss, best(cost), rtol=1e-12)


def cosine(predicted, target):
    """Without a gradient at zeros, which is what masked elements become."""
    norms = jnp.linalg.norm(predicted) * jnp.linalg.norm(target)
    return 1 - jnp.sum(predicted * target) / norms


@pytest.mark.parametrize("num_targets", [3, 5])
def test_what_is_not_matched_has_no_part_in_the_gradient(num_targets):
    predicted, target = normal(0, 4, 3), normal(1, num_targets, 3)
    mask = jnp.arange(num_targets) < 2
    call = partial(losses.matched_set_loss, cost=cosine)
    alone = jax.jit(jax.grad(lambda p: call(p, target[:2]).loss))
    masked = jax.jit(jax.grad(lambda p: call(p, target, target_mask=mask).loss))
    assert_close(masked(predicted), alone(predicted))
    none = jnp.zeros(num_targets, bool)
    empty = jax.jit(jax.grad(lambda p: call(p, target, target_mask=none).loss))
    np.testing.assert_array_equal(empty(predicted), np.zeros((4, 3)))


@pytest.mark.usefixtures("as_users_run")
def test_masks_may_be_numpys_inside_jit():
    predicted, target = normal(0, 4, 3), normal(1, 4, 3)
    masks = {"prediction_mask": np.arange(4) > 0, "target_mask": np.arange(4) < 3}
    got = jax.jit(lambda p, t: losses.matched_set_loss(p, t, **masks).loss)
    want = matched(predicted[1:], target[:3]).loss
    assert_close(got(predicted, target), want)


def test_no_elements_cost_nothing():
    made = matched(normal(0, 3, 2), normal(1, 0, 2))
    assert (float(made.loss), bool(made.valid)) == (0.0, True)
    none = jnp.zeros(2, bool)
    made = losses.matched_set_loss(normal(0, 3, 2), normal(1, 2, 2), target_mask=none)
    assert (float(made.loss), bool(made.valid)) == (0.0, True)
    np.testing.assert_array_equal(made.order, [-1, -1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_matched_at_random(value):
    predicted = normal(0, 4, 3).at[1, 2].set(value)
    made = matched(predicted, normal(1, 4, 3))
    assert np.isnan(made.loss)
    assert not bool(made.valid)
    # Beside it in a batch, others are as they are alone.
    both = jnp.stack([predicted, normal(0, 4, 3)])
    targets = jnp.stack([normal(1, 4, 3)] * 2)
    loss = jax.vmap(losses.matched_set_loss)(both, targets).loss
    np.testing.assert_allclose(loss[1], matched(normal(0, 4, 3), targets[0]).loss)


def test_the_gradient_is_that_of_the_pairs_chosen():
    predicted, target = normal(0, 5, 3), normal(1, 4, 3)
    grad = jax.jit(jax.grad(lambda p: losses.matched_set_loss(p, target).loss))
    order = np.asarray(matched(predicted, target).order)
    want = np.zeros((5, 3))
    for i, j in enumerate(order):
        want[j] = np.clip(predicted[j] - target[i], -1, 1) / 3
    assert_close(grad(predicted), want)


def test_any_cost_of_a_pair():
    cost = lambda p, t: jnp.sum(jnp.abs(p - t))
    made = losses.matched_set_loss(
        jnp.array([[1.0], [4.0]]), jnp.array([[5.0], [2.0]]), cost=cost
    )
    assert float(made.loss) == 2
    np.testing.assert_array_equal(made.order, [1, 0])


def test_one_compiled_program_without_callbacks():
    many = jax.vmap(lambda p, t: losses.matched_set_loss(p, t).loss)
    loss = lambda p, t: jnp.mean(many(p, t))
    text = jax.jit(jax.grad(loss)).lower(normal(0, 3, 5, 2), normal(1, 3, 4, 2))
    assert "callback" not in text.as_text()


THINGS = Properties(
    Continuous("place", low=-1.0, high=1.0, size=2),
    Presence(),
    Categorical("kind", ("a", "b", "c")),
)


def test_the_cost_of_elements_is_what_it_says():
    tiny = 1e-4
    predicted = jnp.array([0.25, 0.5, 0.75, 0.5, 0.25, 0.125])
    target = jnp.array([0.5, 0.5, 1.0, 1.0, 0.0, 0.0])
    log = -np.log(np.array([0.75, 0.5, 0.75, 0.875]) + tiny)
    want = log[0] + log[1:].mean() + 3 * 0.125
    cost = partial(losses.element_cost, properties=THINGS, continuous_weight=3.0)
    assert_close(cost(predicted, target), want)
    assert_close(
        losses.element_cost(predicted, target, properties=THINGS),
        log[0] + log[1:].mean() + 10 * 0.125,
    )
    heavy = partial(losses.element_cost, properties=THINGS, label_weight=0.5)
    want = log[0] + 0.5 * log[1:].sum() + 10 * 0.125
    assert_close(heavy(predicted, target), want)
    # An absent one may look like anything.
    assert_close(cost(predicted, jnp.zeros(6)), -np.log(0.25 + tiny))


def test_the_cost_of_elements_needs_no_group_but_presence():
    bare = Properties(Presence())
    cost = losses.element_cost(jnp.array([0.5]), jnp.array([1.0]), properties=bare)
    assert_close(cost, -np.log(0.5001))


def test_sure_mistakes_cost_a_finite_amount():
    cost = partial(losses.element_cost, properties=THINGS)
    target = jnp.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    value, grad = jax.value_and_grad(cost)(1 - target, target)
    assert 9 < float(value) < 40
    assert np.all(np.isfinite(grad))


@pytest.mark.usefixtures("as_users_run")
def test_mistakes_in_costs():
    five = jnp.ones((5, 2))
    with pytest.raises(ValueError, match=r"`cost` must give one .* shape \(2,\)"):
        losses.matched_set_loss(five, five, cost=lambda p, t: p - t)
    with pytest.raises(ValueError, match="`predicted` must be floating point"):
        losses.matched_set_loss(five.astype(int), five)
    with pytest.raises(ValueError, match="`target` must be floating point"):
        losses.matched_set_loss(five, five.astype(int))
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap\(cost\)\(predicted"):
        losses.huber(five, five)
    with pytest.raises(ValueError, match=r"`target` must have shape \(size=2\)"):
        losses.huber(five[0], jnp.ones(1))
    with pytest.raises(ValueError, match=r"`predicted` must have shape \(size=6\)"):
        losses.element_cost(five[0], five[0], properties=THINGS)


@pytest.mark.parametrize(
    ("predicted", "target", "masks", "message"),
    [
        ((2, 3), (2, 4), {}, r"`target` must have shape \(targets, size=3\)"),
        ((0, 3), (2, 3), {}, "`predicted` holds no prediction"),
        ((5, 2, 3), (2, 3), {}, r"did you mean `jax.vmap\(matched_set_loss\)"),
        ((2, 3), (2, 3), {"target_mask": (3,)}, r"`target_mask` must have shape"),
        ((2, 3), (2, 3), {"prediction_mask": (1,)}, r"`prediction_mask` must have"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(predicted, target, masks, message):
    masks = {name: jnp.ones(shape, bool) for name, shape in masks.items()}
    with pytest.raises(ValueError, match=message):
        losses.matched_set_loss(jnp.ones(predicted), jnp.ones(target), **masks)


def test_sparsity_is_least_where_one_slot_paints_all_and_finite_everywhere():
    whole = jnp.zeros((7, 4, 6)).at[0].set(1)
    for number, want in ((1, 1.0), (4, 2.0), (7, 7**0.5)):
        shared = whole.at[:number].set(1 / number)
        got, slope = jax.value_and_grad(losses.mask_sparsity)(shared)
        np.testing.assert_allclose(got, want, atol=0.05)
        assert np.all(np.isfinite(slope))
    areas = np.array([0.5, 0.3, 0.2])
    want = sum((np.sqrt(a + 0.01) - 0.1) / (np.sqrt(1.01) - 0.1) for a in areas)
    masks = jnp.asarray(np.tile(areas[:, None], (1, 5)), jnp.float32)
    got = losses.mask_sparsity(masks, epsilon=0.01)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    more = jnp.concatenate([masks, jnp.zeros((2, 5))])  # slots that paint nothing
    np.testing.assert_allclose(
        losses.mask_sparsity(more, epsilon=0.01), want, rtol=1e-5
    )


def test_impurity_is_how_often_two_draws_of_an_owner_disagree():
    masks = np.random.default_rng(0).dirichlet(np.ones(5), (3, 4)).transpose(2, 0, 1)
    want = np.mean([1 - sum(masks[:, i, j] ** 2) for i, j in np.ndindex(3, 4)])
    got = losses.mask_impurity(jnp.asarray(masks, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    whole = jnp.zeros((7, 4, 6)).at[0].set(1)
    for number in (1, 4, 7):
        shared = whole.at[:number].set(1 / number)
        got, slope = jax.value_and_grad(losses.mask_impurity)(shared)
        np.testing.assert_allclose(got, 1 - 1 / number, atol=1e-6)
        np.testing.assert_allclose(slope, -2 * shared / 24, rtol=1e-6)
    half = losses.mask_impurity(whole.at[:4].set(0.25).astype(jnp.bfloat16))
    np.testing.assert_allclose(half, 0.75, atol=1e-6)


def test_variance_of_rgb_is_numpys_and_of_slots_that_count():
    rgb = np.random.default_rng(0).normal(size=(5, 3, 4, 6))
    each = rgb.reshape(5, 3, -1).var(axis=-1).mean(axis=-1)
    got = losses.rgb_variance(jnp.asarray(rgb, jnp.float32))
    np.testing.assert_allclose(got, each.sum(), rtol=1e-5)
    some = jnp.array([True, False, True, False, True])
    got = losses.rgb_variance(jnp.asarray(rgb, jnp.float32), slot_mask=some)
    np.testing.assert_allclose(got, each[::2].sum(), rtol=1e-5)
    hidden = jnp.asarray(rgb, jnp.float32).at[1].set(jnp.nan)
    grad = jax.grad(lambda x: losses.rgb_variance(x, slot_mask=some))(hidden)
    assert bool(jnp.all(jnp.isfinite(grad)))
    plain = jnp.broadcast_to(jnp.arange(15.0).reshape(5, 3, 1), (5, 3, 8))
    assert losses.rgb_variance(plain) == 0
    half = losses.rgb_variance(jnp.asarray(rgb, jnp.bfloat16))
    np.testing.assert_allclose(half, each.sum(), rtol=2e-2)


@pytest.mark.usefixtures("as_users_run")
def test_mistakes_in_masks_are_named():
    with pytest.raises(ValueError, match="one of channels, and then one of pixels"):
        losses.rgb_variance(jnp.ones((7, 3)))
    with pytest.raises(ValueError, match="`rgb` must be floating point"):
        losses.rgb_variance(jnp.ones((7, 3, 2), int))
    with pytest.raises(ValueError, match="`slot_mask`"):
        losses.rgb_variance(jnp.ones((7, 3, 2)), slot_mask=jnp.ones(6, bool))
    for term in (losses.mask_sparsity, losses.mask_impurity):
        with pytest.raises(ValueError, match="axis of slots and then one of pixels"):
            term(jnp.ones(3))
        with pytest.raises(ValueError, match="`masks` must be floating point"):
            term(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match="`epsilon` must be positive"):
        losses.mask_sparsity(jnp.ones((3, 2)), epsilon=0)
