import functools as ft
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import interop, nn
from eqx_slots.models import presets

from . import reference_interop as reference
from .helpers import built, float64, largest_error, run


AUTOENCODER: Any = {
    "image_size": (32, 32),
    "broadcast_size": (8, 8),
    "encoder_strides": (1, 1, 1, 1),
    "decoder_strides": (2, 2, 1, 1),
    "num_slots": 4,
}


class Source(NamedTuple):
    load: Callable
    save: Callable
    oracle: Callable
    num_iters: int
    layer_norm_eps: float


SOURCES = {
    "google_layer": Source(
        ft.partial(interop.google_layer, num_slots=4),
        interop.to_google_layer,
        ft.partial(reference.google_layer, scope="slot_attention/"),
        num_iters=3,
        layer_norm_eps=1e-3,
    ),
    "lucidrains_single": Source(
        ft.partial(interop.lucidrains, num_slots=4),
        interop.to_lucidrains,
        reference.lucidrains,
        num_iters=3,
        layer_norm_eps=1e-5,
    ),
    "lucidrains_multi": Source(
        ft.partial(interop.lucidrains, num_slots=4, num_heads=3),
        interop.to_lucidrains,
        ft.partial(reference.lucidrains, num_heads=3),
        num_iters=3,
        layer_norm_eps=1e-5,
    ),
    "savi_single": Source(interop.savi, interop.to_savi, reference.savi, 1, 1e-6),
    "savi_multi": Source(interop.savi, interop.to_savi, reference.savi, 1, 1e-6),
}
LOAD = {name: source.load for name, source in SOURCES.items()}
LOAD["google_autoencoder"] = ft.partial(interop.google_autoencoder, **AUTOENCODER)
SAVE = {name: source.save for name, source in SOURCES.items()}
SAVE["google_autoencoder"] = interop.to_google_autoencoder
each_source = pytest.mark.parametrize("name", SOURCES)
each_kind = pytest.mark.parametrize("name", LOAD)


def random_weights(name, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    return {
        entry: (scale * rng.normal(size=shape)).astype(np.float32)
        for entry, shape in reference.SHAPES[name].items()
    }


def drawn(seed, *shape, scale=1.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=shape)).astype(np.float32)


def doubled(arrays):
    return {name: np.asarray(x, np.float64) for name, x in arrays.items()}


def check_equal(got, want):
    """The same settings and the same numbers."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_array_equal(g, w)


def check_refused(reason, call, *args, **kwargs):
    with pytest.raises(ValueError, match=reason) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def check_same_entries(got, want):
    assert list(got) == list(want)
    for name in want:
        assert got[name].shape == want[name].shape, name


@eqx.filter_jit
def loss_and_gradients(module, x, slots, weights):
    """Of the sum of the result with weights, and the result itself."""

    def loss(args):
        module, x, slots = args
        out = module(x, slots=slots)
        result = out.image if hasattr(out, "image") else out.slots
        return jnp.sum(result * weights), out

    return eqx.filter_value_and_grad(loss, has_aux=True)((module, x, slots))


def check_gradients(got, oracle, arguments):
    """Each against a central difference of the oracle in a direction of its own."""
    for i, name in enumerate(arguments):
        gradient = np.asarray(got[name], np.float64)
        direction = np.random.default_rng(i).normal(size=gradient.shape)
        up, down = (
            oracle({**arguments, name: arguments[name] + h * direction})
            for h in (1e-5, -1e-5)
        )
        size = np.sqrt(np.sum(gradient**2)) + 1e-2  # some are zero but for rounding
        error = np.sum(gradient * direction) - (up - down) / 2e-5
        assert abs(error) <= 1e-4 * size, name


def gradients_by_name(name, gradient, module):
    """A gradient has the layout of what it is the gradient of."""
    _, settings = eqx.partition(module, eqx.is_inexact_array)
    named = SAVE[name](eqx.combine(gradient, settings))
    for entry in named:  # a second bias moves its gate as the first does
        if "gru_cell" in entry and entry.endswith("/bias"):
            first, second = named[entry]
            second[: len(first) // 3 * 2] = first[: len(first) // 3 * 2]
        if entry == "gru.bias_hh":
            named[entry][:48] = named["gru.bias_ih"][:48]
    return named


# Agreement with the originals


@each_source
def test_layers_and_their_gradients_agree_with_the_original(name):
    source, weights = SOURCES[name], random_weights(name)
    # So small that the epsilons of the norms matter.
    x, slots = drawn(1, 7, 24, scale=0.03), drawn(2, 4, 24, scale=0.03)
    tilt = drawn(3, 4, 24)
    layer = source.load(weights)
    (_, out), grads = loss_and_gradients(layer, x, slots, tilt)
    original = ft.partial(source.oracle, num_iters=source.num_iters)
    assert largest_error(out.slots, original(doubled(weights), x, slots)) <= 1e-5

    def oracle(arguments):
        return np.sum(original(arguments, arguments["x"], arguments["slots"]) * tilt)

    got = gradients_by_name(name, grads[0], layer)
    got |= {"x": grads[1], "slots": grads[2]}
    check_gradients(got, oracle, doubled({**weights, "x": x, "slots": slots}))


@each_source
def test_layers_agree_to_the_last_epsilon(name):
    source, weights = SOURCES[name], doubled(random_weights(name))
    x, slots = drawn(1, 7, 24).astype(float), drawn(2, 4, 24).astype(float)
    with float64():
        got = run(source.load(weights), x, slots=slots).slots
    assert got.dtype == np.float64
    want = source.oracle(weights, x, slots, num_iters=source.num_iters)
    assert largest_error(got, want) <= 1e-12
    # Which would show an epsilon of another size or in another place.
    other = source.oracle(weights, x, slots, num_iters=source.num_iters, eps=2e-8)
    assert largest_error(other, want) > 1e-10


@each_source
def test_settings_that_numbers_do_not_tell(name):
    source = SOURCES[name]
    layer = source.load(random_weights(name))
    assert layer.num_iters == source.num_iters
    for norm in (layer.norm_inputs, layer.norm_slots, layer.norm_mlp):
        assert norm.eps == source.layer_norm_eps
    in_sum = name.startswith("savi")
    assert layer.reduction == nn.WeightedMean(1e-8, "sum" if in_sum else "weights")
    assert layer.competition == nn.Softmax()
    assert layer.num_slots == (None if in_sum else 4)
    assert type(layer.slot_init) is (nn.GivenSlots if in_sum else nn.GaussianSlots)
    assert layer.num_heads == (3 if name.endswith("multi") else 1)


@pytest.mark.parametrize("name", ["google_layer", "lucidrains_single"])
def test_slots_are_drawn_as_the_original_draws_them(name):
    weights = random_weights(name)
    layer = SOURCES[name].load(weights)
    mean, log_scale = (x for entry, x in weights.items() if "slots_" in entry)
    noise = jr.normal(jr.key(5), (4, 24))
    want = mean[0] + np.exp(log_scale[0]) * noise
    assert largest_error(layer.slot_init(4, key=jr.key(5)), want) <= 1e-6


HEADS = [
    {"num_heads": 1, "inner": 10, "scale": None},
    {"num_heads": 2, "inner": 30, "scale": None},
    {"num_heads": 2, "inner": 30, "scale": 15**-0.5},
]


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_heads_of_any_width_and_a_scale_of_either_version(case):
    inner, settings = case["inner"], {k: case[k] for k in ("num_heads", "scale")}
    weights = random_weights("lucidrains_multi")
    for entry in ("to_q", "to_k", "to_v"):
        weights[f"{entry}.weight"] = drawn(4, inner, 24, scale=0.3)
        weights[f"{entry}.bias"] = drawn(5, inner, scale=0.3)
    weights["combine_heads.weight"] = drawn(6, 24, inner, scale=0.3)
    layer = interop.lucidrains(weights, num_slots=4, num_iters=1, **settings)
    x, slots = drawn(1, 7, 24), drawn(2, 4, 24)
    want = reference.lucidrains(doubled(weights), x, slots, num_iters=1, **settings)
    assert largest_error(run(layer, x, slots=slots).slots, want) <= 1e-5
    back = interop.to_lucidrains(layer, scale=case["scale"])
    check_same_entries(back, weights)


def test_savi_without_mlp_and_with_other_widths():
    weights = {
        entry: x
        for entry, x in random_weights("savi_multi").items()
        if not entry.startswith("MLP_0")
    }
    for entry in ("general_dense_k_0", "general_dense_v_0"):
        weights[f"{entry}/kernel"] = drawn(4, 11, 3, 8, scale=0.3)
    for entry in ("scale", "bias"):
        weights[f"LayerNorm_1/{entry}"] = drawn(5, 11, scale=0.3)
    layer = interop.savi(weights, num_iters=2)
    assert layer.mlp is None and layer.norm_mlp is None
    x, slots = drawn(1, 7, 11), drawn(2, 4, 24)
    want = reference.savi(doubled(weights), x, slots, num_iters=2)
    assert largest_error(run(layer, x, slots=slots).slots, want) <= 1e-5
    check_same_entries(interop.to_savi(layer), weights)


# The autoencoder


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def check_autoencoder(weights, image, slots, **settings):
    """Its four results, and all gradients of its picture."""
    model = interop.google_autoencoder(
        weights, image_size=image.shape[:2], num_slots=len(slots), **settings
    )
    tilt = drawn(3, *image.shape)
    (_, out), grads = loss_and_gradients(
        model, channels_first(image), slots, channels_first(tilt)
    )
    original = ft.partial(reference.google_autoencoder, **settings)
    want = original(doubled(weights), image.astype(float), slots)
    assert largest_error(out.image, channels_first(want[0])) <= 1e-5
    assert largest_error(out.rgb, channels_first(want[1])) <= 1e-5
    assert largest_error(out.masks, want[2]) <= 1e-5
    assert largest_error(out.slots, want[3]) <= 1e-5

    def oracle(arguments):
        picture, *_ = original(arguments, arguments["image"], arguments["slots"])
        return np.sum(picture * tilt)

    got = gradients_by_name("google_autoencoder", grads[0], model)
    got |= {"image": np.moveaxis(grads[1], 0, -1), "slots": grads[2]}
    check_gradients(got, oracle, doubled({**weights, "image": image, "slots": slots}))


def small_autoencoder():
    """No two widths alike, and kernels of all kinds that "SAME" treats differently."""
    model = "slot_attention_auto_encoder"
    layer = f"{model}/slot_attention_1"
    widths = {64: 13, 128: 17, 192: 57}
    shapes = {
        entry: tuple(widths.get(n, n) for n in shape)
        for entry, shape in reference.SHAPES["google_autoencoder"].items()
        if "_cnn/" not in entry
    }
    for i, shape in enumerate([(3, 5, 2, 7), (4, 2, 7, 13)]):
        name = f"{model}/encoder_cnn/conv2d_{i}".removesuffix("_0")
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[3:]}
    for i, shape in enumerate([(5, 5, 6, 19), (4, 4, 5, 6), (2, 2, 3, 5)]):
        name = f"{model}/decoder_cnn/conv2d_transpose_{i}".removesuffix("_0")
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[2:3]}
    for entry, shape in shapes.items():
        if entry.startswith(layer) or "slots_" in entry or "embed_1" in entry:
            shapes[entry] = tuple(19 if n == 13 else n for n in shape)
    for name in ("k", "v"):
        shapes[f"{layer}/{name}/kernel"] = (11, 19)
    for name in ("gamma", "beta"):
        shapes[f"{layer}/layer_normalization_4/{name}"] = (11,)
    shapes[f"{model}/feedforward/dense_4/kernel"] = (13, 23)
    shapes[f"{model}/feedforward/dense_4/bias"] = (23,)
    shapes[f"{model}/feedforward/dense_5/kernel"] = (23, 11)
    shapes[f"{model}/feedforward/dense_5/bias"] = (11,)
    return {
        entry: drawn(i, *shape, scale=0.3)
        for i, (entry, shape) in enumerate(shapes.items())
    }


def test_the_autoencoder_and_its_gradients_agree_with_the_original():
    check_autoencoder(
        small_autoencoder(),
        drawn(1, 24, 12, 2),
        drawn(2, 3, 19),
        broadcast_size=(2, 1),
        encoder_strides=(2, 3),
        decoder_strides=(2, 2, 3),
        num_iters=1,
    )


def test_the_autoencoder_agrees_in_the_sizes_of_the_original():
    weights = random_weights("google_autoencoder", scale=0.05)
    image, slots = drawn(1, 32, 32, 3), drawn(2, 4, 64)
    model = LOAD["google_autoencoder"](weights)
    got = run(model, channels_first(image), slots=slots)
    strides = {k: v for k, v in AUTOENCODER.items() if "strides" in k}
    want = reference.google_autoencoder(
        doubled(weights), image, slots, broadcast_size=(8, 8), **strides
    )
    assert largest_error(got.image, channels_first(want[0])) <= 1e-5
    assert largest_error(got.rgb, channels_first(want[1])) <= 1e-5
    assert largest_error(got.masks, want[2]) <= 1e-5
    assert largest_error(got.slots, want[3]) <= 1e-5


def test_a_preset_is_the_autoencoder_of_the_original():
    model = built(ft.partial(presets.tetrominoes, num_slots=4))
    back = interop.google_autoencoder(
        interop.to_google_autoencoder(model),
        image_size=(35, 35),
        broadcast_size=(35, 35),
        encoder_strides=(1, 1, 1, 1),
        decoder_strides=(1, 1, 1, 1),
        num_slots=4,
    )
    check_equal(back, model)
