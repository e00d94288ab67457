"""Where a model begins: the pictures it sees, and what it paints at first."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots.models import (
    SlotAutoencoder,
    Standardization,
    start_from_colour,
    start_from_images,
)

from .helpers import assert_close, largest_error, normal, run
from .test_models import make


@pytest.mark.parametrize(
    ("activation", "colour", "painted"),
    [
        (jax.nn.identity, (-1.0, 0.5, 2.0), (-1.0, 0.5, 2.0)),
        (jax.nn.sigmoid, (0.25, 0.0, 1.0), (0.25, 0.01, 0.99)),
        (jnp.tanh, (-0.25, -1.0, 1.0), (-0.25, -0.99, 0.99)),
    ],
)
def test_a_model_starts_from_a_colour(activation, colour, painted):
    model = make(activation=activation)
    started = start_from_colour(model, jnp.array(colour))
    # All that changes is what is added before the activation, to each slot's picture.
    linear = lambda m: m.decoder.rgb_activation
    before, after = (
        run(eqx.tree_at(linear, each, jax.nn.identity).decoder, normal(0, 7))
        for each in (model, started)
    )
    assert_close(after.mask_logits, before.mask_logits)
    shift = started.decoder.convs[-1].bias - model.decoder.convs[-1].bias
    assert_close(after.rgb - before.rgb, jnp.broadcast_to(shift[:3], before.rgb.shape))
    weight = lambda m: m.decoder.convs[-1].weight
    blank = eqx.tree_at(weight, started, replace_fn=jnp.zeros_like)
    want = jnp.broadcast_to(jnp.array(painted)[:, None, None], before.rgb.shape)
    assert_close(run(blank.decoder, normal(0, 7)).rgb, want)


def test_a_model_that_cannot_start_from_a_colour_says_why():
    model, black = make(), jnp.zeros(3)
    with pytest.raises(ValueError, match=r"`colour`.*channels=3\), got \(4,"):
        start_from_colour(model, jnp.zeros(4))
    other = eqx.tree_at(lambda m: m.decoder.rgb_activation, model, jax.nn.softplus)
    with pytest.raises(ValueError, match=r"must be `jax.nn.identity`.*got softplus"):
        start_from_colour(other, black)
    bare = eqx.tree_at(lambda m: m.decoder.convs[-1].bias, model, None)
    with pytest.raises(ValueError, match=r"no bias to hold a colour.*use_bias=True"):
        start_from_colour(bare, black)
    foreign = eqx.tree_at(lambda m: m.decoder, model, eqx.nn.Identity())
    with pytest.raises(ValueError, match=r"`SpatialBroadcastDecoder`, got Identity"):
        start_from_colour(foreign, black)


def test_a_colour_is_painted_in_the_range_of_the_images():
    """The decoder of a model that standardizes paints something else for it."""
    standardization = Standardization(jnp.array([0.5, 0.2, 0.1]), jnp.array(0.25))
    model = with_standardization(make(activation=jax.nn.identity), standardization)
    colour = jnp.array([0.75, 0.2, 0.0])
    started = start_from_colour(model, colour)
    bias = started.decoder.convs[-1].bias[:3, 0, 0]
    np.testing.assert_allclose(bias, [1.0, 0.0, -0.4], atol=1e-6)


@pytest.mark.usefixtures("as_users_run")
def test_a_colour_may_be_whole_numbers():
    standardization = Standardization(jnp.array([0.5, 0.2, 0.1]), jnp.array(0.25))
    model = with_standardization(make(activation=jax.nn.identity), standardization)
    bias = start_from_colour(model, jnp.array([0, 1, 0])).decoder.convs[-1].bias
    np.testing.assert_allclose(bias[:3, 0, 0], [-2.0, 3.2, -0.4], atol=1e-6)


def with_standardization(model, standardization):
    return SlotAutoencoder(
        model.encoder,
        model.slot_attention,
        model.decoder,
        standardization=standardization,
    )


def pictures():
    """Mostly of one colour, in no usual range."""
    noise = normal(3, 6, 3, 12, 8)
    colour = jnp.array([2.0, -7.0, 0.5])[None, :, None, None]
    return colour + jnp.where(jnp.abs(noise) > 1, 3 * noise, 0)


def test_standardized_by_the_median_and_the_distance_from_it():
    images = pictures()
    measured = Standardization.of(images)
    np.testing.assert_array_equal(measured.center, np.array([2.0, -7.0, 0.5]))
    seen = np.asarray(jax.vmap(measured)(images))
    np.testing.assert_allclose(np.sqrt(np.mean(seen**2)), 0.4, rtol=1e-5)
    assert_close(jax.vmap(measured.inverse)(jnp.asarray(seen)), images)
    plain = Standardization.of(jnp.full((2, 3, 4, 4), 7.0))
    assert float(plain.scale) == 1


def test_a_model_sees_and_paints_through_its_standardization():
    model, slots = make(activation=jax.nn.identity), normal(1, 3, 7)
    measured = Standardization.of(pictures())
    inside = with_standardization(model, measured)
    image = pictures()[0]
    got = run(inside, image, slots=slots)
    want = run(model, measured(image), slots=slots)
    assert_close(got.rgb, jax.vmap(measured.inverse)(want.rgb))
    assert_close(got.image, measured.inverse(want.image))
    for name in ("masks", "slots", "attention"):
        assert largest_error(getattr(got, name), getattr(want, name)) < 1e-5
    error = lambda m: jnp.mean((m(image, slots=slots).image - image) ** 2)
    slope = eqx.filter_grad(error)(inside)
    assert (
        not jnp.any(slope.standardization.center) and slope.standardization.scale == 0
    )


@pytest.mark.parametrize("range_", [(1.0, 0.0), (255.0, 0.0), (2.0, -1.0)])
def test_a_model_that_starts_from_images_begins_with_their_background(range_):
    """And sees the same in any range."""
    factor, offset = range_
    images = factor * jnp.clip(pictures() / 30 + 0.5, 0, 1) + offset
    start = partial(start_from_images, make(activation=jax.nn.identity))
    model, slots = start(images), normal(1, 3, 7)
    made = run(model, images[0], slots=slots)
    background = jnp.median(images, axis=(0, 2, 3), keepdims=True)
    assert_close(made.rgb, jnp.broadcast_to(background, made.rgb.shape))
    np.testing.assert_allclose(made.masks, 1 / 3, rtol=1e-6)
    seen = jax.vmap(model.standardization)(images)
    plain = jnp.clip(pictures() / 30 + 0.5, 0, 1)
    want = jax.vmap(start(plain).standardization)(plain)
    np.testing.assert_allclose(seen, want, atol=1e-4)
    # Nothing else is touched, and what is there can learn.
    error = lambda m: jnp.mean((m(images[0], slots=slots).image - images[0]) ** 2)
    slope = eqx.filter_grad(error)(model)
    assert jnp.any(slope.decoder.convs[-1].weight)
    assert eqx.tree_equal(model.encoder, make(activation=jax.nn.identity).encoder)


@pytest.mark.usefixtures("as_users_run")
def test_a_model_that_cannot_start_from_images_says_why():
    model, images = make(activation=jax.nn.identity), pictures()
    with pytest.raises(ValueError, match=r"linear RGB.*got sigmoid.*start_from_colour"):
        start_from_images(make(), images)
    with pytest.raises(ValueError, match=r"`images` must have shape \(batch,"):
        start_from_images(model, images[0])
    with pytest.raises(ValueError, match=r"Of videos .* `images\[:, 0\]`"):
        start_from_images(model, images[None])
    with pytest.raises(ValueError, match="3 channels, got 1"):
        start_from_images(model, images[:, :1])
    with pytest.raises(ValueError, match="`images` must be floating point"):
        start_from_images(model, images.astype(int))
    foreign = eqx.tree_at(lambda m: m.decoder, model, eqx.nn.Identity())
    with pytest.raises(ValueError, match=r"`SpatialBroadcastDecoder`, got Identity"):
        start_from_images(foreign, images)
    measured = Standardization.of(images)
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap"):
        measured(images)
    with pytest.raises(ValueError, match="`image` must be floating point"):
        measured(images[0].astype(int))
    with pytest.raises(ValueError, match="`scale` must be one number"):
        Standardization(jnp.zeros(3), jnp.ones(3))
    for scale in (0.0, -1.0, jnp.nan):
        with pytest.raises(ValueError, match="`scale` must be positive, got"):
            Standardization(jnp.zeros(3), jnp.asarray(scale))
