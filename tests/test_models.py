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
    SlotAutoencoder,
    SpatialBroadcastDecoder,
)
from eqx_slots.models._encoder import _over_rows
from eqx_slots.nn import SlotAttention

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    largest_error,
    normal,
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
