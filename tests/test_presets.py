"""Presets of autoencoders: the published to the letter, and `blocks` in any size."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.models import presets
from eqx_slots.nn import GaussianSlots, LearnedSlots

from .helpers import built, normal, num_parameters, run


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


def test_blocks_of_no_such_size():
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
