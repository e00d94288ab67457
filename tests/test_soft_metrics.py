"""Scores of the masks as they are: what drawing an owner for each pixel gives."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linear_sum_assignment

from eqx_slots import metrics
from eqx_slots.metrics._counts import count_masks

from .helpers import seeds


TRUE, SLOTS = 4, 5
SOFT = {
    metrics.adjusted_rand_index: metrics.soft_adjusted_rand_index,
    metrics.mean_best_overlap: metrics.soft_mean_best_overlap,
    metrics.mean_iou: metrics.soft_mean_iou,
}


@partial(jax.jit, static_argnames=("metric", "num_true", "ignore_background"))
def soft(true, masks, metric, num_true=TRUE, ignore_background=False):
    options = {"num_true": num_true, "ignore_background": ignore_background}
    return metric(true, masks, **options)


def some(seed, *shape, dtype=jnp.float32, sharpness=1.0):
    """Labels, and masks that know something of them."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, TRUE, shape)
    logits = rng.normal(size=(SLOTS, *shape)) + 2 * (
        true == np.arange(SLOTS).reshape(-1, *[1] * len(shape))
    )
    masks = jax.nn.softmax(jnp.asarray(sharpness * logits, jnp.float32), axis=0)
    return jnp.asarray(true), masks.astype(dtype)


def drawn(masks, number, key):
    """Owners of all pixels, drawn from their masks, so many times."""
    logits = jnp.moveaxis(jnp.log(masks), 0, -1)
    return jr.categorical(key, logits, shape=(number, *masks.shape[1:]))


def pair_counts(true, owners, labels):
    """Ordered pairs of pixels that are together in both, and in the owners alone."""
    both = owners = jax.nn.one_hot(owners, SLOTS)
    both = jnp.einsum("pt, npk -> ntk", jax.nn.one_hot(true, TRUE)[:, labels], both)
    kept = jnp.sum(both, axis=1)
    count = lambda n: n * (n - 1)
    return jnp.sum(count(both), axis=(1, 2)), jnp.sum(count(kept), axis=1)


@pytest.mark.parametrize("labels", [slice(0, None), slice(1, None)])
def test_pair_counts_are_those_of_ten_thousand_draws(labels):
    true, masks = some(0, 60)
    both, owned = pair_counts(true, drawn(masks, 10_000, jr.key(0)), labels)
    mean, variance, _ = count_masks(true, masks, TRUE)
    mean, variance = mean[labels], variance[labels]
    expected = jnp.sum(mean * (mean - 1)) + jnp.sum(variance)
    sizes = jnp.sum(mean, axis=0)
    expected_owned = jnp.sum(sizes * (sizes - 1)) + jnp.sum(variance)
    for counts, want in ((both, expected), (owned, expected_owned)):
        error = jnp.std(counts) / 100
        assert 0 < error < 0.01 * want
        assert abs(jnp.mean(counts) - want) <= 4 * error


@pytest.mark.parametrize("ignore_background", [False, True])
def test_the_index_is_that_of_the_expected_counts(ignore_background):
    """Against the definition, over all pairs of pixels in float64."""
    for seed in range(5):
        true, masks = some(seed, 40)
        kept = (
            np.flatnonzero(np.asarray(true) > 0) if ignore_background else slice(None)
        )
        t, m = np.asarray(true)[kept], np.asarray(masks, np.float64)[:, kept]
        other = ~np.eye(len(t), dtype=bool)
        together, alike = m.T @ m, t[:, None] == t[None, :]
        r = (together * alike)[other].mean()
        a, b = alike[other].mean(), together[other].mean()
        want = (r - a * b) / ((a + b) / 2 - a * b)
        got = soft(
            true,
            masks,
            metrics.soft_adjusted_rand_index,
            ignore_background=ignore_background,
        )
        assert bool(got.valid)
        np.testing.assert_allclose(got.value, want, atol=1e-6)


@pytest.mark.parametrize("ignore_background", [False, True])
@pytest.mark.parametrize("hard", SOFT, ids=lambda metric: metric.__name__)
def test_masks_of_zero_and_one_have_the_value_of_their_labels(hard, ignore_background):
    options = {"num_true": TRUE, "ignore_background": ignore_background}
    one = jax.jit(partial(hard, **options, num_predicted=SLOTS))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        true = rng.integers(0, rng.integers(1, TRUE + 1), (6, 10))
        owners = np.where(rng.random((6, 10)) < 0.7, true, rng.integers(0, 5, (6, 10)))
        masks = jax.nn.one_hot(owners, SLOTS, axis=0)
        got, want = soft(true, masks, SOFT[hard], **options), one(true, owners)
        assert bool(got.valid) == bool(want.valid)
        np.testing.assert_allclose(got.value, want.value, atol=1e-6)


@pytest.mark.parametrize("ignore_background", [False, True])
def test_overlaps_equal_loops_and_scipy(ignore_background):
    first = 1 if ignore_background else 0
    for seed in range(20):
        true, masks = some(seed, 7, 9)
        t, m = np.asarray(true), np.asarray(masks, np.float64)
        iou = np.zeros((TRUE - first, SLOTS))
        for i in range(first, TRUE):
            for k in range(SLOTS):
                there = 1.0 * (t == i)
                least, most = np.minimum(there, m[k]), np.maximum(there, m[k])
                iou[i - first, k] = least.sum() / most.sum()
        options = {"ignore_background": ignore_background}
        best = soft(true, masks, metrics.soft_mean_best_overlap, **options)
        paired = soft(true, masks, metrics.soft_mean_iou, **options)
        chosen = iou[linear_sum_assignment(-iou)].mean()
        np.testing.assert_allclose(best.value, iou.max(axis=1).mean(), atol=1e-6)
        np.testing.assert_allclose(paired.value, chosen, atol=1e-6)


def test_a_background_that_slots_share_alike_is_not_whole():
    true = np.zeros((20, 20), int)
    true[:5, :5] = 1
    shares = np.array([0.4, 0.3, 0.3])[:, None, None] * (true == 0)
    masks = jnp.asarray([*shares, true == 1], jnp.float32)
    true, labels = jnp.asarray(true), jnp.argmax(masks, axis=0)
    sizes = {"num_true": 2}
    hard = metrics.adjusted_rand_index(true, labels, **sizes, num_predicted=4)
    assert float(hard.value) == 1
    assert float(metrics.soft_adjusted_rand_index(true, masks, **sizes).value) < 0.3
    overlap = metrics.soft_mean_best_overlap(
        true, masks, **sizes, ignore_background=False
    )
    np.testing.assert_allclose(overlap.value, (0.4 + 1) / 2, atol=1e-6)


@given(seed=seeds)
def test_order_of_slots_and_pixels_does_not_matter(seed):
    true, masks = some(seed, 60)
    rng = np.random.default_rng(seed)
    slots, pixels = rng.permutation(SLOTS), rng.permutation(60)
    for metric in SOFT.values():
        want = soft(true, masks, metric)
        got = soft(true[pixels], masks[slots][:, pixels], metric)
        np.testing.assert_allclose(got.value, want.value, atol=1e-6)
        more = jnp.concatenate([masks, jnp.zeros((2, 60))])  # slots that paint nothing
        np.testing.assert_allclose(
            soft(true, more, metric).value, want.value, atol=1e-6
        )


def test_vmap_equals_a_loop():
    true, masks = some(0, 3, 6, 10)
    masks = jnp.moveaxis(masks, 1, 0)
    for metric in SOFT.values():
        one = partial(metric, num_true=TRUE, ignore_background=False)
        batch = jax.vmap(one)(true, masks)
        alone = [soft(t, m, metric).value for t, m in zip(true, masks)]
        np.testing.assert_allclose(batch.value, alone, atol=1e-6)


BROKEN = {
    "sum above one": lambda m: m.at[0, 3].add(1e-3),
    "sum below one": lambda m: m.at[:, 3].multiply(0.999),
    "negative": lambda m: m.at[:2, 3].set(jnp.array([-0.1, 0.1 + m[0, 3] + m[1, 3]])),
    "nan": lambda m: m.at[0, 3].set(jnp.nan),
    "infinite": lambda m: m.at[0, 3].set(jnp.inf),
    "no slot kept": lambda m: m.at[:, 3].set(0),
}


@pytest.mark.parametrize("metric", SOFT.values(), ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("case", BROKEN)
def test_masks_that_are_no_distribution_are_not_valid(metric, case):
    true, masks = some(0, 60)
    assert bool(soft(true, masks, metric).valid)
    got = soft(true, BROKEN[case](masks), metric)
    assert not bool(got.valid)
    assert np.isfinite(got.value)


@pytest.mark.parametrize("metric", SOFT.values(), ids=lambda metric: metric.__name__)
def test_labels_out_of_range_are_not_valid(metric):
    true, masks = some(0, 60)
    got = soft(true.at[0].set(TRUE), masks, metric)
    assert not bool(got.valid)
    assert np.isfinite(got.value)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_rounding_of_the_dtype_is_no_fault(dtype):
    true, masks = some(0, 32, 32, dtype=dtype)
    exact = soft(*some(0, 32, 32), metrics.soft_adjusted_rand_index)
    got = soft(true, masks, metrics.soft_adjusted_rand_index)
    assert bool(got.valid)
    assert got.value.dtype == jnp.float32
    limit = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got.value, exact.value, atol=max(limit, 1e-6))


def test_one_true_label_is_nothing_to_score():
    _, masks = some(0, 60)
    got = soft(jnp.zeros(60, int), masks, metrics.soft_adjusted_rand_index)
    assert not bool(got.valid)
    got = soft(
        jnp.zeros(60, int),
        masks,
        metrics.soft_mean_best_overlap,
        ignore_background=True,
    )
    assert (float(got.value), bool(got.valid)) == (0.0, False)


def test_the_index_keeps_its_digits_where_the_background_is_large():
    side = 1024
    true = np.zeros((side, side), int)
    true[10:15, 10:15], true[50:55, 80:85] = 1, 2
    masks = np.zeros((3, side, side), np.float32)
    for k in range(3):
        masks[k] = 0.75 * (true == k) + 0.125 * (true != k)
    got = soft(true, masks, metrics.soft_adjusted_rand_index, num_true=3)
    sizes, m = np.bincount(true.ravel()).astype(float), masks.astype(float)
    mean = np.array([[m[k][true == i].sum() for k in range(3)] for i in range(3)])
    square = np.array(
        [[(m[k][true == i] ** 2).sum() for k in range(3)] for i in range(3)]
    )
    n = sizes.sum()
    r = ((mean**2).sum() - square.sum()) / (n * (n - 1))
    a = (sizes * (sizes - 1)).sum() / (n * (n - 1))
    b = ((mean.sum(axis=0) ** 2).sum() - square.sum()) / (n * (n - 1))
    want = (r - a * b) / ((a + b) / 2 - a * b)
    np.testing.assert_allclose(got.value, want, rtol=1e-3)


@pytest.mark.parametrize(
    ("true", "masks", "message"),
    [
        (np.zeros((3, 4), int), np.ones((2, 4, 3)), "`masks` must have the shape of"),
        (np.zeros((3, 4), int), np.ones((3, 4)), "behind an axis of slots"),
        (np.zeros((2, 4), int), np.ones((2, 5, 4)), "mapped by `jax.vmap`"),
        (np.zeros(4, int), np.ones((1, 4), int), "without `soft_` in its name"),
        (np.zeros(4), np.ones((1, 4)), "`true` must hold integer labels"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(true, masks, message):
    for metric in SOFT.values():
        with pytest.raises(ValueError, match=message):
            metric(true, masks, num_true=2)
    with pytest.raises(ValueError, match="`num_true` must be"):
        metrics.soft_mean_iou(np.zeros(4, int), np.ones((1, 4)), num_true=0)
