"""What is masked in a video is absent, and what else gradients tell."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from .helpers import assert_close, normal, run
from .test_video import assert_same, clip, FRAMES, make, SLOTS, with_hints


def assert_alike(got, want):
    """Two trees of gradients, entry by entry."""
    for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


@eqx.filter_jit
def outcome(model, video, slots, weights, **masks):
    """What comes out, and the gradient of a number made of all of it."""

    def total(arguments):
        model, video, slots = arguments
        made = model(video, slots=slots, **masks)
        shown = made._replace(predicted=made.slots)  # what is carried has a gradient
        return sum(jnp.sum(x * w) for x, w in zip(shown, weights)), made

    call = eqx.filter_value_and_grad(total, has_aux=True)
    (_, made), grads = call((model, video, slots))
    return made, grads


def weights_like(made, seed):
    return [normal(seed + i, *x.shape) for i, x in enumerate(made)]


@pytest.mark.parametrize("seed", [0, 1])
def test_masked_slots_are_absent(seed):
    model, video, slots = make(), clip(seed, 3), normal(seed, 5, 7)
    mask = np.random.default_rng(seed).permutation(5) < 3
    hidden = jnp.where(mask[:, None], slots, jnp.nan)
    shapes = eqx.filter_eval_shape(model, video, slots=slots)
    weights = weights_like(shapes, seed)
    kept = [weights[0], *(w[:, mask] for w in weights[1:])]
    got, got_grads = outcome(model, video, hidden, weights, slot_mask=jnp.asarray(mask))
    want, want_grads = outcome(model, video, slots[mask], kept)
    assert_close(got.images, want.images)
    for one, other in zip(got[1:], want[1:]):
        assert_close(one[:, mask], other)
    for one in (got.rgb, got.masks, got.attention):
        np.testing.assert_array_equal(one[:, ~mask], 0)
    np.testing.assert_array_equal(got_grads[2][~mask], 0)
    np.testing.assert_allclose(got_grads[2][mask], want_grads[2], rtol=2e-3, atol=2e-3)
    assert_alike(got_grads[:2], want_grads[:2])


def test_masked_frames_are_absent():
    model, video, slots = make(), clip(), normal(1, SLOTS, 7)
    mask = np.array([True, False, True, True, False])
    shapes = eqx.filter_eval_shape(model, video, slots=slots)
    weights = weights_like(shapes, 3)
    hidden = jnp.where(mask[:, None, None, None], video, jnp.nan)
    got, got_grads = outcome(
        model, hidden, slots, weights, frame_mask=jnp.asarray(mask)
    )
    want, want_grads = outcome(model, video[mask], slots, [w[mask] for w in weights])
    for one, other in zip(got, want):
        assert_close(one[mask], other)
    for one in got[:3]:
        np.testing.assert_array_equal(one[~mask], 0)
    np.testing.assert_array_equal(got.slots[4], got.predicted[3])
    np.testing.assert_array_equal(got.predicted[4], got.predicted[3])
    np.testing.assert_array_equal(got_grads[1][~mask], 0)
    np.testing.assert_allclose(got_grads[1][mask], want_grads[1], rtol=2e-3, atol=2e-3)
    assert_alike(got_grads[0], want_grads[0])


def test_a_slot_that_is_out_for_some_frames_is_carried():
    model, video, slots = make(), clip(), normal(1, SLOTS, 7)
    mask = jnp.ones((FRAMES, SLOTS), bool).at[1:3, 2].set(False)
    made = run(model, video, slots=slots, slot_mask=mask)
    for t in (1, 2):
        np.testing.assert_array_equal(made.slots[t, 2], made.predicted[0, 2])
        np.testing.assert_array_equal(made.predicted[t, 2], made.predicted[0, 2])
        np.testing.assert_array_equal(made.masks[t, 2], 0)
    assert float(jnp.sum(made.masks[3, 2])) > 0
    # What it does afterwards reaches back to before.
    later = lambda slots: jnp.sum(model(video, slots=slots, slot_mask=mask).masks[4, 2])
    assert float(jnp.abs(eqx.filter_jit(jax.grad(later))(slots)[2]).max()) > 0


def test_hints_that_are_masked_reach_nothing():
    model, video = with_hints(), clip(0, 2)
    boxes = jnp.abs(normal(1, 4, 4))
    mask = jnp.array([True, True, False, True, False])
    hidden = jnp.where(mask[1:, None], boxes, jnp.nan)

    def total(model, boxes, mask):
        return jnp.sum(model(video, hints=boxes, slot_mask=mask).images ** 2)

    call = eqx.filter_jit(eqx.filter_value_and_grad(total))
    got, got_grads = call(model, hidden, mask)
    want, want_grads = call(model, boxes[mask[1:]], None)
    assert_close(got, want)
    assert_alike(got_grads, want_grads)


def test_checkpoints_change_nothing_but_memory():
    model, video, slots = make(), clip(), normal(1, SLOTS, 7)
    other = make(use_checkpoint=True)
    weights = weights_like(eqx.filter_eval_shape(model, video, slots=slots), 3)
    mask = jnp.ones((FRAMES, SLOTS), bool).at[1, 2].set(False)
    want, want_grads = outcome(model, video, slots, weights, slot_mask=mask)
    got, got_grads = outcome(other, video, slots, weights, slot_mask=mask)
    assert_same(got, want)
    assert_alike(got_grads, want_grads)


def bytes_kept(model, frames):
    """What differentiation keeps, from the way there to the way back."""
    video, slots = clip(0, frames), normal(1, SLOTS, 7)
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    def pull(arrays):
        of = lambda arrays: eqx.combine(arrays, static)(video, slots=slots)[:3]
        return jax.vjp(of, arrays)[1]

    kept = jax.tree.leaves(jax.eval_shape(pull, arrays))
    return sum(x.size * x.dtype.itemsize for x in kept)


def test_checkpoints_keep_nothing_of_a_frame_but_its_slots():
    of_a_frame = lambda model: (bytes_kept(model, 9) - bytes_kept(model, 4)) / 5
    frame, slots = 4 * clip(0, 1).size, 4 * SLOTS * 7
    assert of_a_frame(make(use_checkpoint=True)) <= frame + 3 * slots
    assert of_a_frame(make()) > 5 * frame


def test_every_parameter_learns():
    model, boxes = with_hints(), jnp.abs(normal(1, 2, 4))
    error = lambda m: jnp.sum((m(clip(), hints=boxes).images - clip(1)) ** 2)
    grads = eqx.filter_jit(eqx.filter_grad(error))(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        none = ".slot_init" in name or name in (
            ".corrector.norm_slots.bias",
            ".predictor.attention.key_proj.bias",
        )
        assert (float(jnp.max(jnp.abs(leaf))) < 1e-5) == none, name


def test_one_trace_for_any_mask():
    call = eqx.filter_jit(
        eqx.debug.assert_max_traces(
            lambda model, video, **masks: model(video, **masks, key=jr.key(0)),
            max_traces=1,
        )
    )
    for value in (True, False):
        call(
            make(),
            clip(0, 2),
            slot_mask=jnp.full((2, SLOTS), value),
            frame_mask=jnp.array([True, value]),
        )
