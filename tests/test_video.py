"""Slots carried through a video, against NumPy and by the laws of the loop."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.models import (
    BoxHints,
    Encoder,
    presets,
    SlotVideo,
    SpatialBroadcastDecoder,
    Standardization,
    start_from_colour,
    start_from_images,
)
from eqx_slots.nn import (
    GivenSlots,
    GumbelSoftmax,
    LearnedGaussianSlots,
    LearnedSlots,
    SlotAttention,
    SlotPredictor,
    WeightedMean,
)

from . import reference_video as reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    largest_error,
    normal,
    num_parameters,
    run,
)


FRAMES, SLOTS = 5, 3


def parts(seed=0, corrector=None, **decoder):
    """Small, of odd sizes: 12 x 8 pixels, 6 x 4 places, slots of 7."""
    options = {"num_slots": SLOTS, "mlp_size": 13, "num_iters": 1} | (corrector or {})
    decoder = {
        "grid_size": (3, 2),
        "hidden_sizes": (5,),
        "kernel_sizes": (5, 3),
        "strides": (2, 2),
        "rgb_activation": jax.nn.identity,
    } | decoder
    encoder = partial(Encoder, 5, feature_size=11, strides=(2, 1), kernel_size=3)
    predictor = partial(SlotPredictor, 7, mlp_size=13, num_heads=1, norm_first=True)
    return (
        built(encoder, seed, scale=0.3),
        built(partial(SlotAttention, 11, 7, **options), seed + 1),
        built(predictor, seed + 2, scale=0.3),
        built(partial(SpatialBroadcastDecoder, 7, **decoder), seed + 3),
    )


def make(seed=0, corrector=None, slot_start=None, **options):
    return SlotVideo(*parts(seed, corrector), slot_start, **options)


def with_hints(**options):
    return make(slot_start=built(partial(BoxHints, 7, hidden_size=6)), **options)


def clip(seed=0, frames=FRAMES):
    return normal(seed, frames, 3, 12, 8)


def assert_same(got, want, **options):
    for one, other in zip(got, want):
        assert_close(one, other, **options)


def assert_alike(got, want):
    """Two trees of gradients, entry by entry."""
    for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def linear(x):
    return x


def test_agrees_with_the_equations():
    options = {"slot_init": LearnedSlots(SLOTS, 7, key=jr.key(0))}
    model = make(corrector=options, num_iters=2, first_iters=3)
    video, slots = clip(1, 3), model.corrector.slot_init.slots
    want = reference.slot_video(model, video, slots, (3, 2, 2), linear)
    assert_same(run(model, video), want)
    with float64():
        got = run(as_float64(model), video.astype(jnp.float64))
    assert_same(got, want, dtype=jnp.float64)


def test_agrees_with_savi():
    small = {
        "num_slots": None,
        "mlp_size": None,
        "layer_norm_eps": 1e-6,
        "slot_init": GivenSlots(),
        "reduction": WeightedMean(eps_in="sum"),
    }
    sizes = {"hidden_sizes": (5, 5), "kernel_sizes": (5, 5, 1), "strides": (2, 2, 1)}
    _, corrector, _, decoder = parts(corrector=small, grid="savi", **sizes)
    encoder = partial(Encoder, 11, mlp_size=6, grid="savi", layer_norm_eps=1e-6)
    model = SlotVideo(
        built(encoder, scale=0.2),
        corrector,
        built(partial(SlotPredictor, 7, mlp_size=13, num_heads=1)),
        decoder,
        built(partial(BoxHints, 7, hidden_size=6, num_slots=5), 7),
    )
    video, boxes = clip(1, 2), jnp.abs(normal(2, 3, 4))
    slots = reference.box_hints(model.slot_start, boxes)
    want = reference.slot_video(model, video, slots, (1, 1), linear)
    assert_same(run(model, video, hints=boxes), want)
    with float64():
        wide = as_float64(model)
        video, boxes = video.astype(jnp.float64), boxes.astype(jnp.float64)
        got = run(wide, video, hints=boxes)
    assert_same(got, want, dtype=jnp.float64)
    # The background and what is absent start alike, and so they stay.
    np.testing.assert_allclose(got.slots[:, 4], got.slots[:, 0], rtol=1e-9)
    assert largest_error(got.slots[:, 1], got.slots[:, 0]) > 0.01


def test_savi_small_is_saved_to_the_number():
    model = eqx.filter_eval_shape(presets.savi_small, key=jr.key(0))
    assert num_parameters(model) == 886_948
    assert num_parameters(model.encoder) == 79_328 + 4_352
    assert num_parameters(model.corrector) == 123_712
    assert num_parameters(model.predictor) == 132_480
    assert num_parameters(model.slot_start) == 34_176
    assert num_parameters(model.decoder) == 512_900
    assert model.first_iters == model.num_iters == 1
    assert model.slot_start.num_slots == 24
    assert model.corrector.reduction == WeightedMean(eps=1e-8, eps_in="sum")
    norms = (model.encoder.norm, model.corrector.norm_slots, model.predictor.norm_mlp)
    assert [norm.eps for norm in norms] == [1e-6] * 3
    made = eqx.filter_eval_shape(
        model, jnp.zeros((6, 3, 64, 64)), hints=jnp.zeros((23, 4))
    )
    assert made.masks.shape == (6, 24, 64, 64)


@pytest.mark.parametrize("hints", ["none", "boxes"])
def test_blocks_are_carried_along(hints):
    model = eqx.filter_eval_shape(presets.block_videos, hints=hints, key=jr.key(0))
    assert (model.num_iters, model.first_iters, model.predictor.norm_first) == (
        1,
        3,
        True,
    )
    options = {"hints": jnp.zeros((4, 4))} if hints == "boxes" else {}
    made = eqx.filter_eval_shape(model, jnp.zeros((6, 3, 32, 32)), **options)
    assert made.masks.shape == (6, 7, 32, 32)
    learned = num_parameters(model.corrector.slot_init)
    assert learned == (0 if hints == "boxes" else 7 * 64)


@pytest.mark.parametrize("first_iters", [1, 3])
def test_two_halves_are_the_whole(first_iters):
    model = make(
        first_iters=first_iters,
        corrector={"competition": GumbelSoftmax(inference=True)},
    )
    video, mask = clip(), jnp.ones((FRAMES, SLOTS), bool).at[1:4, 1].set(False)
    whole = run(model, video, slot_mask=mask, key=jr.key(0))
    start = run(model, video[:2], slot_mask=mask[:2], key=jr.key(0))
    end = run(model, video[2:], slots=start.predicted[-1], slot_mask=mask[2:])
    for one, first, then in zip(whole, start, end):
        assert_close(jnp.concatenate([first, then]), one)


def test_one_frame_is_a_video():
    model, video = make(first_iters=3), clip()
    one, all_ = (run(model, x, key=jr.key(0)) for x in (video[:1], video))
    assert_same(one, [x[:1] for x in all_])


def test_frames_ahead_are_the_predictors():
    model, slots = make(), normal(1, SLOTS, 7)
    made = run(model.ahead, slots, 3)
    np.testing.assert_allclose(made.slots[0], slots)
    for t in range(3):
        assert_close(
            made.predicted[t], reference.slot_predictor(model.predictor, made.slots[t])
        )
    np.testing.assert_array_equal(made.slots[1:], made.predicted[:-1])
    assert made.attention.shape == (3, SLOTS, 0)
    painted = run(model.paint, made.slots)
    assert_same(made[:3], painted)
    going_on = run(model.ahead, made.predicted[-1], 1)
    assert_close(going_on.slots[0], made.predicted[-1])


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


def test_vmap_equals_a_loop_and_jit_equals_eager():
    model, videos, keys = make(), normal(0, 2, 2, 3, 12, 8), jr.split(jr.key(1), 2)
    call = lambda video, key: model(video, key=key)
    batch = jax.jit(jax.vmap(call))(videos, keys)
    for i in range(2):
        assert_same([x[i] for x in batch], call(videos[i], keys[i]))


def test_checkpoints_change_nothing_but_memory():
    model, video, slots = make(), clip(), normal(1, SLOTS, 7)
    other = make(use_checkpoint=True)
    weights = weights_like(eqx.filter_eval_shape(model, video, slots=slots), 3)
    mask = jnp.ones((FRAMES, SLOTS), bool).at[1, 2].set(False)
    want, want_grads = outcome(model, video, slots, weights, slot_mask=mask)
    got, got_grads = outcome(other, video, slots, weights, slot_mask=mask)
    assert_same(got, want)
    assert_alike(got_grads, want_grads)


def test_sees_and_paints_in_the_range_of_the_video():
    own = Standardization(jnp.array([0.5, -0.25, 0.0]), jnp.array(2.0))
    plain, model, video = make(), make(standardization=own), clip()
    slots = normal(1, SLOTS, 7)
    want = run(plain, jax.vmap(own)(video), slots=slots)
    got = run(model, video, slots=slots)
    assert_close(got.slots, want.slots)
    assert_close(got.images, jax.vmap(own.inverse)(want.images))


def test_starts_from_the_background_of_its_frames():
    video = jnp.full((FRAMES, 3, 12, 8), 0.25).at[:, :, 3:5, 3:5].set(1)
    model = start_from_images(make(), video)
    made = run(model, video, slots=normal(0, SLOTS, 7))
    np.testing.assert_allclose(made.images, 0.25, atol=1e-6)
    model = start_from_colour(make(), jnp.full(3, 0.75))
    bias = model.decoder.convs[-1].bias
    np.testing.assert_array_equal(bias[:3, 0, 0], 0.75)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    model, video, slots = make(), clip(), normal(1, SLOTS, 7)
    got = run(model, video.astype(dtype), slots=slots)
    want = run(model, video, slots=slots)
    for one, other in zip(got, want):
        assert one.dtype == dtype
        assert largest_error(one, other) < 0.2


def test_noise_is_new_in_each_frame():
    noisy = make(corrector={"competition": GumbelSoftmax()})
    video, slots = jnp.broadcast_to(clip()[:1], (2, 3, 12, 8)), normal(1, SLOTS, 7)
    still = eqx.tree_at(lambda m: m.predictor, noisy, Still(slots))
    made = run(still, video, slots=slots, key=jr.key(0))
    assert largest_error(made.attention[0], made.attention[1]) > 0.01


class Still(eqx.Module):
    """Predicts the same slots always."""

    slots: jax.Array

    def __call__(self, slots, *, slot_mask=None):
        return self.slots


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


def test_slots_with_noise_start_anew_for_each_key():
    options = {"slot_init": LearnedGaussianSlots(SLOTS, 7, key=jr.key(0))}
    model, video = make(corrector=options), clip(0, 2)
    one, other = (run(model, video, key=jr.key(i)).slots for i in (0, 1))
    assert largest_error(one, other) > 1e-3
    certain, mean = eqx.nn.inference_mode(model), model.corrector.slot_init.mean
    assert_close(run(certain, video).slots, run(model, video, slots=mean).slots)


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


def absent(first):
    return jnp.ones(FRAMES, bool).at[0].set(not first)


BOXES = jnp.zeros((2, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(clip()[0]), r"Did you mean `video\[None\]`"),
        (lambda m: m(clip()[None]), r"jax.vmap\(model\)\(video\)"),
        (lambda m: m(clip()[:0]), "`video` has no frame"),
        (lambda m: m(jnp.ones((5, 3, 12, 8), jnp.uint8)), "/ 255"),
        (lambda m: m(clip()), "pass `key="),
        (lambda m: m(clip(), key=0), "`key` must be a PRNG key"),
        (lambda m: m(clip(), hints=BOXES), "starts without `hints`.*`slot_start`"),
        (lambda m: with_hints()(clip()), r"\(BoxHints\) takes: pass `hints="),
        (
            lambda m: with_hints()(clip(), hints=BOXES, slots=normal(0, 3, 7)),
            "pass `slots` or `hints`, not both",
        ),
        (lambda m: with_hints()(clip(), hints=BOXES, num_slots=2), "are too many"),
        (lambda m: with_hints()(clip(), hints=BOXES * jnp.nan), "finite numbers"),
        (
            lambda m: m(clip(), frame_mask=absent(True), key=jr.key(0)),
            "the first frame",
        ),
        (lambda m: m(clip(), frame_mask=absent(False)[1:]), "frames=5"),
        (lambda m: m(clip(), frame_mask=jnp.ones(5)), "`frame_mask` must be boolean"),
        (lambda m: m(clip(), slot_mask=jnp.ones(3)), "`slot_mask` must be boolean"),
        (lambda m: m(clip(), slot_mask=jnp.ones((4, 3), bool)), "frames=5"),
        (
            lambda m: m(clip(), slot_mask=jnp.ones(4, bool), key=jr.key(0)),
            "for 4 slots, but there are 3",
        ),
        (
            lambda m: with_hints()(clip(), hints=BOXES, slot_mask=jnp.ones(2, bool)),
            r"\(slots=3\), got \(2,\)",
        ),
        (lambda m: m(clip(), slots=normal(0, 3, 8)), "slot_size=7"),
        (lambda m: m(clip(), slots=normal(0, 3, 7), num_slots=2), "pass only one"),
        (lambda m: m.ahead(normal(0, 3, 7), 0), "`num_frames` must be"),
        (lambda m: m.ahead(normal(0, 2, 3, 7), 1), "slot_size=7"),
        (lambda m: m.paint(normal(0, 3, 7)), r"slots\[None\]"),
        (lambda m: make(first_iters=0), "`first_iters` must be"),
        (
            lambda m: presets.block_videos(hints="masks", key=jr.key(0)),
            '"none" or "boxes", got \'masks\'',
        ),
        (lambda m: make(num_iters=0), "`num_iters` must be"),
        (
            lambda m: make(corrector={"num_slots": None, "slot_init": GivenSlots()})(
                clip()
            ),
            "pass the initial slots",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())
