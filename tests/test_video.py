"""Slots carried through a video, against NumPy and by the laws of the loop."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import losses
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


def test_savi_small_has_the_published_sizes_and_settings():
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
    assert (model.num_iters, model.first_iters) == (1, 3)
    options = {"hints": jnp.zeros((4, 4))} if hints == "boxes" else {}
    made = eqx.filter_eval_shape(model, jnp.zeros((6, 3, 32, 32)), **options)
    assert made.masks.shape == (6, 7, 32, 32)
    learned = num_parameters(model.corrector.slot_init)
    assert learned == (0 if hints == "boxes" else 7 * 64)


def test_slots_of_blocks_keep_their_scale_from_frame_to_frame():
    """Whatever a frame adds: or it would pile up in clips longer than in training."""
    model = eqx.filter_jit(presets.block_videos)(key=jr.key(0))
    for scale in (1, 100):
        predicted = run(model.predictor, scale * normal(1, 7, 64))
        norms = np.linalg.norm(predicted, axis=1)
        np.testing.assert_allclose(norms, 64**0.5, rtol=1e-3)


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

    def foretold(model):  # of frames that came, of which there are none
        images = model.paint(one.predicted[:-1]).images
        return losses.frames_squared_error(images, video[1:1])

    error, slope = eqx.filter_jit(eqx.filter_value_and_grad(foretold))(model)
    assert error == 0
    assert not any(jnp.any(x) for x in jax.tree.leaves(slope))


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


def test_vmap_equals_a_loop_and_jit_equals_eager():
    model, videos, keys = make(), normal(0, 2, 2, 3, 12, 8), jr.split(jr.key(1), 2)
    call = lambda video, key: model(video, key=key)
    batch = jax.jit(jax.vmap(call))(videos, keys)
    for i in range(2):
        assert_same([x[i] for x in batch], call(videos[i], keys[i]))


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


def test_slots_with_noise_start_anew_for_each_key():
    options = {"slot_init": LearnedGaussianSlots(SLOTS, 7, key=jr.key(0))}
    model, video = make(corrector=options), clip(0, 2)
    one, other = (run(model, video, key=jr.key(i)).slots for i in (0, 1))
    assert largest_error(one, other) > 1e-3
    certain, mean = eqx.nn.inference_mode(model), model.corrector.slot_init.mean
    assert_close(run(certain, video).slots, run(model, video, slots=mean).slots)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_frames_before_get_their_share_of_the_gradient(share):
    """What the second frame errs reaches the first in part, and the predictor whole;
    a share of one, as an array, is the gradient without any."""
    with float64():
        model = as_float64(make())
        video, slots = (normal(1, *shape) for shape in ((2, 3, 12, 8), (SLOTS, 7)))
        given = jax.tree.map(lambda x: x.astype(jnp.float64), (video, slots))

        @eqx.filter_jit
        def of(early_gradient):
            def error(parts):
                model, video, slots = parts
                made = model(video, slots=slots, early_gradient=early_gradient)
                return jnp.sum(made.images[1] ** 2)

            return eqx.filter_value_and_grad(error)((model, *given))

        (value, got), (same, whole) = of(jnp.asarray(share)), of(1.0)
        np.testing.assert_allclose(value, same, rtol=1e-12)
        assert_close(got[1][1], whole[1][1], jnp.float64)
        for one, all in zip(
            jax.tree.leaves(got[0].predictor), jax.tree.leaves(whole[0].predictor)
        ):
            assert_close(one, all, jnp.float64)
        for one, all in ((got[1][0], whole[1][0]), (got[2], whole[2])):
            assert np.abs(all).max() > 1e-6
            np.testing.assert_allclose(one, share * all, rtol=1e-9, atol=1e-15)


def test_slots_learn_what_foretells_the_next_frame_all_the_same():
    model, video = make(), clip()

    @eqx.filter_jit
    @eqx.filter_grad
    def of(video, share):
        made = model(video, slots=normal(0, SLOTS, 7), early_gradient=share)
        return jnp.sum(made.predicted[-1] ** 2)

    gradient = of(video, 0.0)
    assert np.abs(gradient[-1]).max() > 1e-6
    np.testing.assert_array_equal(gradient[:-1], 0)


def test_slots_that_wait_pass_on_their_share_of_the_gradient():
    """A slot that takes no part in the first frame is carried through it as it is."""
    model, video = make(), clip(frames=2)
    there = jnp.ones((2, SLOTS), bool).at[0, 0].set(False)

    @eqx.filter_jit
    @eqx.filter_grad
    def of(slots, share):
        options = {"slot_mask": there, "early_gradient": share}
        return jnp.sum(model(video, slots=slots, **options).slots[1, 0] ** 2)

    slots = normal(0, SLOTS, 7)
    some, whole = of(slots, 0.3), of(slots, 1.0)
    assert np.abs(whole[0]).max() > 1e-6
    np.testing.assert_allclose(some[0], 0.3 * whole[0], rtol=1e-4, atol=1e-6)
