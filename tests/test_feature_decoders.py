"""Decoders of features, against loops in NumPy and by what their papers promise."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings

from eqx_slots.models import AutoregressiveDecoder, PatchDecoder, SlotMixer

from . import reference_features as reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    check_fields,
    float64,
    normal,
    num_parameters,
    run,
    seeds,
)


SLOT, FEATURE, INPUTS, SLOTS = 6, 4, 11, 5
SIZES = (SLOT, FEATURE, INPUTS)


@cache
def patch(**options):
    options = {"hidden_sizes": (7, 13)} | options
    return built(partial(PatchDecoder, *SIZES, **options))


@cache
def transformer(**options):
    options = {"num_layers": 2, "num_heads": 2} | options
    return built(partial(AutoregressiveDecoder, *SIZES, **options))


@cache
def mixer(**options):
    options = {"hidden_sizes": (7, 13), "num_heads": 2} | options
    return built(partial(SlotMixer, *SIZES, **options))


DECODERS = {
    "patch": patch,
    "top 2": partial(patch, top_k=2),
    "transformer": transformer,
    "random order": partial(transformer, order="random"),
    "own width": partial(transformer, hidden_size=10),
    "mixer": mixer,
}
every_decoder = pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)


def arrays(seed=0, dtype=jnp.float32):
    """Slots, features and attention of one example."""
    slots = normal(seed, SLOTS, SLOT, dtype=dtype)
    features = normal(seed + 1, INPUTS, FEATURE, dtype=dtype)
    attention = jax.nn.softmax(normal(seed + 2, SLOTS, INPUTS, dtype=dtype), axis=0)
    return slots, {"features": features, "attention": attention}


@pytest.mark.parametrize("top_k", [None, 1, 3, SLOTS])
def test_patch_decoder_agrees_with_the_paper(top_k):
    with float64():
        model = as_float64(patch(top_k=top_k))
        slots, others = arrays(dtype=jnp.float64)
        made = run(model, slots, **others)
        attention = None if top_k is None else others["attention"]
        for got, want in zip(made, reference.patch_decoder(model, slots, attention)):
            assert_close(got, want, jnp.float64)


@pytest.mark.parametrize("options", [{}, {"hidden_size": 10}, {"order": "random"}])
def test_transformer_agrees_with_the_paper(options):
    with float64():
        model = as_float64(transformer(**options))
        slots, others = arrays(dtype=jnp.float64)
        key = jr.key(3)
        made = run(model, slots, **others, key=key)
        order = np.arange(INPUTS)
        if options.get("order") == "random":
            order = np.asarray(jr.permutation(key, INPUTS))
        features = others["features"]
        want = reference.autoregressive_decoder(model, slots, features, order)
        for got, one in zip(made, want):
            assert_close(got, one, jnp.float64)


def test_mixer_agrees_with_the_paper():
    with float64():
        model = as_float64(mixer())
        slots, _ = arrays(dtype=jnp.float64)
        for got, want in zip(run(model, slots), reference.slot_mixer(model, slots)):
            assert_close(got, want, jnp.float64)


@every_decoder
def test_agrees_in_float32(make):
    model = make()
    slots, others = arrays()
    made = run(model, slots, **others)
    with float64():
        wide = run(as_float64(model), *as_float64((slots,)), **as_float64(others))
        for got, want in zip(made, wide):
            assert_close(got, want)


@every_decoder
@settings(max_examples=5)
@given(seed=seeds)
def test_masks_sum_to_one(make, seed):
    slots, others = arrays(seed)
    masks = run(make(), slots, **others, key=jr.key(seed)).masks
    assert_close(masks.sum(axis=0), np.ones(INPUTS))
    assert np.all(masks >= 0)


@every_decoder
def test_slots_are_exchangeable(make):
    model = make()
    slots, others = arrays()
    order = np.random.default_rng(0).permutation(SLOTS)
    want = run(model, slots, **others)
    others["attention"] = others["attention"][order]
    made = run(model, slots[order], **others)
    assert_close(made.features, want.features)
    assert_close(made.masks, want.masks[order])


@eqx.filter_jit
@jax.grad
def gradient(slots, model, others):
    return jnp.sum(model(slots, **others).features ** 2)


@every_decoder
def test_a_masked_slot_might_as_well_not_be_there(make):
    model = make()
    slots, others = arrays()
    mask = jnp.array([True, False, True, True, False])
    kept = np.flatnonzero(mask)
    made = run(model, slots.at[1].set(jnp.nan), **others, slot_mask=mask)
    others["attention"] = others["attention"][kept]
    want = run(model, slots[kept], **others)
    assert_close(made.features, want.features)
    assert_close(made.masks[kept], want.masks)
    np.testing.assert_array_equal(made.masks[~np.asarray(mask)], 0)

    others["attention"] = arrays()[1]["attention"]
    slopes = gradient(slots, model, others | {"slot_mask": mask})
    np.testing.assert_array_equal(slopes[~np.asarray(mask)], 0)
    assert np.all(slopes[kept] != 0)


def test_fewer_slots_than_choices():
    model = patch(top_k=3)
    slots, others = arrays()
    mask = jnp.array([False, True, False, False, True])
    made = run(model, slots, **others, slot_mask=mask)
    want = run(patch(), slots, slot_mask=mask)
    for got, one in zip(made, want):
        assert_close(got, one)
    none = run(model, slots, **others, slot_mask=jnp.zeros(SLOTS, bool))
    np.testing.assert_array_equal(none.masks, 0)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_top_k_is_the_full_decoder_where_the_others_have_no_weight(top_k):
    """Slots that want a place by minus infinity, to the last gradient."""
    full, chosen = patch(hidden_sizes=(64,)), patch(hidden_sizes=(64,), top_k=top_k)
    slots, others = arrays()
    # The first number of a slot says how much it wants all places, linearly.
    first, last = full.layers
    first = eqx.tree_at(lambda x: x.weight, first, first.weight.at[0].set(0))
    first = eqx.tree_at(lambda x: x.weight, first, first.weight.at[0, 0].set(1))
    last = eqx.tree_at(lambda x: x.weight, last, last.weight.at[:, 0].set(0))
    last = eqx.tree_at(lambda x: x.weight, last, last.weight.at[-1, 0].set(-1))
    full, chosen = (
        eqx.tree_at(lambda x: x.layers, model, (first, last))
        for model in (full, chosen)
    )
    wanted = jnp.arange(SLOTS) < top_k
    slots = slots.at[:, 0].set(jnp.where(wanted, 0.0, 1e4))
    attention = jnp.broadcast_to(wanted[:, None].astype(float), (SLOTS, INPUTS))

    def error(model, slots):
        made = model(slots, attention=attention)
        return jnp.mean((made.features - others["features"]) ** 2), made

    wants, gots = (
        eqx.filter_jit(eqx.filter_value_and_grad(error, has_aux=True))(model, slots)
        for model in (full, chosen)
    )
    np.testing.assert_array_equal(wants[0][1].masks[top_k:], 0)
    for got, want in zip(jax.tree.leaves(gots[0]), jax.tree.leaves(wants[0])):
        assert_close(got, want)
    for got, want in zip(gots[1].layers, wants[1].layers):
        np.testing.assert_allclose(got.weight, want.weight, atol=1e-6)
        np.testing.assert_allclose(got.bias, want.bias, atol=1e-6)
    assert_close(gots[1].places, wants[1].places)


def test_no_gradient_flows_through_the_choice():
    slots, others = arrays()
    call = lambda attention: jnp.sum(
        patch(top_k=2)(slots, attention=attention).features
    )
    np.testing.assert_array_equal(jax.grad(call)(others["attention"]), 0)


@eqx.filter_jit
def jacobian(model, slots, features, key):
    made = lambda features: model(slots, features=features, key=key).features
    return jax.jacrev(made)(features)


@pytest.mark.parametrize("order", ["raster", "random"])
@settings(max_examples=5)
@given(seed=seeds)
def test_nothing_is_seen_that_follows(order, seed):
    """By the gradient: what is made of a place, by the features of all places."""
    model = transformer(order=order)
    slots, others = arrays(seed)
    key = jr.key(seed)
    slopes = jacobian(model, slots, others["features"], key)
    reached = np.any(np.asarray(slopes) != 0, axis=(1, 3))
    places = np.arange(INPUTS)
    if order == "random":
        places = np.asarray(jr.permutation(key, INPUTS))
    # Every place sees all before it, and nothing else, itself included.
    want = np.zeros((INPUTS, INPUTS), bool)
    for step, place in enumerate(places):
        want[place, places[:step]] = True
    np.testing.assert_array_equal(reached, want)


def test_random_order_is_for_training():
    model = transformer(order="random")
    slots, others = arrays()
    plain = run(model, slots, **others)
    drawn = [run(model, slots, **others, key=jr.key(i)) for i in range(2)]
    assert not np.allclose(drawn[0].features, drawn[1].features)
    assert not np.allclose(drawn[0].features, plain.features)
    still = run(eqx.nn.inference_mode(model), slots, **others, key=jr.key(0))
    np.testing.assert_array_equal(still.features, plain.features)
    raster = transformer()
    for key in (None, jr.key(0)):
        made = run(raster, slots, **others, key=key)
        np.testing.assert_array_equal(made.masks, run(raster, slots, **others).masks)


@every_decoder
def test_vmap_equals_a_loop(make):
    model = make()
    examples = [arrays(seed) for seed in (0, 10)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *examples)
    call = lambda example, key: model(example[0], **example[1], key=key)
    keys = jr.split(jr.key(0), 2)
    many = jax.jit(jax.vmap(call))(batch, keys)
    for i, (slots, others) in enumerate(examples):
        alone = run(model, slots, **others, key=keys[i])
        assert_close(many.features[i], alone.features)
        assert_close(many.masks[i], alone.masks)


@every_decoder
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_kept(make, dtype):
    # Of a choice by attention nothing is left if rounding makes two equal.
    model, (slots, others) = make(), arrays(3)
    half = run(model, slots.astype(dtype), **others)
    assert half.features.dtype == half.masks.dtype == dtype
    want = run(model, slots, **others)
    np.testing.assert_allclose(
        np.asarray(half.masks, np.float32), want.masks, atol=0.05
    )
    limit = 0.05 * float(np.abs(want.features).max())
    np.testing.assert_allclose(
        np.asarray(half.features, np.float32), want.features, atol=limit
    )


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (partial(PatchDecoder, 256, 384, 196), 9_758_081),
        (partial(PatchDecoder, 256, 768, 196), 10_544_897),
        (partial(AutoregressiveDecoder, 256, 384, 196), 9_714_048),
        (partial(SlotMixer, 128, 196, 196), 3_936_964),
    ],
)
def test_published_sizes(make, parameters):
    model = eqx.filter_eval_shape(make, key=jr.key(0))
    assert num_parameters(model) == parameters


@pytest.mark.parametrize("kind", [PatchDecoder, SlotMixer, AutoregressiveDecoder])
def test_begins_as_published(kind):
    model = eqx.filter_jit(partial(kind, 64, 16, 400))(key=jr.key(0))
    check_fields(model)
    if kind is not AutoregressiveDecoder:
        deviation = 0.02 if kind is PatchDecoder else 64**-0.5
        assert np.std(model.places) == pytest.approx(deviation, rel=0.02)
        for layer in model.layers:
            largest = layer.in_features**-0.5
            assert 0.98 * largest < np.abs(layer.weight).max() <= largest
            np.testing.assert_array_equal(layer.bias, 0)
    if kind is not PatchDecoder:
        weight = model.blocks[0].attend_slots.query_proj.weight
        largest = (6 / sum(weight.shape)) ** 0.5
        assert 0.98 * largest < np.abs(weight).max() <= largest


@pytest.mark.parametrize("kind", [PatchDecoder, SlotMixer, AutoregressiveDecoder])
def test_dtype_of_the_parameters(kind):
    made = partial(kind, 8, 16, 3, dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(eqx.filter_eval_shape(made, key=jr.key(0)))
    kinds = {leaf.dtype for leaf in leaves if hasattr(leaf, "dtype")}
    assert kinds == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    slots, others = arrays()
    with pytest.raises(ValueError, match=r"`top_k`=2 needs `attention`.*state.attent"):
        patch(top_k=2)(slots)
    with pytest.raises(ValueError, match=r"`attention` must have shape .*inputs=11"):
        patch(top_k=2)(slots, attention=others["attention"][:, 1:])
    with pytest.raises(ValueError, match="got none: pass `features`"):
        transformer()(slots)
    with pytest.raises(ValueError, match=r"`features` must have shape .*=11.*=4"):
        transformer()(slots, features=others["features"][1:])
    with pytest.raises(ValueError, match="must be a PRNG key"):
        transformer(order="random")(slots, features=others["features"], key=0)
    for make in (patch, transformer, mixer):
        with pytest.raises(ValueError, match=r"did you mean `jax.vmap\(decoder\)"):
            make()(slots[None], **others)
        with pytest.raises(ValueError, match="`slots` must be floating point"):
            make()(jnp.ones((SLOTS, SLOT), int), **others)
        with pytest.raises(ValueError, match="`slot_mask` must be boolean"):
            make()(slots, **others, slot_mask=jnp.ones(SLOTS))
        with pytest.raises(ValueError, match=r"`hidden_sizes?` must be a positive"):
            if make is transformer:
                make(hidden_size=0)
            else:
                make(hidden_sizes=(3, 0))
    for kind in (AutoregressiveDecoder, SlotMixer):
        with pytest.raises(ValueError, match=r"must divide .* got 4 heads for 6"):
            kind(6, 6, 11, num_heads=4, key=jr.key(0))
    with pytest.raises(ValueError, match='must be "raster" or "random", got \'any\''):
        transformer(order="any")
    with pytest.raises(ValueError, match="`top_k` must be a positive integer"):
        patch(top_k=0)
