"""Where slots begin that know something of the first frame."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.models import BoxHints, MaskHints

from . import reference_video as reference
from .helpers import as_float64, assert_close, built, check_fields, float64, normal, run


def make_boxes(**options):
    return built(partial(BoxHints, 7, hidden_size=5, **options))


def make_masks(num_slots=4):
    options = {"num_slots": num_slots, "encoder_size": 3, "strides": (2, 1)}
    return built(partial(MaskHints, 7, **options, hidden_size=5), scale=0.3)


BOXES = jnp.abs(normal(0, 3, 4))
LABELS = jnp.asarray(np.random.default_rng(0).integers(0, 4, (8, 6)))


@pytest.mark.parametrize("size", [4, 2])
@pytest.mark.parametrize("num_slots", [None, 6])
def test_boxes_and_centres_agree_with_the_equations(size, num_slots):
    start = make_boxes(size=size, num_slots=num_slots)
    want = reference.box_hints(start, BOXES[:, :size])
    assert_close(run(start, BOXES[:, :size]), want)
    with float64():
        got = run(as_float64(start), BOXES[:, :size].astype(jnp.float64))
    assert got.dtype == jnp.float64
    assert_close(got, want, jnp.float64)


def test_masks_agree_with_the_equations():
    start = make_masks()
    want = reference.mask_hints(start, LABELS)
    assert_close(run(start, LABELS), want)
    with float64():
        got = run(as_float64(start), LABELS)
    assert_close(got, want, jnp.float64)


def test_the_background_and_what_is_absent_start_alike():
    slots = run(make_boxes(num_slots=6), BOXES)
    np.testing.assert_array_equal(slots[4], slots[0])
    assert not np.allclose(slots[1], slots[0])
    slots = run(make_masks(), jnp.where(LABELS == 2, 0, LABELS))
    np.testing.assert_allclose(slots[2], slots[0], rtol=1e-6)
    assert not np.allclose(slots[1], slots[0])


def test_without_a_background_each_slot_is_a_hints():
    start = make_boxes(use_background=False)
    assert_close(run(start, BOXES), run(make_boxes(), BOXES)[1:])


def test_the_number_of_slots_is_chosen_at_the_call_too():
    assert run(make_boxes(num_slots=9), BOXES, num_slots=5).shape == (5, 7)
    fewer = run(make_masks(), jnp.minimum(LABELS, 1), num_slots=2)
    assert_close(fewer, run(make_masks(), jnp.minimum(LABELS, 1))[:2])


def test_masked_hints_reach_nothing():
    start, mask = make_boxes(), jnp.array([True, True, False, True])
    hidden = jnp.where(mask[1:, None], BOXES, jnp.nan)

    def total(start, boxes, mask):
        slots = start(boxes, slot_mask=mask)
        return jnp.sum(slots**2), slots

    call = eqx.filter_jit(eqx.filter_value_and_grad(total, has_aux=True))
    (_, got), grads = call(start, hidden, mask)
    (_, want), wanted = call(start, BOXES[mask[1:]], None)
    assert_close(got[mask], want)
    np.testing.assert_array_equal(got[2], 0)
    for one, other in zip(*map(jax.tree.leaves, (grads, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    slots = run(make_masks(), LABELS, slot_mask=mask)
    np.testing.assert_array_equal(slots[2], 0)
    assert_close(slots[mask], run(make_masks(), LABELS)[mask])


def test_weights_begin_as_the_papers():
    for start in (
        BoxHints(8, hidden_size=8, key=jr.key(0)),
        MaskHints(8, num_slots=3, encoder_size=2, strides=(2,), key=jr.key(0)),
    ):
        check_fields(start)
        np.testing.assert_array_equal(start.mlp.layers[0].bias, 0)
    np.testing.assert_array_equal(start.encoder.convs[0].bias, 0)
    assert start.encoder.mlp.width_size == 4
    assert start.encoder.positions.grid == "savi"


def test_vmap_equals_a_loop():
    boxes = jnp.stack([BOXES, BOXES / 2])
    for one, many in zip(boxes, jax.vmap(make_boxes())(boxes)):
        assert_close(many, make_boxes()(one))


def test_half_precision_is_kept():
    assert run(make_boxes(), BOXES.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, make_masks()
    )
    got, want = run(half, LABELS), run(make_masks(), LABELS)
    assert got.dtype == jnp.bfloat16
    assert_close(got, want, jnp.bfloat16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoxHints(0, key=jr.key(0)), "`slot_size` must be"),
        (lambda: BoxHints(7, num_slots=0, key=jr.key(0)), "`num_slots` must be"),
        (lambda: BoxHints(7, key=0), "such as `jax.random.key"),
        (
            lambda: make_boxes()(BOXES.astype(int)),
            "boxes in pixels by height",
        ),
        (lambda: make_boxes()(BOXES[:, :2]), r"`BoxHints\(size=2\)` takes centres"),
        (lambda: make_boxes()(BOXES[None]), "jax.vmap"),
        (lambda: make_boxes()(BOXES * jnp.inf), "masked by `slot_mask`"),
        (lambda: make_boxes()(BOXES * 32), r"in \[0, 1\], got up to .*; divide boxes"),
        (
            lambda: make_boxes(num_slots=3)(BOXES),
            "the background's, got 3 hints",
        ),
        (
            lambda: make_boxes(use_background=False)(BOXES, num_slots=2),
            "2 slots, got 3 hints; leave some out, or ask for num_slots=3",
        ),
        (lambda: make_boxes()(BOXES, slot_mask=jnp.ones(3, bool)), "slots=4"),
        (lambda: MaskHints(7, num_slots=0, key=jr.key(0)), "`num_slots` must be"),
        (lambda: make_masks()(LABELS == 1), "must be integers.*argmax"),
        (lambda: make_masks()(LABELS[None]), "jax.vmap"),
        (lambda: make_masks(3)(LABELS), "from 0 to 2 for 3 slots, got 0 to 3"),
        (lambda: make_masks()(LABELS - 1), r"got -1 to 2; .*`jnp.maximum\(hints, 0\)`"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
