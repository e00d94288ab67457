from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from eqx_slots import losses, metrics

from .helpers import float64, normal, seeds


def labels(seed, number, *shape):
    return jr.randint(jr.key(seed), shape, 0, number)


@partial(jax.jit, static_argnames=("num_true", "num_predicted", "ignore_background"))
def ari(true, predicted, num_true=4, num_predicted=5, ignore_background=False):
    return metrics.adjusted_rand_index(
        true,
        predicted,
        num_true=num_true,
        num_predicted=num_predicted,
        ignore_background=ignore_background,
    )


@pytest.mark.parametrize("ignore_background", [False, True])
def test_ari_equals_scikit_learn_on_a_thousand_pairs(ignore_background):
    rng = np.random.default_rng(0)
    for _ in range(500):
        true = rng.integers(0, rng.integers(1, 5), 60)
        # From pure chance to perfect agreement.
        chance = rng.integers(0, 5, 60)
        predicted = np.where(rng.random(60) < rng.random(), true, chance)
        got = ari(true, predicted, ignore_background=ignore_background)
        kept = true > 0 if ignore_background else np.full(60, True)
        want = adjusted_rand_score(true[kept], predicted[kept])
        assert abs(float(got.value) - want) <= 1e-6
        assert bool(got.valid) == (len(set(true[kept])) >= 2)


ONES, NAMES = np.ones(60, int), np.arange(60)
EDGES = {
    "both one label": (ONES, 2 * ONES, 1.0, False),
    "both every pixel alone": (NAMES, NAMES[::-1].copy(), 1.0, True),
    "one label split": (ONES, NAMES, 0.0, False),
    "all merged": (NAMES, ONES, 0.0, True),
    "one stray pixel": (ONES, np.where(NAMES == 7, 2, 1), 0.0, False),
}


@pytest.mark.parametrize("case", EDGES.values(), ids=EDGES.keys())
def test_ari_at_the_edges(case):
    true, predicted, value, valid = case
    got = ari(true, predicted, num_true=60, num_predicted=60)
    assert adjusted_rand_score(true, predicted) == value
    assert abs(float(got.value) - value) <= 1e-6
    assert bool(got.valid) == valid


def test_ari_without_foreground_is_finite_and_not_valid():
    got = ari(np.zeros(60, int), labels(0, 5, 60), ignore_background=True)
    assert float(got.value) == 1.0
    assert not bool(got.valid)
    single = ari(np.array([0, 1, 0]), np.array([0, 1, 2]), ignore_background=True)
    assert np.isfinite(single.value)
    assert not bool(single.valid)


def test_ari_keeps_its_digits_on_large_images():
    true, predicted = labels(0, 4, 1024, 1024), labels(1, 5, 1024, 1024)
    predicted = jnp.where(labels(2, 3, 1024, 1024) > 0, true, predicted)
    want = adjusted_rand_score(np.ravel(true), np.ravel(predicted))
    assert abs(float(ari(true, predicted).value) - want) <= 1e-6


@pytest.mark.parametrize("side", [256, 1024])
def test_ari_keeps_its_digits_where_the_background_is_large(side):
    true, predicted = np.zeros((side, side), int), np.zeros((side, side), int)
    true[10:15, 10:15], true[50:55, 80:85] = 1, 2
    predicted[10:15, 12:17], predicted[50:55, 80:85] = 1, 2
    want = adjusted_rand_score(true.ravel(), predicted.ravel())
    got = float(ari(jnp.asarray(true), jnp.asarray(predicted)).value)
    assert abs(got - want) <= 1e-6


@pytest.mark.parametrize(
    "metric",
    [metrics.adjusted_rand_index, metrics.mean_best_overlap, metrics.mean_iou],
)
def test_labels_out_of_range_are_not_valid(metric):
    true = jnp.array([0, 0, 1, 1, 2, 2])
    for predicted, valid in (([0, 0, 1, 1, 5, 6], False), ([0, 0, 1, 1, 2, 2], True)):
        got = metric(true, jnp.array(predicted), num_true=3, num_predicted=3)
        assert bool(got.valid) == valid
        assert np.isfinite(got.value)


def test_labels_of_one_byte_are_not_counted_twice():
    true = jnp.array([0, 0, 1, 1, 2, 2], jnp.int8)
    for metric in (metrics.adjusted_rand_index, metrics.mean_iou):
        got = metric(true, true, num_true=300, num_predicted=300)
        assert bool(got.valid)
        np.testing.assert_allclose(got.value, 1, rtol=1e-6)


@given(seed=seeds)
def test_ari_ignores_names_and_order(seed):
    true, predicted = labels(seed, 4, 6, 10), labels(seed + 1, 5, 6, 10)
    want = ari(true, predicted).value
    names = jr.permutation(jr.key(seed), 5)
    np.testing.assert_allclose(ari(true, names[predicted]).value, want, atol=1e-6)
    np.testing.assert_allclose(
        ari(predicted, true, num_true=5, num_predicted=4).value, want, atol=1e-6
    )
    order = jr.permutation(jr.key(seed), 60)
    shuffled = ari(true.ravel()[order], predicted.ravel()[order]).value
    np.testing.assert_allclose(shuffled, want, atol=1e-6)


def test_fg_ari_does_not_see_the_background():
    true = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    split = np.array([0, 1, 2, 3, 3, 3, 4, 4])
    whole = ari(true, split, ignore_background=True)
    assert float(whole.value) == 1.0
    assert float(ari(true, split).value) < 0.5


def overlaps(true, predicted, ignore_background):
    """IoU of every true object that is there with every predicted one, in loops."""
    rows = []
    for t in range(1 if ignore_background else 0, 4):
        a = true == t
        if a.any():
            rows.append(
                [
                    (a & (predicted == p)).sum() / (a | (predicted == p)).sum()
                    for p in range(5)
                ]
            )
    return np.array(rows)


static = ("num_true", "num_predicted", "ignore_background")
best_overlap = jax.jit(metrics.mean_best_overlap, static_argnames=static)
paired_iou = jax.jit(metrics.mean_iou, static_argnames=static)


@pytest.mark.parametrize("ignore_background", [False, True])
def test_overlap_metrics_equal_loops_and_scipy(ignore_background):
    rng = np.random.default_rng(1)
    for _ in range(100):
        true = rng.integers(0, rng.integers(1, 5), 60)
        predicted = np.where(rng.random(60) < 0.6, true, rng.integers(0, 5, 60))
        options = {
            "num_true": 4,
            "num_predicted": 5,
            "ignore_background": ignore_background,
        }
        arrays = jnp.asarray(true), jnp.asarray(predicted)
        best = best_overlap(*arrays, **options)
        paired = paired_iou(*arrays, **options)
        iou = overlaps(true, predicted, ignore_background)
        assert bool(best.valid) == bool(paired.valid) == (len(iou) > 0)
        if len(iou) == 0:
            assert float(best.value) == float(paired.value) == 0
            continue
        np.testing.assert_allclose(best.value, iou.max(axis=1).mean(), atol=1e-6)
        chosen = iou[linear_sum_assignment(-iou)].sum() / len(iou)
        np.testing.assert_allclose(paired.value, chosen, atol=1e-6)


def test_more_true_objects_than_predicted_ones():
    true, predicted = jnp.array([1, 2, 3, 3]), jnp.zeros(4, int)
    got = metrics.mean_iou(true, predicted, num_true=4, num_predicted=1)
    np.testing.assert_allclose(got.value, 0.5 / 3, atol=1e-6)
    got = metrics.mean_best_overlap(true, predicted, num_true=4, num_predicted=1)
    np.testing.assert_allclose(got.value, (0.25 + 0.25 + 0.5) / 3, atol=1e-6)


def test_mean_leaves_out_what_is_not_valid():
    score = metrics.Score(jnp.array([0.25, 7.0, 0.75]), jnp.array([True, False, True]))
    assert float(metrics.mean(score)) == 0.5
    nothing = metrics.Score(jnp.ones(2), jnp.zeros(2, bool))
    assert np.isnan(metrics.mean(nothing))


def test_vmap_equals_a_loop():
    true, predicted = labels(0, 4, 3, 6, 10), labels(1, 5, 3, 6, 10)
    for metric in (metrics.mean_iou, metrics.mean_best_overlap):
        one = partial(metric, num_true=4, num_predicted=5)
        batch = jax.vmap(one)(true, predicted)
        for i in range(3):
            np.testing.assert_allclose(
                batch.value[i], one(true[i], predicted[i]).value, atol=1e-6
            )


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros(3, int), np.zeros(4, int), "same pixels"),
        (np.zeros(3, int), np.zeros(3), "argmax"),
        (np.zeros(3, bool), np.zeros(3, int), "`true` must hold integer"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metrics.mean_iou(true, predicted, num_true=2, num_predicted=2)


def test_number_of_labels_must_be_positive():
    with pytest.raises(ValueError, match="`num_true` must be"):
        ari(np.zeros(3, int), np.zeros(3, int), num_true=0)


def test_mean_squared_error():
    predicted, target = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])
    assert float(losses.mean_squared_error(predicted, target)) == 4.5


@pytest.mark.usefixtures("as_users_run")
def test_the_error_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="same shape"):
        losses.mean_squared_error(jnp.ones((1, 2)), jnp.ones(2))


def test_objects_of_one_pixel_are_objects():
    true, predicted = jnp.array([0, 1]), jnp.array([1, 0])
    for metric in (metrics.mean_best_overlap, metrics.mean_iou):
        got = metric(true, predicted, num_true=2, num_predicted=2)
        assert (float(got.value), bool(got.valid)) == (1.0, True)


# As users run: optax's matching mixes dtypes where float64 is the default.
@pytest.mark.usefixtures("as_users_run")
def test_counts_are_float32_whatever_the_default():
    true, predicted = labels(0, 4, 6, 10), labels(1, 5, 6, 10)
    for metric in (metrics.mean_best_overlap, metrics.mean_iou):
        with float64():
            got = metric(true, predicted, num_true=4, num_predicted=5)
        assert got.value.dtype == jnp.float32


def test_a_set_is_at_no_distance_from_itself_and_near_what_is_near():
    a = normal(0, 3, 7)
    np.testing.assert_array_equal(metrics.match_slots(a, a).distance, np.zeros(3))
    near = metrics.match_slots(a, a + 0.01).distance
    np.testing.assert_allclose(near, np.full(3, 0.01 * 7**0.5), rtol=1e-4)


MAP_IT = " A batch is mapped by the caller; did you mean `jax.vmap(match_slots)(a, b)`?"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.match_slots(jnp.zeros((2, 3, 7)), jnp.zeros((2, 3, 7))),
            "`a` must have shape (slots, slot_size), got (2, 3, 7)." + MAP_IT,
        ),
        (
            lambda: metrics.match_slots(jnp.zeros((3, 7)), jnp.zeros((2, 3, 7))),
            "`b` must have shape (slots=3, slot_size=7), got (2, 3, 7)." + MAP_IT,
        ),
        (
            lambda: ari(np.zeros(3, int), np.zeros((2, 3), int)),
            "`true` and `predicted` must label the same pixels, got shapes (3,) and"
            " (2, 3). One example at a time: a batch is mapped by `jax.vmap`.",
        ),
        (
            lambda: ari(np.zeros(3, int), np.zeros(3, np.float32)),
            "`predicted` must hold integer labels, got float32; masks become labels by"
            " `jnp.argmax(masks, axis=0)`.",
        ),
        (
            lambda: ari(np.zeros(3, int), np.zeros(3, int), num_predicted=0),
            "`num_predicted` must be a positive integer, got 0.",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_errors_say_what_was_given_and_the_cure(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


def test_the_background_counts_in_ari_alone_unless_asked():
    true, predicted = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 2, 2])
    sizes = {"num_true": 2, "num_predicted": 3}
    assert bool(metrics.adjusted_rand_index(true, predicted, **sizes).valid)
    for metric in (metrics.mean_best_overlap, metrics.mean_iou):
        assert float(metric(true, predicted, **sizes).value) == 1.0


def test_the_mean_has_the_dtype_of_the_scores():
    score = metrics.Score(jnp.ones(2, jnp.bfloat16), jnp.ones(2, bool))
    assert metrics.mean(score).dtype == jnp.bfloat16
