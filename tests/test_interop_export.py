"""What the exporters give back, and what they refuse."""

import functools as ft
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import interop, nn
from eqx_slots.models import presets, Standardization

from . import reference_interop as reference
from .helpers import built, largest_error, run
from .test_interop import (
    check_equal,
    check_refused,
    check_same_entries,
    doubled,
    drawn,
    each_kind,
    LOAD,
    random_weights,
    SAVE,
)


@each_kind
def test_what_comes_back_has_the_names_and_shapes_of_the_original(name):
    weights = random_weights(name)
    module = LOAD[name](weights)
    back = SAVE[name](module)
    check_same_entries(back, weights)
    check_equal(LOAD[name](back), module)
    for entry, array in back.items():
        assert type(array) is np.ndarray and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.writeable  # as torch wants it
        if "gru" not in entry.lower():
            np.testing.assert_array_equal(array, weights[entry])


def test_biases_that_a_layer_lacks_are_zero():
    make = ft.partial(nn.SlotAttention, 24, 24, num_slots=4, layer_norm_eps=1e-5)
    layer = built(make)
    cell = built(ft.partial(eqx.nn.GRUCell, 24, 24, use_bias=False))
    layer = eqx.tree_at(lambda x: x.cell, layer, cell)
    weights = interop.to_lucidrains(layer)
    for entry in ("to_q.bias", "to_k.bias", "to_v.bias", "gru.bias_ih", "gru.bias_hh"):
        assert not weights[entry].any()
    x, slots = drawn(1, 7, 24), drawn(2, 4, 24)
    want = reference.lucidrains(doubled(weights), x, slots, num_iters=1)
    assert largest_error(run(layer, x, slots=slots, num_iters=1).slots, want) <= 1e-5


def test_half_precision_is_exported_in_single():
    layer = built(ft.partial(nn.SlotAttention, 24, 24, num_slots=4, dtype=jnp.bfloat16))
    weights = interop.to_google_layer(layer)
    assert {array.dtype.name for array in weights.values()} == {"float32"}
    kernel = np.asarray(layer.query_proj.weight, np.float32)
    np.testing.assert_array_equal(weights["slot_attention/q/kernel"], kernel.T)


# What is refused


def layer(width=24, **changes):
    make = ft.partial(nn.SlotAttention, width, 24, **({"num_slots": 4} | changes))
    return built(make)


def replaced(where, part):
    return eqx.tree_at(where, layer(), part, is_leaf=lambda x: x is None)


ALL = (interop.to_google_layer, interop.to_lucidrains, interop.to_savi)
G, L, S = ((save,) for save in ALL)
LAYERS = {
    "no layer": (ALL, lambda: nn.Softmax(), "`layer` is Softmax, .* be SlotAttention"),
    "competition": (
        ALL,
        lambda: layer(competition=nn.Sinkhorn()),
        "`competition` is Sinkhorn, and would have to be Softmax",
    ),
    "temperature": (
        ALL,
        lambda: layer(competition=nn.Softmax(0.5)),
        "`competition.temperature` is 0.5, and would have to be 1.0",
    ),
    "heads that compete": (
        L + S,
        lambda: layer(num_heads=3, competition=nn.Softmax(over_heads=True)),
        "`competition.over_heads` is True, and would have to be False",
    ),
    "reduction": (ALL, lambda: layer(reduction=nn.WeightedSum()), "`reduction` is We"),
    "epsilon": (
        ALL,
        lambda: layer(reduction=nn.WeightedMean(1e-6)),
        "`reduction.eps` is 1e-06, and would have to be 1e-08",
    ),
    "epsilon in the sum": (
        G + L,
        lambda: layer(reduction=nn.WeightedMean(eps_in="sum")),
        "`reduction.eps_in` is 'sum', and would have to be 'weights'",
    ),
    "epsilon in the weights": (
        S,
        layer,
        "`reduction.eps_in` is 'weights', and would have to be 'sum'",
    ),
    "epsilon of the norms": (
        ALL,
        lambda: layer(layer_norm_eps=1e-4),
        r"`norm_inputs.eps` is 0.0001(.|\n)*`norm_slots.eps`(.|\n)*`norm_mlp.eps` is",
    ),
    "biases": (
        G + S,
        lambda: layer(use_qkv_bias=True),
        r"`query_proj.bias` is an array of shape \(24,\), and would have to be None",
    ),
    "scale": (
        ALL,
        lambda: layer(scale=0.5),
        "`scale` amounts to 0.5, and would have to be 0.204124",
    ),
    "scale of a head": (
        L,
        lambda: layer(num_heads=3),
        "`scale` amounts to 0.353553, and would have to be 0.204124",
    ),
    "heads": (G, lambda: layer(num_heads=3), "`num_heads` is 3, .* to be 1"),
    "heads combined to slots": (
        S,
        lambda: layer(num_heads=3),
        r"`output_proj.weight` is .* \(24, 24\), and would have .* shape \(8, 24\)",
    ),
    "heads not combined": (
        L + S,
        lambda: layer(num_heads=3, use_output_proj=False),
        "`output_proj` is None, and would have to be Linear",
    ),
    "one head with an output": (
        G + S,
        lambda: layer(use_output_proj=True),
        "`output_proj` is Linear, and would have to be None",
    ),
    "other widths": (
        G + L,
        lambda: layer(qkv_size=12),
        r"`query_proj.weight` is an array of shape \(12, 24\), .* of shape \(24, 24\)",
    ),
    "other inputs": (
        L,
        lambda: layer(11),
        r"`key_proj.weight` is an array of shape \(24, 11\), .* of shape \(24, 24\)",
    ),
    "narrow MLP": (
        L,
        lambda: layer(mlp_size=23),
        "its MLP is never narrower than a slot: 23 < 24",
    ),
    "no MLP": (
        G + L,
        lambda: layer(mlp_size=None),
        r"`norm_mlp` is None, .* LayerNorm\n- `mlp` is None, and would have to be MLP",
    ),
    "a deep MLP": (
        ALL,
        lambda: replaced(
            lambda x: x.mlp, built(ft.partial(eqx.nn.MLP, 24, 24, 128, 2))
        ),
        "`mlp.layers` is 3 layers, and would have to be 2 layers",
    ),
    "activation": (
        ALL,
        lambda: replaced(lambda x: x.mlp.activation, jax.nn.gelu),
        "`mlp.activation` is gelu, and would have to be relu",
    ),
    "learned slots": (
        G + L,
        lambda: layer(slot_init=nn.LearnedSlots(4, 24, key=jr.key(0))),
        "`slot_init` is LearnedSlots, and would have to be GaussianSlots",
    ),
    "another cell": (
        ALL,
        lambda: replaced(lambda x: x.cell, lambda inputs, slots: slots),
        "`cell` is <lambda>, and would have to be GRUCell",
    ),
    "another projection": (
        ALL,
        lambda: replaced(lambda x: x.query_proj, eqx.nn.Identity()),
        "`query_proj` is Identity, and would have to be Linear",
    ),
    "a norm without weights": (
        ALL,
        lambda: replaced(lambda x: x.norm_slots.weight, None),
        r"`norm_slots.weight` is None, and would have to be an array of shape \(24,\)",
    ),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_an_original_cannot_represent(case):
    saves, make, reason = LAYERS[case]
    module = make()
    for save in saves:
        found = check_refused(reason, save, module)
        assert found.startswith("This is nothing that")


@pytest.mark.usefixtures("as_users_run")
def test_all_reasons_are_listed_at_once():
    module = layer(reduction=nn.WeightedMean(1e-6), layer_norm_eps=1e-2, mlp_size=5)
    found = check_refused("can represent", interop.to_lucidrains, module)
    names = re.findall(r"^- `?(\S+?)`? ", found, re.M)
    norms = ["norm_inputs.eps", "norm_slots.eps", "norm_mlp.eps"]
    assert names == ["its", *norms, "reduction.eps"]


@pytest.mark.usefixtures("as_users_run")
def test_what_is_not_looked_at():
    module = layer(grad_iters=1, straight_through=False, num_iters=7, scale=24**-0.5)
    assert interop.to_google_layer(module)
    options = {"layer_norm_eps": 1e-6, "reduction": nn.WeightedMean(eps_in="sum")}
    module = layer(slot_init=nn.LearnedSlots(4, 24, key=jr.key(0)), **options)
    assert interop.to_savi(module)


def model(where=None, part=None):
    whole = built(presets.multi_dsprites)
    return whole if where is None else eqx.tree_at(where, whole, part)


def standardized():
    measured = Standardization(jnp.zeros(3), jnp.ones(()))
    is_none = {"is_leaf": lambda x: x is None}
    return eqx.tree_at(lambda x: x.standardization, model(), measured, **is_none)


MODELS = {
    "no model": (lambda: nn.Softmax(), "`model` is Softmax, .* SlotAutoencoder"),
    "sigmoid": (
        lambda: built(presets.blog),
        "`decoder.rgb_activation` is sigmoid, and would have to be identity",
    ),
    "encoder": (
        lambda: model(lambda x: x.encoder, eqx.nn.Identity()),
        "`encoder` is Identity, and would have to be Encoder",
    ),
    "decoder": (
        lambda: model(lambda x: x.decoder, eqx.nn.Identity()),
        "`decoder` is Identity, and would have to be SpatialBroadcastDecoder",
    ),
    "convolution": (
        lambda: model(lambda x: x.encoder.convs[1], eqx.nn.Identity()),
        r"`encoder.convs\[1\]` is Identity, and would have to be Conv2d",
    ),
    "transposed convolution": (
        lambda: model(lambda x: x.decoder.convs[1], eqx.nn.Identity()),
        r"`decoder.convs\[1\]` is Identity, and would have to be ConvTranspose2d",
    ),
    "padding": (
        lambda: model(
            lambda x: x.encoder.convs[1],
            built(ft.partial(eqx.nn.Conv2d, 32, 32, 5, padding="VALID")),
        ),
        r"`encoder.convs\[1\].padding` is 'VALID', and would have to be 'SAME'",
    ),
    "encoder's norm": (
        lambda: model(
            lambda x: x.encoder.norm, built(lambda key: eqx.nn.LayerNorm(32, eps=1e-5))
        ),
        "`encoder.norm.eps` is 1e-05, and would have to be 0.001",
    ),
    "encoder's activation": (
        lambda: model(lambda x: x.encoder.activation, jax.nn.leaky_relu),
        "`encoder.activation` is leaky_relu, and would have to be relu",
    ),
    "standardization": (standardized, "`standardization` is Standardization"),
    "slot attention": (
        lambda: model(lambda x: x.slot_attention, layer(32, scale=0.5, num_heads=3)),
        r"`slot_attention.num_heads` is 3(.|\n)*`scale` amounts to 0.5",
    ),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("case", MODELS)
def test_models_that_the_original_cannot_represent(case):
    make, reason = MODELS[case]
    module = make()
    check_refused(reason, interop.to_google_autoencoder, module)
