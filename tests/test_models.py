from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from jax.test_util import check_grads
from jaxtyping import Array, Float

from eqx_slots.models import (
    composite,
    Encoder,
    presets,
    SlotAutoencoder,
    SpatialBroadcastDecoder,
)
from eqx_slots.models._encoder import _over_rows
from eqx_slots.nn import GaussianSlots, LearnedSlots, SlotAttention

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    largest_error,
    normal,
    num_parameters,
    run,
    seeds,
)


ACTIVATIONS = {
    "sigmoid": (jax.nn.sigmoid, reference.sigmoid),
    "linear": (jax.nn.identity, lambda x: x),
}


def make_decoder(seed=0, activation=jax.nn.sigmoid, **options):
    options = {
        "grid_size": (3, 2),
        "hidden_sizes": (5,),
        "kernel_sizes": (5, 3),
        "strides": (2, 2),
    } | options
    make = partial(SpatialBroadcastDecoder, 7, rgb_activation=activation, **options)
    return built(make, seed)


def make(seed=0, activation=jax.nn.sigmoid, **options):
    """Small, of odd sizes: 12 x 8 pixels, 6 x 4 places, 3 slots."""
    encoder = partial(Encoder, 5, feature_size=11, strides=(2, 1), kernel_size=3)
    slot_attention = partial(SlotAttention, 11, 7, num_slots=3, mlp_size=13)
    return SlotAutoencoder(
        built(encoder, seed, scale=0.3),
        built(slot_attention, seed + 1),
        make_decoder(seed + 2, activation, **options),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_agrees_with_the_paper(name):
    ours, theirs = ACTIVATIONS[name]
    model, image, slots = make(activation=ours), normal(1, 3, 12, 8), normal(2, 3, 7)
    got = run(model, image, slots=slots)
    want = reference.autoencoder(model, image, slots, theirs)
    for one, other in zip(got, want):
        assert largest_error(one, other) <= 1e-5
    with float64():
        model = as_float64(model)
        image, slots = image.astype(jnp.float64), slots.astype(jnp.float64)
        got = run(model, image, slots=slots)
        want = reference.autoencoder(model, image, slots, theirs)
    for one, other in zip(got, want):
        assert one.dtype == jnp.float64
        assert largest_error(one, other) <= 1e-12


def test_gradients_to_second_order():
    with float64():
        model = as_float64(make())
        params, static = eqx.partition(model, eqx.is_inexact_array)
        image = normal(1, 3, 12, 8, dtype=jnp.float64)
        slots = normal(2, 3, 7, dtype=jnp.float64)

        def forward(params):
            params = jax.tree.map(jnp.asarray, params)
            made = eqx.combine(params, static)(image, slots=slots)
            return made.image, made.masks

        check_grads(jax.jit(forward), (params,), order=2, modes=["rev"])


@pytest.mark.parametrize(
    "shape",
    [
        {"grid_size": (4, 3), "kernel_sizes": (3, 3), "strides": (1, 1)},
        {"grid_size": (3, 2), "kernel_sizes": (4, 2), "strides": (2, 1)},
        {"grid_size": (2, 2), "kernel_sizes": (5, 5), "strides": (3, 2)},
        {"grid_size": (1, 1), "kernel_sizes": (7, 3), "strides": (5, 1)},
    ],
)
def test_shared_first_convolution_equals_the_plain_one(shape):
    decoder, slot = make_decoder(seed=3, **shape), normal(4, 7)
    want = reference.decoder(decoder, slot, reference.sigmoid)
    got = run(decoder, slot)
    height, width = decoder.image_size
    assert got.rgb.shape == (3, height, width)
    assert_close(got.rgb, want[0])
    assert_close(got.mask_logits, want[1])


@given(seed=seeds)
def test_masks_sum_to_one_and_image_is_their_mixture(seed):
    rgb, logits = normal(seed, 5, 3, 4, 7), 10 * normal(seed + 1, 5, 4, 7)
    image, masks = composite(rgb, logits)
    assert bool(jnp.all(masks >= 0))
    assert_close(jnp.sum(masks, axis=0), np.ones((4, 7)))
    assert_close(image, np.sum(rgb * np.asarray(masks)[:, None], axis=0))


def test_one_slot_paints_the_whole_image():
    rgb, logits = normal(0, 1, 3, 4, 7), normal(1, 1, 4, 7)
    assert_close(composite(rgb, logits).image, rgb[0])


@given(seed=seeds)
def test_order_of_slots_does_not_change_the_image(seed):
    model, image, slots = make(), normal(seed, 3, 12, 8), normal(seed + 1, 3, 7)
    straight, turned = (
        run(model, image, slots=slots),
        run(model, image, slots=slots[::-1]),
    )
    assert_close(turned.image, straight.image)
    assert_close(turned.masks, straight.masks[::-1])


def test_vmap_equals_a_loop_and_jit_equals_eager():
    model, images, keys = make(), normal(0, 2, 3, 12, 8), jr.split(jr.key(1), 2)

    @eqx.filter_jit
    def mapped(model, images, keys):
        return jax.vmap(lambda image, key: run(model, image, key=key))(images, keys)

    batch = mapped(model, images, keys)
    for i in range(2):
        for one, many in zip(model(images[i], key=keys[i]), batch):
            assert_close(many[i], one)


def test_rounds_and_number_of_slots_are_chosen_at_the_call():
    model, image = make(), normal(0, 3, 12, 8)
    made = run(model, image, num_slots=5, num_iters=1, key=jr.key(0))
    assert made.rgb.shape == (5, 3, 12, 8)
    state = model.slot_attention(
        model.encoder(image), num_slots=5, num_iters=1, key=jr.key(0)
    )
    assert_close(made.slots, state.slots)


def test_every_parameter_learns_except_the_ones_that_cancel():
    model, image = make(), normal(0, 3, 12, 8)
    target = normal(1, 3, 12, 8)
    error = lambda m: jnp.sum((m(image, key=jr.key(2)).image - target) ** 2)
    grads = eqx.filter_jit(eqx.filter_grad(error))(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        cancels = name == ".slot_attention.norm_slots.bias"
        assert (float(jnp.max(jnp.abs(leaf))) < 1e-5) == cancels, name


@pytest.mark.parametrize(
    ("make_preset", "parameters", "image_size"),
    [
        (presets.clevr, 890_180, (128, 128)),
        (presets.tetrominoes, 235_684, (35, 35)),
        (presets.multi_dsprites, 235_684, (64, 64)),
        (presets.blog, 215_268, (32, 32)),
    ],
)
def test_presets_have_the_published_sizes(make_preset, parameters, image_size):
    model = eqx.filter_eval_shape(make_preset, key=jr.key(0))
    assert num_parameters(model) == parameters
    assert model.decoder.image_size == image_size


@pytest.mark.parametrize(
    ("make_preset", "num_slots", "slot_init", "grad_iters", "activation"),
    [
        (presets.blocks, 7, LearnedSlots, None, jax.nn.identity),
        (presets.blog, 5, GaussianSlots, None, jax.nn.sigmoid),
        (presets.tetrominoes, 4, GaussianSlots, None, jax.nn.identity),
        (presets.multi_dsprites, 6, GaussianSlots, None, jax.nn.identity),
        (presets.clevr, 7, GaussianSlots, None, jax.nn.identity),
    ],
)
def test_presets_have_the_published_settings(
    make_preset, num_slots, slot_init, grad_iters, activation
):
    model = eqx.filter_eval_shape(make_preset, key=jr.key(0))
    layer = model.slot_attention
    assert (layer.num_slots, layer.num_iters, layer.slot_size) == (num_slots, 3, 64)
    assert isinstance(layer.slot_init, slot_init)
    assert layer.grad_iters == grad_iters
    assert model.decoder.rgb_activation is activation
    assert model.encoder.norm.eps == 1e-3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    model, image, slots = make(), normal(0, 3, 12, 8), normal(1, 3, 7)
    got = run(model, image.astype(dtype), slots=slots)
    want = run(model, image, slots=slots)
    for one, other in zip(got, want):
        assert one.dtype == dtype
        assert largest_error(one, other) < 0.1
    assert_close(
        jnp.sum(got.masks.astype(jnp.float32), axis=0), np.ones((12, 8)), dtype
    )


def test_parts_of_clevr_have_the_published_sizes():
    model = eqx.filter_eval_shape(presets.clevr, key=jr.key(0))
    assert num_parameters(model.encoder.convs) == 312_256
    assert num_parameters(model.encoder.positions) == 320
    assert num_parameters(model.encoder.norm) == 128
    assert num_parameters(model.encoder.mlp) == 8_320
    assert num_parameters(model.slot_attention) == 54_208
    assert num_parameters(model.decoder.convs) == 514_628


@pytest.mark.parametrize("make_preset", [presets.blocks, presets.blog])
def test_small_presets_run_at_their_size(make_preset):
    model = run(make_preset, num_slots=3, key=jr.key(0))
    made = run(model, normal(0, 3, 32, 32), key=jr.key(1))
    assert made.image.shape == (3, 32, 32)
    assert made.masks.shape == (3, 32, 32)
    assert float(jnp.std(made.image)) > 0


@pytest.mark.parametrize(
    ("image_size", "layers", "features"),
    [
        ((32, 32), 2, 256),
        ((35, 35), 2, 18 * 18),
        ((64, 64), 3, 256),
        ((64, 41), 3, 16 * 11),
        ((321, 240), 6, 11 * 8),
    ],
)
def test_blocks_of_any_size(image_size, layers, features):
    make_preset = partial(presets.blocks, image_size=image_size)
    model = eqx.filter_eval_shape(make_preset, key=jr.key(0))
    image = jnp.zeros((3, *image_size))
    assert eqx.filter_eval_shape(model.encoder, image).shape == (features, 32)
    made = eqx.filter_eval_shape(model, image)
    assert made.image.shape == (3, *image_size)
    assert made.masks.shape == (7, *image_size)
    assert len(model.decoder.convs) == layers
    assert [conv.kernel_size for conv in model.decoder.convs[-2:]] == [5, 3]


@pytest.mark.parametrize(
    ("halvings", "features"), [(0, 64 * 41), (1, 32 * 21), (2, 16 * 11), (3, 8 * 6)]
)
def test_blocks_of_an_encoder_with_more_places_or_fewer(halvings, features):
    sizes = {"image_size": (64, 41), "halvings": halvings}
    model = eqx.filter_eval_shape(presets.blocks, **sizes, key=jr.key(0))
    image = jnp.zeros((3, 64, 41))
    assert eqx.filter_eval_shape(model.encoder, image).shape == (features, 32)
    assert len(model.encoder.convs) == 3
    assert eqx.filter_eval_shape(model, image).image.shape == (3, 64, 41)
    usual = eqx.filter_eval_shape(presets.blocks, image_size=(64, 41), key=jr.key(0))
    assert model.decoder.grid_size == usual.decoder.grid_size
    if halvings == 2:
        assert eqx.tree_equal(model, usual)


@pytest.mark.parametrize("image_size", [(32, 32), (64, 41)])
def test_blocks_with_a_longer_last_step(image_size):
    make_preset = partial(presets.blocks, image_size=image_size, decoder_layers=1)
    usual = eqx.filter_eval_shape(make_preset, key=jr.key(0)).decoder
    decoder = built(partial(make_preset, last_stride=4)).decoder
    assert decoder.grid_size == usual.grid_size
    assert len(decoder.convs) == len(usual.convs) - 1
    assert [conv.stride for conv in decoder.convs][-1] == 4
    # Each pixel is made of the four places about it, so none is of a bias alone.
    last = decoder.convs[-1]
    assert last.kernel_size == 8
    parts = lambda conv: (conv.weight, conv.bias)
    ones = eqx.tree_at(parts, last, (jnp.ones_like(last.weight), jnp.zeros((4, 1, 1))))
    made = np.asarray(run(ones, jnp.ones((last.in_channels, 3, 3))))
    np.testing.assert_allclose(made[:, 4:8, 4:8], 4 * last.in_channels, rtol=1e-6)


def test_what_a_grid_paints_too_much_is_cut_off():
    sizes = {"grid_size": (4, 3), "kernel_sizes": (5, 3), "strides": (2, 1)}
    make = partial(SpatialBroadcastDecoder, 7, **sizes, hidden_sizes=(4,))
    slot = normal(0, 7)
    whole = run(built(make), slot)
    cut = run(built(partial(make, image_size=(7, 6))), slot)
    np.testing.assert_array_equal(cut.rgb, whole.rgb[:, :7])
    np.testing.assert_array_equal(cut.mask_logits, whole.mask_logits[:7])
    with pytest.raises(ValueError, match=r"`image_size` must be \(8, 6\) at most"):
        make(image_size=(8, 7), key=jr.key(0))


def test_blocks_has_no_smaller_size():
    with pytest.raises(ValueError, match=r"8 at least, got \(9, 7\)"):
        presets.blocks(image_size=(9, 7), key=jr.key(0))
    with pytest.raises(ValueError, match="`decoder_layers` must be 0 or more, got -1"):
        presets.blocks(decoder_layers=-1, key=jr.key(0))
    with pytest.raises(ValueError, match="`halvings` must be from 0 to 3, got 4"):
        presets.blocks(halvings=4, key=jr.key(0))
    with pytest.raises(ValueError, match="`last_stride` must be 2 or 4, got 3"):
        presets.blocks(last_stride=3, key=jr.key(0))


def test_presets_begin_with_the_official_weights():
    model = run(presets.blog, key=jr.key(0))
    for conv in (*model.encoder.convs, *model.decoder.convs):
        np.testing.assert_array_equal(conv.bias, np.zeros(conv.bias.shape))
        out, into, height, width = conv.weight.shape
        limit = (6 / ((out + into) * height * width)) ** 0.5
        assert 0.9 * limit < float(jnp.max(jnp.abs(conv.weight))) <= limit
    # No two layers may share their randomness.
    first, second = model.encoder.convs[1].weight, model.encoder.convs[2].weight
    assert not np.allclose(first, second)


def test_encoder_lists_places_row_by_row():
    encoder = Encoder(5, strides=(2,), kernel_size=1, key=jr.key(0))
    image = jnp.zeros((3, 6, 4)).at[:, 2, 2].set(5.0)  # place (1, 1) of 3 x 2
    changed = run(encoder, image) - run(encoder, jnp.zeros((3, 6, 4)))
    assert np.flatnonzero(jnp.any(changed != 0, axis=1)).tolist() == [3]


class Bend(eqx.Module):
    """An activation that learns one number for each neuron, and looks at one alone."""

    slope: Float[Array, ""]

    def __call__(self, x):
        return jax.lax.cond(x > 0, lambda: x, lambda: self.slope * x)


class Doubled(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return 2 * super().__call__(x)


MLPS = {
    "plain": {},
    "no biases": {"use_bias": False, "use_final_bias": False},
    "learned": {"activation": Bend(jnp.array(0.5))},
    "scan": {"depth": 3, "scan": True},
    "scalar": {"out_size": "scalar"},
    "no depth": {"depth": 0},
    "other layers": {},
    "no mlp": {},
}


@pytest.mark.parametrize("name", MLPS)
def test_encoder_does_to_each_place_what_its_mlp_does(name):
    options = {"in_size": 5, "out_size": 5, "width_size": 5, "depth": 2} | MLPS[name]
    mlp = built(partial(eqx.nn.MLP, **options))
    if name == "other layers":
        doubled = built(partial(Doubled, 5, 5))
        mlp = eqx.tree_at(lambda mlp: mlp.layers[1], mlp, doubled)
    elif name == "no mlp":
        mlp = built(partial(eqx.nn.Linear, 5, 5))
    rows = normal(0, 6, 5)
    assert_close(run(_over_rows, mlp, rows), jax.vmap(mlp)(rows))


def test_encoder_turns_nothing_round_for_its_mlp():
    mlp = built(partial(eqx.nn.MLP, 5, 7, 6, 1))
    total = lambda mlp, rows: jnp.sum(jax.vmap(partial(_over_rows, mlp))(rows) ** 2)
    params, static = eqx.partition(mlp, eqx.is_array)
    of_params = lambda params, rows: total(eqx.combine(params, static), rows)
    grads = jax.jit(jax.grad(of_params, argnums=(0, 1)))
    text = grads.lower(params, normal(0, 2, 3, 5)).as_text()
    assert "dot_general" in text
    assert "transpose" not in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Encoder(0, key=jr.key(0)), "`hidden_size` must be"),
        (lambda: Encoder(3, strides=(), key=jr.key(0)), "`strides` is empty"),
        (lambda: Encoder(3, strides=(1, 0), key=jr.key(0)), "`stride` must be"),
        (lambda: make_decoder(strides=(2,)), "one entry for each"),
        (lambda: make_decoder(grid_size=(0, 2)), "`grid_height` must be"),
        (lambda: make()(normal(0, 2, 3, 12, 8), key=jr.key(0)), "jax.vmap"),
        (lambda: make()(normal(0, 12, 8, 3), key=jr.key(0)), "channels=3"),
        (lambda: make()(jnp.ones((3, 12, 8), jnp.uint8), key=jr.key(0)), "/ 255"),
        (lambda: make()(normal(0, 3, 12, 8)), "pass `key="),
        (lambda: make()(normal(0, 3, 12, 8), early_gradient=2.0), r"lie in \[0, 1\]"),
        (lambda: make_decoder()(normal(0, 3, 7)), "jax.vmap"),
        (lambda: make_decoder(hidden_sizes=(0,)), "`hidden_sizes` must be"),
        (lambda: make_decoder(kernel_sizes=(0, 3)), "`kernel_sizes` must be"),
        (lambda: composite(normal(0, 2, 5, 3, 4, 4), normal(0, 5, 4, 4)), "jax.vmap"),
        (lambda: composite(normal(0, 5, 3, 4, 4), normal(0, 5, 4, 3)), "mask_logits"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
