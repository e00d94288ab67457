"""How many slots: keeping, merging, telling apart and matching them."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import linear_sum_assignment

from eqx_slots import losses, metrics
from eqx_slots.models import composite, SlotAutoencoder
from eqx_slots.nn import KeepSlots, merge_duplicates, SlotAttention

from .helpers import assert_close, built, normal, run, seeds


def keeper(seed=0, **options):
    return built(lambda key: KeepSlots(7, key=key, **options), seed, scale=0.7)


@settings(max_examples=10)
@given(seed=seeds)
def test_the_choice_is_hard_and_its_gradient_soft(seed):
    part, slots, key = keeper(temperature=0.5), normal(seed, 5, 7), jr.key(seed)
    weights = normal(seed + 1, 5)
    kept = run(part, slots, key=key)
    assert set(np.unique(kept.mask)) <= {0.0, 1.0}
    log_odds = jax.vmap(part.score)(slots)
    assert_close(kept.probability, jax.nn.sigmoid(log_odds))

    def soft(slots):
        noisy = jax.vmap(part.score)(slots) + jr.logistic(key, (5,))
        return jnp.sum(weights * jax.nn.sigmoid(noisy / 0.5))

    got = jax.grad(lambda s: jnp.sum(weights * run(part, s, key=key).mask))(slots)
    assert_close(got, jax.grad(soft)(slots))


def test_slots_are_kept_as_often_as_their_probability_says():
    slots = normal(0, 5, 7)
    keys = jr.split(jr.key(0), 4000)

    def masks(temperature):
        part = keeper(temperature=temperature)
        return run(jax.vmap(lambda key: part(slots, key=key).mask), keys)

    drawn = masks(0.1)
    forced = jnp.sum(drawn, axis=1) == 1  # perhaps kept as the last
    slack = 0.03 + float(jnp.mean(forced))
    probability = keeper()(slots).probability
    np.testing.assert_allclose(jnp.mean(drawn, axis=0), probability, atol=slack)
    # The temperature shapes gradients and not who is drawn.
    np.testing.assert_array_equal(drawn, masks(3.0))


def test_nothing_is_drawn_without_a_key_or_at_inference():
    part, slots = keeper(), normal(0, 11, 7)
    want = part(slots)
    np.testing.assert_array_equal(want.mask, want.probability > 0.5)
    assert 0 < float(jnp.sum(want.mask)) < 11
    quiet = eqx.nn.inference_mode(part)
    np.testing.assert_array_equal(quiet(slots, key=jr.key(0)).mask, want.mask)
    assert not np.array_equal(part(slots, key=jr.key(0)).mask, want.mask)


@settings(max_examples=10)
@given(seed=seeds, min_slots=st.sampled_from([1, 3]))
def test_the_best_are_kept_where_too_few_would_be(seed, min_slots):
    part = keeper(min_slots=min_slots)
    sad = eqx.tree_at(lambda p: p.score.bias, part, jnp.array([-100.0]))
    slots = normal(seed, 5, 7)
    kept = run(sad, slots, key=jr.key(seed))
    assert float(jnp.sum(kept.mask)) == min_slots
    best = np.argsort(-np.asarray(jax.vmap(sad.score)(slots)))[:min_slots]
    assert set(best) == set(np.flatnonzero(run(sad, slots).mask))
    # Those kept by force learn too.
    total = lambda slots: jnp.sum(jnp.arange(5.0) * run(part, slots).mask)
    assert bool(jnp.all(jnp.any(jax.grad(total)(slots) != 0, axis=1)[1:]))


def test_masked_slots_are_never_kept():
    slots, mask = normal(0, 5, 7), jnp.array([True, False, True, True, False])
    happy = eqx.tree_at(lambda p: p.score.bias, keeper(), jnp.array([100.0]))
    kept = happy(slots, slot_mask=mask, key=jr.key(0))
    np.testing.assert_array_equal(kept.mask, mask)
    np.testing.assert_array_equal(kept.probability > 0, mask)
    grad = jax.grad(lambda s: jnp.sum(happy(s, slot_mask=mask).probability))(slots)
    np.testing.assert_array_equal(grad[~mask], 0)
    bad = jnp.where(mask[:, None], slots, jnp.nan)
    total = lambda part: jnp.sum(part(bad, slot_mask=mask, key=jr.key(0)).mask)
    for leaf in jax.tree.leaves(eqx.filter_grad(total)(keeper())):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    few = keeper(min_slots=5)(slots, slot_mask=mask)
    np.testing.assert_array_equal(few.mask, mask)


def test_half_precision_is_kept():
    kept = keeper()(normal(0, 5, 7).astype(jnp.bfloat16), key=jr.key(0))
    assert kept.mask.dtype == kept.probability.dtype == jnp.bfloat16


def pictures(seed, slots=4):
    return normal(seed, slots, 3, 5, 2), 3 * normal(seed + 1, slots, 5, 2)


@settings(max_examples=10)
@given(seed=seeds)
def test_a_slot_that_is_not_kept_might_not_be_there(seed):
    rgb, logits = pictures(seed)
    keep = np.random.default_rng(seed).permutation(4) < 2
    got = run(composite, rgb, logits, keep=jnp.asarray(keep, jnp.float32))
    want = run(composite, rgb[keep], logits[keep])
    assert_close(got.image, want.image)
    assert_close(got.masks[keep], want.masks)
    np.testing.assert_array_equal(got.masks[~keep], 0)
    everything = run(composite, rgb, logits, keep=jnp.ones(4))
    assert_close(everything.masks, composite(rgb, logits).masks)


def test_keeping_multiplies_the_numerators():
    rgb, logits = pictures(0)
    keep = jnp.array([0.0, 0.3, 1.0, 0.5])

    def plain(keep):
        powers = keep[:, None, None] * jnp.exp(logits)
        masks = powers / jnp.sum(powers, axis=0, keepdims=True)
        return jnp.sum(masks[:, None] * rgb, axis=0)

    assert_close(composite(rgb, logits, keep=keep).image, plain(keep))
    total = lambda paint: lambda keep: jnp.sum(paint(keep) ** 2)
    got = jax.grad(total(lambda keep: composite(rgb, logits, keep=keep).image))(keep)
    want = jax.grad(total(plain))(keep)
    assert_close(got, want)
    assert float(jnp.abs(got[0])) > 0.01  # it learns what it would have painted


def test_nobody_kept_and_extreme_logits_leave_nothing_but_numbers():
    rgb, logits = pictures(0)
    keep = jnp.array([0.0, 1.0, 0.0, 1.0])
    wild = logits.at[0].set(1e4).at[1].set(-1e4)
    total = lambda keep, logits: jnp.sum(composite(rgb, logits, keep=keep).image)
    for case in ((keep, wild), (jnp.zeros(4), logits), (jnp.zeros(4), wild)):
        value, grads = jax.value_and_grad(total, argnums=(0, 1))(*case)
        assert bool(jnp.isfinite(value))
        assert all(bool(jnp.all(jnp.isfinite(grad))) for grad in grads)
    np.testing.assert_array_equal(composite(rgb, wild, keep=jnp.zeros(4)).masks, 0)


class Painter(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, slot):
        painted = self.linear(slot)
        return painted[:18].reshape(3, 2, 3), painted[18:].reshape(2, 3)


def encode(image):
    return jnp.tile(image.reshape(6, 3), (1, 4))[:, :11]


def autoencoder(**options):
    def make(key):
        layer = SlotAttention(11, 7, num_slots=5, mlp_size=5, key=key)
        painter = Painter(eqx.nn.Linear(7, 24, key=key))
        return SlotAutoencoder(encode, layer, painter, **options)

    return built(make)


def test_the_autoencoder_paints_with_the_kept_slots_alone():
    image = normal(0, 3, 2, 3)
    model = autoencoder(keep_slots=keeper(3))
    made = run(model, image, key=jr.key(1))
    painted = jnp.any(made.masks > 0, axis=(1, 2))
    assert 0 < int(jnp.sum(painted)) < 5
    drawn = model.keep_slots(made.slots, key=jr.split(jr.key(1))[1]).mask
    np.testing.assert_array_equal(painted, drawn)
    want = composite(made.rgb, jnp.log(jnp.maximum(made.masks, 1e-30)))
    assert_close(made.image, want.image)
    quiet = run(model, image, slots=made.slots, num_iters=1)
    likely = model.keep_slots(quiet.slots).probability > 0.5
    np.testing.assert_array_equal(jnp.any(quiet.masks > 0, axis=(1, 2)), likely)


@pytest.mark.parametrize("keep_slots", [None, keeper(3)], ids=["plain", "adaptive"])
def test_the_autoencoder_masks_slots(keep_slots):
    image, slots = normal(0, 3, 2, 3), normal(1, 5, 7)
    model = autoencoder(keep_slots=keep_slots)
    mask = jnp.array([True, False, True, True, False])
    got = run(model, image, slots=slots, slot_mask=mask)
    want = run(model, image, slots=slots[mask])
    assert_close(got.image, want.image)
    np.testing.assert_array_equal(got.masks[~mask], 0)


@settings(max_examples=10)
@given(seed=seeds)
def test_duplicates_become_their_mean(seed):
    slots = normal(seed, 3, 64)
    copies = jnp.stack([slots[0], slots[1], 2 * slots[0], slots[2], 3 * slots[0]])
    merged = run(merge_duplicates, copies)
    np.testing.assert_array_equal(merged.slot_mask, [True, True, False, True, False])
    assert_close(merged.slots[0], 2 * slots[0])
    assert_close(merged.slots[1], slots[1])
    np.testing.assert_array_equal(merged.slots[2], np.zeros(64))
    again = run(merge_duplicates, merged.slots, slot_mask=merged.slot_mask)
    np.testing.assert_array_equal(again.slot_mask, merged.slot_mask)
    assert_close(again.slots, merged.slots)


def test_a_chain_of_duplicates_is_one():
    angles = jnp.array([0.0, 0.9, 0.3, 0.6, 3.0])  # neighbours are close, ends not
    slots = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    merged = merge_duplicates(slots, threshold=0.95)
    np.testing.assert_array_equal(merged.slot_mask, [True, False, False, False, True])
    apart = merge_duplicates(slots, threshold=0.95, slot_mask=jnp.arange(5) != 3)
    np.testing.assert_array_equal(apart.slot_mask, [True, True, False, False, True])
    np.testing.assert_array_equal(apart.slots[3], np.zeros(2))
    nothing = merge_duplicates(jnp.zeros((3, 2)))
    np.testing.assert_array_equal(nothing.slot_mask, [True] * 3)
    long = merge_duplicates(jnp.ones((9, 2)))
    np.testing.assert_array_equal(long.slot_mask, np.arange(9) == 0)


def test_every_link_of_a_long_chain_counts():
    angles = jnp.linspace(0, 2.8, 9)[jnp.array([0, 8, 1, 7, 2, 6, 3, 5, 4])]
    slots = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    merged = merge_duplicates(slots, threshold=0.93)
    np.testing.assert_array_equal(merged.slot_mask, np.arange(9) == 0)


@settings(max_examples=10)
@given(seed=seeds)
def test_orthogonality_is_the_mean_squared_cosine_of_pairs(seed):
    slots, mask = normal(seed, 5, 3), np.random.default_rng(seed).permutation(5) < 3
    for chosen, options in (
        (slots, {}),
        (slots[mask], {"slot_mask": jnp.asarray(mask)}),
    ):
        pairs = itertools.combinations(np.asarray(chosen, np.float64), 2)
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        want = np.mean(np.square(cosines))
        assert_close(run(losses.orthogonality, slots, **options), want)


def test_orthogonality_at_its_ends():
    assert float(losses.orthogonality(3 * jnp.eye(4))) == 0
    assert_close(losses.orthogonality(jnp.arange(1.0, 4)[:, None]), 1)
    assert float(losses.orthogonality(normal(0, 1, 7))) == 0
    grad = jax.grad(losses.orthogonality)(normal(0, 3, 7).at[1].set(0))
    assert bool(jnp.all(jnp.isfinite(grad)))


@pytest.mark.parametrize("size", [1e-4, 60.0])
def test_orthogonality_in_half_precision(size):
    alike = jnp.full((3, 64), size, jnp.float16)
    assert_close(losses.orthogonality(alike), 1)


def test_expected_number_of_slots():
    assert_close(losses.expected_num_slots(jnp.array([0.5, 1.0, 0.25])), 1.75)


@settings(max_examples=20)
@given(seed=seeds)
def test_matching_is_that_of_scipy(seed):
    a, b = normal(seed, 5, 7), normal(seed + 1, 5, 7)
    got = run(metrics.match_slots, a, b)
    cost = ((np.asarray(a)[:, None] - np.asarray(b)[None]) ** 2).sum(-1)
    _, want = linear_sum_assignment(cost)
    np.testing.assert_array_equal(got.order, want)
    assert_close(got.distance, np.linalg.norm(a - b[want], axis=1))
    order = np.random.default_rng(seed).permutation(5)
    again = run(metrics.match_slots, a, a[order])
    np.testing.assert_array_equal(a[order][again.order], a)
    assert bool(got.valid)


def test_matching_of_nan_is_not_valid_and_equal_slots_have_a_gradient():
    a = normal(0, 3, 7)
    bad = metrics.match_slots(a, a.at[1, 2].set(jnp.nan))
    assert not bool(bad.valid)
    assert sorted(np.asarray(bad.order)) == [0, 1, 2]
    total = lambda b: jnp.sum(metrics.match_slots(a, b).distance)
    assert bool(jnp.all(jnp.isfinite(jax.grad(total)(a))))


def test_slots_far_apart_are_matched_in_half_precision():
    a = jnp.full((2, 7), 300, jnp.float16) * jnp.array([[1], [-1]], jnp.float16)
    got = metrics.match_slots(a, a / 2)
    np.testing.assert_array_equal(got.order, [0, 1])
    assert bool(got.valid)


MISTAKES = {
    "no slot": (
        lambda: KeepSlots(7, min_slots=0, key=jr.key(0)),
        "`min_slots` must be",
    ),
    "temperature": (
        lambda: KeepSlots(7, temperature=0.0, key=jr.key(0)),
        "temperature",
    ),
    "too few": (lambda: keeper(min_slots=3)(normal(0, 2, 7)), "cannot be kept of 2"),
    "width": (lambda: keeper()(normal(0, 2, 6)), "slot_size=7"),
    "batch": (lambda: keeper()(normal(0, 2, 2, 7)), "jax.vmap"),
    "mask": (lambda: keeper()(normal(0, 2, 7), slot_mask=jnp.ones(2)), "boolean"),
    "kept integers": (lambda: keeper()(jnp.ones((2, 7), int)), "`slots` must be float"),
    "merged integers": (
        lambda: merge_duplicates(jnp.eye(3, dtype=int)),
        "`slots` must be floating point, got int",
    ),
    "angles of integers": (
        lambda: losses.orthogonality(jnp.eye(3, dtype=int)),
        "`slots` must be floating point, got int",
    ),
    "keep": (lambda: composite(*pictures(0), keep=jnp.ones(3)), "`keep` must have"),
    "cosine": (lambda: merge_duplicates(normal(0, 2, 7), threshold=1.5), r"\[-1, 1\]"),
    "merged mask": (
        lambda: merge_duplicates(normal(0, 2, 7), slot_mask=jnp.ones(3, bool)),
        "slots=2",
    ),
    "batched loss": (lambda: losses.orthogonality(normal(0, 2, 2, 7)), "jax.vmap"),
    "batched count": (lambda: losses.expected_num_slots(normal(0, 2, 2)), "jax.vmap"),
    "other number": (
        lambda: metrics.match_slots(normal(0, 2, 7), normal(0, 3, 7)),
        "`b` must have shape",
    ),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.usefixtures("as_users_run")
def test_mistakes_get_an_error_that_names_the_cure(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()
