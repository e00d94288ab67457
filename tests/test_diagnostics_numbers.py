"""The numbers of a diagnosis, against loops in NumPy, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from eqx_slots import diagnostics
from eqx_slots.models import Reconstruction

from .failing import (
    BATCH,
    composed,
    halved,
    HEALTHY,
    HEIGHT,
    IMAGES,
    LABELS,
    painted,
    reconstruction,
    SLOTS,
    WIDTH,
)
from .helpers import float64, seeds


def random_batch(seed, size=(5, 4, 9, 11)):
    batch, slots, height, width = size
    rng = np.random.default_rng(seed)
    masks = rng.dirichlet(np.full(slots, 0.2), (batch, height, width))
    masks = np.moveaxis(masks, 3, 1)
    rgb = 1 / (1 + np.exp(-6 * rng.normal(size=(batch, slots, 3, height, width))))
    image = np.einsum("bkchw, bkhw -> bchw", rgb, masks)
    attention = rng.dirichlet(np.full(slots, 0.5), (batch, 30)).transpose(0, 2, 1)
    slots = rng.normal(size=(batch, slots, 3))
    arrays = (image, rgb, masks, slots, attention)
    made = Reconstruction(*(jnp.asarray(x, jnp.float32) for x in arrays))
    images = rng.random((batch, 3, height, width))
    labels = rng.integers(0, 4, (batch, height, width))
    return jnp.asarray(images, jnp.float32), made, jnp.asarray(labels)


def summed(maps):
    """Sums over windows of 4 x 4 pixels, two places of the grid; beyond is nothing."""
    wide = np.pad(maps, ((0, 0), (0, 0), (1, 2), (1, 2)))
    made = np.zeros(maps.shape)
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            made[:, :, y, x] = wide[:, :, y : y + 4, x : x + 4].sum((2, 3))
    return made


def slow_numbers(images, made, labels):
    """Every number from its definition, one image, slot and pixel after the other."""
    images, labels = np.asarray(images, np.float64), np.asarray(labels)
    image, rgb, masks, _, attention = (np.asarray(x, np.float64) for x in made)
    batch, slots, height, width = masks.shape
    of_mean = ((images - images.mean(0)) ** 2).mean()
    squared = (image - images) ** 2
    ended = (rgb < 0.01) | (rgb > 0.99)
    dead = sum(masks[:, k, None] * ended[:, k] * squared for k in range(slots))
    effective, background, alone, objects, crowded, together = [], [], 0, 0, [], []
    lost = []
    places = masks[:, :, 1::2, 1::2].reshape(batch, slots, -1)
    for b in range(batch):
        share = masks[b].mean((1, 2))
        effective.append(np.exp(-sum(p * np.log(p) for p in share)))
        there = [t for t in range(4) if (labels[b] == t).any()]
        of = {t: [m[labels[b] == t].mean() for m in masks[b]] for t in there}
        background.append(1 - max(of[0]))
        nothing = rgb[b, int(np.argmax(of[0]))]
        nearer = ((image[b] - nothing) ** 2).sum(0) < squared[b].sum(0)
        off = np.sqrt(((images[b] - nothing) ** 2).mean(0))
        lost.extend((nearer & (off > 0.1 * np.ptp(images)))[labels[b] > 0])
        for t in set(there) - {0}:
            objects += 1
            main = int(np.argmax(of[t]))
            alone += all(of[u][main] < 0.5 for u in there if u != t)
        crowded.append(all(share >= 0.01))
        p, q = np.triu_indices(places.shape[2], 1)
        together.append((places[b][:, p] * places[b][:, q]).sum(0))
    together = np.array(together)
    undecided = 1 - masks.max(1)
    looked = attention.reshape(batch, slots, 5, 6).repeat(2, 2).repeat(2, 3)
    looked = looked[:, :, :height, :width]
    looked, painted = (
        summed(x - x.mean((2, 3), keepdims=True)).ravel() for x in (looked, masks)
    )
    return {
        "reconstruction_error": squared.mean() / of_mean,
        "saturated_error": dead.mean() / of_mean,
        "undecided_objects": undecided[labels > 0].mean() * slots / (slots - 1),
        "undecided_background": undecided[labels == 0].mean() * slots / (slots - 1),
        "effective_slots": np.mean(effective),
        "position_dependence": max(
            1 - together.var(0, ddof=1).mean() / together.var(), 0
        ),
        "shared_background": np.mean(background),
        "lost_objects": np.mean(lost),
        "merged_objects": 1 - alone / objects,
        "crowded_images": np.mean(crowded),
        "attention_agreement": looked
        @ painted
        / np.sqrt((looked @ looked) * (painted @ painted)),
    }


def all_numbers(images, made, labels):
    d, mask_numbers = diagnostics, {}
    for name in (
        "effective_slots",
        "position_dependence",
        "duplicate_slots",
        "crowded_images",
        "attention_agreement",
    ):
        mask_numbers[name] = getattr(d, name)(made)
    return mask_numbers | {
        "reconstruction_error": d.reconstruction_error(images, made),
        "saturated_error": d.saturated_error(images, made),
        "shared_background": d.shared_background(images, made, segmentation=labels),
        "lost_objects": d.lost_objects(images, made, segmentation=labels),
        "merged_objects": d.merged_objects(made, labels, num_true=4),
        "undecided_objects": d.undecided_objects(images, made, segmentation=labels),
        "undecided_background": d.undecided_background(
            images, made, segmentation=labels
        ),
        "plain_background": d.shared_background(images, made),
    }


compiled_numbers = jax.jit(all_numbers)


def same(got, want):
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@given(seed=seeds)
def test_numbers_are_what_they_say(seed):
    batch = random_batch(seed)
    same(compiled_numbers(*batch), slow_numbers(*batch))


@given(seed=seeds)
def test_the_order_of_slots_and_images_does_not_matter(seed):
    images, made, labels = random_batch(seed)
    want = compiled_numbers(images, made, labels)
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    batch = jax.tree.map(lambda x: x[order], (images, made, labels))
    same(compiled_numbers(*batch), want)
    # The slots of each image in an order of their own.
    orders = np.stack([rng.permutation(4) for _ in range(5)])
    rows = np.arange(5)[:, None]
    mixed = Reconstruction(made.image, *(x[rows, orders] for x in made[1:]))
    same(compiled_numbers(images, mixed, labels), want)


def test_jit_equals_eager():
    batch = random_batch(0)
    same(all_numbers(*batch), compiled_numbers(*batch))


def test_duplicates_are_counted_by_group():
    """Four columns; the first is the background's. Images of two and of three alike."""
    masks = np.zeros((2, 6, 4, 8))
    masks[:, 0, :, :4] = 1
    masks[0, 1:3, :, 4:] = 0.5  # two alike
    masks[1, 1:4, :, 4:6] = 1 / 3  # three alike, and
    masks[1, 4, :, 6:], masks[1, 5, :, 6:] = 0.99, 0.01  # one of the two is unused
    masks[1, 4, 0, 6:], masks[1, 5, 0, 6:] = 1, 0
    made = composed(np.zeros((2, 3, 4, 8)), masks)
    assert float(diagnostics.duplicate_slots(made)) == 1.5
    assert float(diagnostics.duplicate_slots(made, threshold=1.0)) == 0


def test_a_slot_with_a_few_pixels_is_not_in_use():
    for pixels, crowded in ((HEIGHT * WIDTH // 100, 0), (HEIGHT * WIDTH // 50, 1)):
        owner = np.zeros((BATCH, HEIGHT, WIDTH), int)
        owner[:, 0, :pixels] = 1
        made = reconstruction(IMAGES, owner, num_slots=2, leak=0)
        assert float(diagnostics.crowded_images(made)) == crowded
        # The same in shares of all pixels.
        masks = np.zeros((BATCH, 2, HEIGHT, WIDTH))
        masks[:, 1] = pixels / (HEIGHT * WIDTH)
        masks[:, 0] = 1 - masks[:, 1]
        assert float(diagnostics.crowded_images(composed(IMAGES, masks))) == crowded


def test_no_kept_slot_is_no_error():
    nothing = composed(IMAGES, np.zeros((BATCH, SLOTS, HEIGHT, WIDTH)))
    got = all_numbers(jnp.asarray(IMAGES, jnp.float32), nothing, jnp.asarray(LABELS))
    assert all(np.isfinite(value) for value in got.values())
    assert float(got["effective_slots"]) == 1
    assert float(got["undecided_objects"]) == 0
    assert float(got["undecided_background"]) == 0


def test_one_slot_is_never_undecided():
    made, images = (
        composed(IMAGES, np.ones((BATCH, 1, HEIGHT, WIDTH))),
        jnp.asarray(IMAGES, jnp.float32),
    )
    assert float(diagnostics.undecided_objects(images, made)) == 0
    assert float(diagnostics.position_dependence(made)) == 0
    assert float(diagnostics.attention_agreement(made)) == 0


def test_the_plain_background_is_the_true_one():
    for background, noise in ((0.5, 0.02), (0.0, 0.0)):
        images, labels = painted(background)
        rng = np.random.default_rng(0)
        images = images + noise * rng.normal(size=images.shape)
        images = jnp.asarray(images, jnp.float32)
        owner = np.where(LABELS == 0, rng.integers(3), LABELS)
        made = reconstruction(images, owner, leak=0)
        plain = diagnostics.shared_background(images, halved())
        truth = jnp.asarray(labels)
        known = diagnostics.shared_background(images, halved(), segmentation=truth)
        np.testing.assert_allclose(plain, known, atol=1e-6)
        assert float(plain) > 0.1
        assert float(diagnostics.shared_background(images, made)) == 0


def test_without_objects_or_background_there_is_no_number():
    nothing, everything = jnp.zeros((BATCH, HEIGHT, WIDTH), int), jnp.asarray(LABELS)
    assert np.isnan(diagnostics.merged_objects(HEALTHY, nothing, num_true=4))
    images = jnp.asarray(IMAGES, jnp.float32)
    full = jnp.maximum(everything, 1)
    for labels in (nothing, full):
        assert np.isnan(diagnostics.lost_objects(images, HEALTHY, segmentation=labels))
    assert np.isnan(diagnostics.shared_background(images, HEALTHY, segmentation=full))
    # An image without background does not count, the others do.
    one = everything.at[0].set(1)
    got = diagnostics.shared_background(images, halved(), segmentation=one)
    rest = jax.tree.map(lambda x: x[1:], (images, halved(), everything))
    want = diagnostics.shared_background(*rest[:2], segmentation=rest[2])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_linear_rgb_is_not_saturated():
    images, made, _ = random_batch(0)
    assert float(diagnostics.saturated_error(images, made)) > 0
    linear = made._replace(rgb=made.rgb.at[0, 0, 0, 0, 0].set(-0.1))
    assert float(diagnostics.saturated_error(images, linear)) == 0
    # The same in [-1, 1], as from a tanh.
    tanh = made._replace(rgb=2 * made.rgb - 1, image=2 * made.image - 1)
    got = diagnostics.saturated_error(2 * images - 1, tanh, rgb_range=(-1.0, 1.0))
    want = diagnostics.saturated_error(images, made)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_numbers_are_at_least_float32(dtype):
    images, made, labels = random_batch(0)
    want = compiled_numbers(images, made, labels)
    with float64():
        narrow = jax.tree.map(lambda x: x.astype(dtype), (images, made))
        got = compiled_numbers(*narrow, labels)
        for name, value in got.items():
            assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
            if name != "crowded_images":
                np.testing.assert_allclose(value, want[name], rtol=0.05, atol=0.02)
        # The model may compute in less than the images are given in.
        mixed = diagnostics.diagnose(narrow[0], made)
        assert len(mixed) == 11
