"""Slots on features: the whole model, its preset, and the loss for videos of them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import losses
from eqx_slots.models import (
    AutoregressiveDecoder,
    FeatureAutoencoder,
    FeatureProjection,
    FeatureReconstruction,
    PatchDecoder,
    presets,
)
from eqx_slots.nn import SlotAttention

from . import reference, reference_features
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    normal,
    num_parameters,
    run,
)


WIDTH, INPUTS, SIZE, SLOTS = 4, 6, 7, 3


def make(decoder=PatchDecoder, activation=jax.nn.relu, **options):
    """Small, of odd sizes: six features of 4, three slots of 7."""
    if decoder is PatchDecoder:
        options = {"hidden_sizes": (5,), "activation": activation} | options
    else:
        options = {"num_layers": 1, "num_heads": 2} | options
    layer = partial(SlotAttention, 5, SIZE, num_slots=SLOTS, mlp_size=11)
    project = partial(FeatureProjection, WIDTH, 5, hidden_size=11)
    return FeatureAutoencoder(
        built(partial(project, activation=activation)),
        built(layer, 1),
        built(partial(decoder, SIZE, WIDTH, INPUTS, **options), 2),
    )


@pytest.mark.parametrize(
    ("activation", "in_numpy"),
    [(jax.nn.relu, reference_features.relu), (jnp.tanh, np.tanh)],
)
def test_agrees_with_the_papers(activation, in_numpy):
    with float64():
        model = as_float64(make(top_k=2, activation=activation))
        features = normal(0, INPUTS, WIDTH, dtype=jnp.float64)
        slots = normal(1, SLOTS, SIZE, dtype=jnp.float64)
        made = run(model, features, slots=slots)
        project = model.project
        inputs = [
            reference_features.deep_mlp(
                project.layers, reference.layer_norm(project.norm, row), in_numpy
            )
            for row in reference.array(features)
        ]
        layer = model.slot_attention
        slots, attention = reference.slot_attention(layer, np.stack(inputs), slots)
        want = reference_features.patch_decoder(
            model.decoder, slots, attention, in_numpy
        )
        for got, one in zip(made, (*want, slots, attention)):
            assert_close(got, one, jnp.float64)


def test_a_decoder_is_shown_the_target_and_learns_nothing_of_it():
    model = make(AutoregressiveDecoder)
    features, target = normal(0, INPUTS, WIDTH), normal(1, INPUTS, WIDTH)
    slots = normal(2, SLOTS, SIZE)
    made = run(model, features, slots=slots, target=target)
    want = run(model.decoder, made.slots, features=target)
    assert_close(made.features, want.features)
    same = run(model, features, slots=slots, target=features)
    assert_close(run(model, features, slots=slots).features, same.features)

    @jax.jit
    @jax.grad
    def slope(target):
        return jnp.sum(model(features, slots=slots, target=target).features)

    np.testing.assert_array_equal(slope(target), 0)


def test_a_masked_slot_has_no_share():
    model, features = make(), normal(0, INPUTS, WIDTH)
    slots, kept = normal(1, SLOTS, SIZE), np.array([0, 2])
    mask = np.array([True, False, True])
    made = run(model, features, slots=slots, slot_mask=mask)
    want = run(model, features, slots=slots[kept])
    assert_close(made.features, want.features)
    assert_close(made.masks[kept], want.masks)
    np.testing.assert_array_equal(made.masks[1], 0)


def test_any_decoder_with_the_call():
    """One of a user's own, which knows no masks; and each gets a key of its own."""

    def decoder(slots, *, features, attention, key):
        return features + jr.normal(key, features.shape), attention

    model = make()
    model = FeatureAutoencoder(model.project, model.slot_attention, decoder)
    features = normal(0, INPUTS, WIDTH)
    made = run(model, features, num_slots=4, num_iters=1, key=jr.key(0))
    slots_key, decoder_key = jr.split(jr.key(0))
    layer = model.slot_attention
    inputs = run(model.project, features)
    want = run(layer, inputs, num_slots=4, num_iters=1, key=slots_key)
    assert_close(made.slots, want.slots)
    assert_close(made.masks, want.attention)
    noise = jr.normal(decoder_key, features.shape)
    assert_close(made.features, features + noise)


def test_vmap_equals_a_loop():
    model, features = make(), normal(0, 2, INPUTS, WIDTH)
    keys = jr.split(jr.key(0), 2)
    many = jax.jit(jax.vmap(lambda x, key: model(x, key=key)))(features, keys)
    for i in range(2):
        alone = run(model, features[i], key=keys[i])
        for got, want in zip(many, alone):
            assert_close(got[i], want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(dtype):
    model, features = make(), normal(0, INPUTS, WIDTH)
    slots = normal(1, SLOTS, SIZE)
    half = run(model, features.astype(dtype), slots=slots.astype(dtype))
    assert {x.dtype for x in half} == {jnp.dtype(dtype)}
    want = run(model, features, slots=slots)
    limit = 0.05 * float(np.abs(want.features).max())
    got = np.asarray(half.features, np.float32)
    np.testing.assert_allclose(got, want.features, atol=limit)


def enlarged(masks, rows, height, width):
    """Each pixel from the four patches around its middle, one after the other."""
    grid = masks.reshape(len(masks), rows, -1)
    made = np.zeros((len(masks), height, width))
    for y in range(height):
        for x in range(width):
            v = np.clip((y + 0.5) * rows / height - 0.5, 0, rows - 1)
            u = (x + 0.5) * grid.shape[2] / width - 0.5
            u = np.clip(u, 0, grid.shape[2] - 1)
            for a in {int(np.floor(v)), int(np.ceil(v))}:
                for b in {int(np.floor(u)), int(np.ceil(u))}:
                    share = (1 - abs(v - a)) * (1 - abs(u - b))
                    made[:, y, x] += share * grid[:, a, b]
    return made


def reconstruction(inputs, dtype=jnp.float32):
    masks = jax.nn.softmax(normal(0, SLOTS, inputs), axis=0).astype(dtype)
    return FeatureReconstruction(masks, masks, masks, masks)


@pytest.mark.parametrize(
    ("inputs", "size", "grid"),
    [
        (9, (12, 12), (3, 3)),
        (6, (10, 15), (2, 3)),
        (20, (25, 19), (5, 4)),  # of patches that a crop has cut
        (1, (3, 5), (1, 1)),
    ],
)
def test_masks_in_the_size_of_an_image(inputs, size, grid):
    made = reconstruction(inputs)
    large = made.masks_at(size)
    np.testing.assert_allclose(large.sum(axis=0), 1, atol=1e-6)
    want = enlarged(np.asarray(made.masks), grid[0], *size)
    np.testing.assert_allclose(large, want, atol=1e-6)
    np.testing.assert_array_equal(large, made.masks_at(size, grid_size=grid))


def test_masks_of_half_precision_are_enlarged_in_float32():
    made = reconstruction(9, jnp.bfloat16)
    large = made.masks_at((8, 8))
    assert large.dtype == jnp.bfloat16
    want = enlarged(np.asarray(made.masks, np.float32), 3, 8, 8)
    np.testing.assert_allclose(np.asarray(large, np.float32), want, rtol=2**-8)


# Of DINOSAUR's parts, by hand: LayerNorm and MLP; the layer; the decoder.
PROJECT = {384: 247_168, 768: 788_992}
LAYER = 1_118_464


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, PROJECT[384] + LAYER + 9_758_081),
        ({"feature_size": 768}, PROJECT[768] + LAYER + 10_544_897),
        ({"decoder": "transformer"}, PROJECT[384] + LAYER + 9_714_048),
        (
            {"decoder": "transformer", "feature_size": 768},
            PROJECT[768] + LAYER + 38_597_376,
        ),
    ],
)
def test_preset_has_the_published_sizes(options, parameters):
    model = eqx.filter_eval_shape(partial(presets.dinosaur, **options), key=jr.key(0))
    assert num_parameters(model) == parameters
    assert f"{parameters:,}" in presets.dinosaur.__doc__
    features = jax.ShapeDtypeStruct((196, options.get("feature_size", 384)), float)
    call = lambda model, x: model(x, key=jr.key(0))
    made = eqx.filter_eval_shape(call, model, features)
    assert made.features.shape == features.shape
    assert made.masks.shape == made.attention.shape == (7, 196)


def test_preset_has_the_published_settings():
    make = partial(presets.dinosaur, num_slots=11, slot_size=128, hidden_size=1024)
    model = eqx.filter_eval_shape(partial(make, top_k=3), key=jr.key(0))
    layer = model.slot_attention
    assert (layer.num_slots, layer.num_iters, layer.slot_size) == (11, 3, 128)
    assert layer.mlp.width_size == 512
    assert layer.norm_inputs.eps == model.project.norm.eps == 1e-5
    assert [x.out_features for x in model.decoder.layers] == [1024] * 3 + [385]
    assert model.decoder.top_k == 3
    make = partial(presets.dinosaur, decoder="transformer", num_heads=4)
    model = eqx.filter_eval_shape(make, key=jr.key(0))
    assert {block.attend_slots.num_heads for block in model.decoder.blocks} == {4}


def test_temporal_similarity_by_hand():
    with float64():
        features = normal(0, 3, 5, 4, dtype=jnp.float64)
        # No cosine of this patch counts: it may be anywhere.
        features = features.at[0, 0].set(jnp.array([0.0, 0.0, 0.0, 1.0]))
        features = features.at[1, :, 3].set(-1.0)
        logits = normal(1, 3, 5, 5, dtype=jnp.float64)
        options = {"temperature": 0.3, "threshold": 0.1}
        got = losses.temporal_feature_similarity(logits, features, **options)
        total, alike = 0, 0
        for t in range(2):
            for n in range(5):
                a = np.asarray(features[t, n])
                cosine = np.array(
                    [
                        a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
                        for b in np.asarray(features[t + 1])
                    ]
                )
                counts = cosine >= 0.1
                alike += not counts.any()
                target = np.where(counts, np.exp(cosine / 0.3), 0.0)
                target = np.ones(5) / 5 if not counts.any() else target / target.sum()
                said = np.log(reference.softmax(np.asarray(logits[t, n]), axis=0))
                total -= target @ said
        assert 0 < alike < 10
        np.testing.assert_allclose(got, total / 10, rtol=1e-12)


def test_temporal_similarity_teaches_the_slots_alone():
    features, logits = normal(0, 2, 3, 4), normal(1, 2, 3, 3)
    loss = losses.temporal_feature_similarity
    to_logits, to_features = jax.jit(jax.grad(loss, (0, 1)))(logits, features)
    np.testing.assert_array_equal(to_features, 0)
    np.testing.assert_array_equal(to_logits[1], 0)  # there is no third frame
    np.testing.assert_allclose(to_logits[0].sum(axis=1), 0, atol=1e-7)
    assert np.any(to_logits[0] != 0)
    half = loss(logits.astype(jnp.bfloat16), features.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, loss(logits, features), rtol=0.05)
    nothing = loss(logits, jnp.zeros_like(features))  # no direction, no NaN
    assert np.isfinite(nothing)


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    model, features = make(), normal(0, INPUTS, WIDTH)
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap\(model\)"):
        model(features[None])
    with pytest.raises(ValueError, match="`features` must be floating point"):
        model(jnp.ones((INPUTS, WIDTH), int))
    with pytest.raises(ValueError, match="`features` must be floating point"):
        model.project(jnp.ones((INPUTS, WIDTH), int))
    with pytest.raises(ValueError, match=r"`features` must have shape .*=4.*got .6, 3"):
        model(features[:, :3])
    with pytest.raises(ValueError, match="`key` must be a PRNG key"):
        model(features, key=0)
    with pytest.raises(ValueError, match="`hidden_size` must be a positive integer"):
        FeatureProjection(4, 5, hidden_size=0, key=jr.key(0))
    with pytest.raises(ValueError, match=r"7 masks are no grid of 3 x 2 .*`grid_size`"):
        reconstruction(7).masks_at((8, 8))
    batch = reconstruction(9)._replace(masks=jnp.ones((2, 9, 9)) / 9)
    with pytest.raises(ValueError, match=r"mean `jax.vmap\(lambda made: made.masks_at"):
        batch.masks_at((12, 12))
    with pytest.raises(ValueError, match="are no grid of 2 x 2"):
        reconstruction(6).masks_at((8, 8), grid_size=(2, 2))
    with pytest.raises(ValueError, match="`height` must be a positive integer"):
        reconstruction(6).masks_at((0, 8))
    with pytest.raises(ValueError, match='must be "mlp" or "transformer", got \'cnn\''):
        presets.dinosaur(decoder="cnn", key=jr.key(0))
    loss = losses.temporal_feature_similarity
    frames = normal(0, 2, 3, 4)
    with pytest.raises(ValueError, match=r"`logits` must have shape .frames=2, inputs"):
        loss(frames, frames)
    with pytest.raises(ValueError, match="two frames at least"):
        loss(normal(0, 1, 3, 3), frames[:1])
    with pytest.raises(ValueError, match="`temperature` must be positive, got 0"):
        loss(normal(0, 2, 3, 3), frames, temperature=0)
