from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from eqx_slots.models import Encoder, presets, SlotSetPredictor
from eqx_slots.nn import SlotAttention
from eqx_slots.properties import BLOCKS, CLEVR, Continuous, Presence, Properties

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    normal,
    num_parameters,
    run,
    seeds,
)


THINGS = Properties(Presence(), Continuous("place", low=0.0, high=1.0, size=4))


def make(seed=0):
    """Small, of odd sizes: 6 x 4 places, 3 slots of 7, elements of 5."""
    encoder = partial(Encoder, 5, feature_size=11, strides=(2, 1), kernel_size=3)
    slot_attention = built(partial(SlotAttention, 11, 7, num_slots=3, mlp_size=13))
    parts = (built(encoder, seed, scale=0.3), slot_attention)
    return built(partial(SlotSetPredictor, *parts, THINGS, head_size=13), seed + 1)


def test_agrees_with_the_paper():
    with float64():
        model = as_float64(make())
        image = normal(0, 3, 12, 8, dtype=jnp.float64)
        slots = normal(1, 3, 7, dtype=jnp.float64)
        made = run(model, image, slots=slots)
        inputs = reference.encoder(model.encoder, image)
        want, attention = reference.slot_attention(model.slot_attention, inputs, slots)
        assert_close(made.slots, want, jnp.float64)
        assert_close(made.attention, attention, jnp.float64)
        rows = [reference.sigmoid(reference.mlp(model.head, slot)) for slot in want]
        assert_close(made.elements, np.stack(rows), jnp.float64)


@given(seed=seeds)
def test_order_of_slots_is_the_order_of_elements(seed):
    model, image, slots = make(), normal(seed, 3, 12, 8), normal(seed + 1, 3, 7)
    order = np.random.default_rng(seed).permutation(3)
    want = run(model, image, slots=slots).elements[order]
    assert_close(run(model, image, slots=slots[order]).elements, want)


def test_a_masked_slot_predicts_an_absent_object():
    model, image, slots = make(), normal(0, 3, 12, 8), normal(1, 3, 7)
    mask = jnp.array([True, False, True])
    made = run(model, image, slots=slots, slot_mask=mask)
    kept = jnp.array([0, 2])
    want = run(model, image, slots=slots[kept]).elements
    assert_close(made.elements[kept], want)
    np.testing.assert_array_equal(made.elements[1], np.zeros(5))


def test_rounds_and_number_of_slots_are_chosen_at_the_call():
    model, image = make(), normal(0, 3, 12, 8)
    assert run(model, image, num_slots=5, key=jr.key(0)).elements.shape == (5, 5)
    slots = normal(1, 3, 7)
    one = run(model, image, slots=slots, num_iters=1).slots
    inputs = run(model.encoder, image)
    assert_close(one, run(model.slot_attention.step, slots, inputs).slots)


def test_each_round_is_what_fewer_rounds_predict():
    model, image, slots = make(), normal(0, 3, 12, 8), normal(1, 3, 7)
    options = {"slots": slots, "slot_mask": jnp.array([True, False, True])}
    made = run(model.rounds, image, **options)
    for i in range(3):
        want = run(model, image, num_iters=i + 1, **options)
        for got, wanted in zip(made, want):
            assert_close(got[i], wanted)
    other = run(model.rounds, image, num_iters=2, num_slots=5, key=jr.key(0))
    want = run(model, image, num_iters=2, num_slots=5, key=jr.key(0)).elements
    assert_close(other.elements[-1], want)


def test_vmap_equals_a_loop():
    model, images, slots = make(), normal(0, 2, 3, 12, 8), normal(1, 2, 3, 7)
    one = lambda image, slots: model(image, slots=slots)
    many = jax.jit(jax.vmap(one))(images, slots)
    for i in range(2):
        alone = run(model, images[i], slots=slots[i])
        assert_close(many.elements[i], alone.elements)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    model, image, slots = make(), normal(0, 3, 12, 8), normal(1, 3, 7)
    half = run(model, image.astype(dtype), slots=slots.astype(dtype))
    assert half.elements.dtype == dtype
    assert_close(half.elements, run(model, image, slots=slots).elements, dtype)


@pytest.mark.parametrize(
    ("preset", "parameters", "properties", "num_slots", "places"),
    [
        (presets.clevr_sets, 380_627, CLEVR, 10, (32, 32)),
        (presets.block_sets, 143_883, BLOCKS, 8, (16, 16)),
        (presets.solid_sets, 181_331, CLEVR, 8, (16, 16)),
    ],
)
def test_presets(preset, parameters, properties, num_slots, places):
    model = eqx.filter_eval_shape(preset, key=jr.key(0))
    assert num_parameters(model) == parameters
    assert model.properties == properties
    side = {presets.clevr_sets: 128, presets.solid_sets: 64}.get(preset, 32)
    image = jax.ShapeDtypeStruct((3, side, side), jnp.float32)
    call = lambda model, image: model(image, key=jr.key(0))
    made = eqx.filter_eval_shape(call, model, image)
    assert made.elements.shape == (num_slots, properties.size)
    assert made.attention.shape == (num_slots, places[0] * places[1])


def test_presets_begin_with_the_official_weights():
    model = eqx.filter_jit(presets.block_sets)(key=jr.key(0))
    for layer in (*model.head.layers, *model.encoder.convs):
        np.testing.assert_array_equal(layer.bias, np.zeros_like(layer.bias))
    limit = (6 / (64 + 11)) ** 0.5
    weight = np.abs(model.head.layers[-1].weight)
    assert 0.9 * limit < weight.max() <= limit


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    model = make()
    with pytest.raises(ValueError, match="`head_size` must be a positive integer"):
        parts = (model.encoder, model.slot_attention, THINGS)
        SlotSetPredictor(*parts, head_size=0, key=jr.key(0))
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap"):
        model(normal(0, 2, 3, 12, 8), key=jr.key(0))
