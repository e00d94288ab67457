"""Which entries the importers take, under which names, and which they refuse."""

import functools as ft
import re

import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots import interop

from .test_interop import (
    check_equal,
    check_refused,
    each_kind,
    LOAD,
    random_weights,
)


# What is taken


GIVEN_NAMES = ("q", "k", "v", "mlp", "feedforward", "encoder_cnn", "decoder_cnn")


def renumbered(name, first):
    """As in a session that has built `first` layers of each kind before."""

    def count_on(part):
        kind, _, counter = re.fullmatch(r"(.*?)(_(\d+))?", part).groups()
        return part if part in GIVEN_NAMES else f"{kind}_{int(counter or 0) + first}"

    *layers, leaf = name.split("/")
    return "/".join([*map(count_on, layers), leaf])


def as_keras_2(name):
    """Which leaves out a `Sequential`, and all that stands before it."""
    bare = (
        r".*(encoder_cnn|decoder_cnn|feedforward|mlp|slot_attention(_1)?(?=/slots_))/"
    )
    return re.sub(bare, "", name) + ":0"


RENAMED = {
    "with another scope": lambda name: f"my_model/{name}",
    "without a scope": lambda name: name.removeprefix("slot_attention/").removeprefix(
        "slot_attention_auto_encoder/"
    ),
    "with an output number": lambda name: f"{name}:0",
    "numbered from 8": lambda name: renumbered(name, 8),
    "numbered from 98": lambda name: renumbered(name, 98),
    "as Keras 2 has them": as_keras_2,
    "as Keras 2 has them, numbered": lambda name: as_keras_2(renumbered(name, 7)),
}


@pytest.mark.parametrize("change", RENAMED)
@pytest.mark.parametrize("name", ["google_layer", "google_autoencoder"])
def test_names_of_keras_in_all_their_forms(name, change):
    weights = random_weights(name)
    renamed = {RENAMED[change](entry): x for entry, x in weights.items()}
    assert len(renamed) == len(weights) and renamed.keys() != weights.keys()
    shuffled = dict(sorted(renamed.items(), reverse=True))
    check_equal(LOAD[name](shuffled), LOAD[name](weights))


def test_nested_parameters_of_flax():
    weights, nested = random_weights("savi_multi"), {}
    for entry, x in weights.items():
        *above, last = entry.split("/")
        ft.reduce(lambda node, part: node.setdefault(part, {}), above, nested)[last] = x
    check_equal(interop.savi(nested), interop.savi(weights))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32", "list"])
def test_numbers_of_any_kind(dtype):
    weights = random_weights("lucidrains_single", scale=3)
    if dtype == "list":
        given, expected = {k: x.tolist() for k, x in weights.items()}, "float32"
    else:
        given = {k: x.astype(jnp.dtype(dtype)) for k, x in weights.items()}
        expected = {"float64": "float32", "int32": "float32"}.get(dtype, dtype)
    layer = LOAD["lucidrains_single"](given)
    assert layer.query_proj.weight.dtype == expected
    want = np.asarray(given["to_q.weight"], np.float32)
    np.testing.assert_array_equal(np.asarray(layer.query_proj.weight, "f"), want)


# What is refused


def test_the_layer_out_of_an_autoencoder():
    whole = random_weights("google_autoencoder")
    part = {name: x for name, x in whole.items() if "slot_attention_1/" in name}
    layer = interop.google_layer(part, num_slots=4)
    check_equal(layer, LOAD["google_autoencoder"](whole).slot_attention)


@pytest.mark.usefixtures("as_users_run")
@each_kind
def test_all_that_is_wrong_is_listed_at_once(name):
    weights = random_weights(name)
    missing, short, nan, infinite, text, *_ = sorted(weights, key=hash_of)
    shape = weights.pop(missing).shape
    weights[short] = weights[short][..., 1:]
    weights[nan][..., 0] = np.nan
    weights[infinite][..., 0] = -np.inf
    weights[text] = np.full(weights[text].shape, "x")
    weights["what/is_this"] = np.zeros((2, 3))
    found = check_refused("is unknown", LOAD[name], weights)
    lines = [line for line in found.splitlines() if line.startswith("- ")]
    expected = [
        f"- `{missing}` is missing, expected shape {shape}",
        f"- `{short}` is misshapen, expected shape {random_weights(name)[short].shape},"
        f" found shape {weights[short].shape}",
        f"- `{nan}` is not finite: it has NaN or infinity",
        f"- `{infinite}` is not finite: it has NaN or infinity",
        f"- `{text}` does not consist of real numbers",
        "- `what/is_this` is unknown, found shape (2, 3)",
    ]
    assert lines == sorted(expected)


def hash_of(entry):
    """Any order, the same each time, that begins with no two entries of one layer."""
    return np.random.default_rng(list(entry.encode())).random()


@pytest.mark.usefixtures("as_users_run")
@each_kind
def test_every_entry_is_needed_and_no_other_will_do(name):
    weights = random_weights(name)
    for entry in weights:
        rest = {k: x for k, x in weights.items() if k != entry}
        missing = re.escape(f"`{entry}` is missing, expected shape (")
        check_refused(missing, LOAD[name], rest)
        other = weights | {entry: weights[entry][None]}
        misshapen = re.escape(f"`{entry}` is misshapen, expected shape (")
        check_refused(misshapen, LOAD[name], other)


@pytest.mark.usefixtures("as_users_run")
@each_kind
def test_what_is_no_dict_and_what_is_empty(name):
    check_refused("must be a dict from names to arrays, got list", LOAD[name], [1])
    check_refused("is missing, expected shape", LOAD[name], {})


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("load", [interop.google_layer, interop.lucidrains])
def test_numbers_too_large_for_single_precision(load):
    name = "google_layer" if load is interop.google_layer else "lucidrains_single"
    weights = random_weights(name)
    entry = next(iter(weights))
    weights[entry] = weights[entry].astype(np.float64) * 1e60
    check_refused(f"`{entry}` is not finite", LOAD[name], weights)


def google(name="google_layer", **changes):
    return random_weights(name) | changes


def without(weights, part):
    return {name: x for name, x in weights.items() if part not in name}


def under(prefix, weights):
    return {f"{prefix}{name}": x for name, x in weights.items()}


LUCIDRAINS = ft.partial(interop.lucidrains, num_slots=4)
GOOGLE = ft.partial(interop.google_layer, num_slots=4)
WEIGHTS = {
    "a GRU of Keras before reset_after": (
        GOOGLE,
        lambda: google(**{"slot_attention/gru_cell/bias": np.zeros(72)}),
        r"gru_cell/bias` is misshapen, expected shape \(2, 72\).*\n.*reset_after=False",
    ),
    "two layers": (
        GOOGLE,
        lambda: google() | under("other/", google()),
        "`other/slot_attention/q/kernel` is unknown",
    ),
    "a projection of another layer": (
        GOOGLE,
        lambda: {
            name.replace("slot_attention/q", "decoder/q"): x
            for name, x in google().items()
        },
        "`decoder/q/kernel` is unknown.*\n- `slot_attention/q/kernel` is missing",
    ),
    "a norm too many": (
        GOOGLE,
        lambda: google(**{"slot_attention/layer_normalization_3/beta": np.zeros(24)}),
        "`slot_attention/layer_normalization_3/beta` is unknown",
    ),
    "a name twice": (
        GOOGLE,
        lambda: google(**{"slot_attention/q/kernel:0": np.zeros((24, 24))}),
        "`slot_attention/q/kernel:0` is unknown",
    ),
    "a norm of the three left out": (
        GOOGLE,
        lambda: without(google(), "layer_normalization_1"),
        "`slot_attention/layer_normalization_1/gamma` is missing, expected shape .24",
    ),
    "a norm left out, and other counters": (
        GOOGLE,
        lambda: {
            name.replace("_2/", "_5/").replace("_1/", "_2/"): x
            for name, x in without(google(), "layer_normalization/").items()
            if "dense" not in name
        },
        "`slot_attention/layer_normalization_2/gamma` is missing, expected shape .24",
    ),
    "gates of no whole width": (
        GOOGLE,
        lambda: google(**{"slot_attention/gru_cell/kernel": np.zeros((24, 71))}),
        r"gru_cell/kernel` is misshapen, .* \(24, 72\), found shape \(24, 71\)",
    ),
    "biases in the projections": (
        GOOGLE,
        lambda: google(**{"slot_attention/q/bias": np.zeros(24)}),
        "`slot_attention/q/bias` is unknown",
    ),
    "a whole autoencoder": (
        GOOGLE,
        lambda: google("google_autoencoder"),
        "`slot_attention_auto_encoder/encoder_cnn/conv2d/bias` is unknown",
    ),
    "one head made several": (
        ft.partial(LUCIDRAINS, num_heads=3),
        lambda: random_weights("lucidrains_single"),
        "`combine_heads.bias` is missing.*(.|\n)*is a SlotAttention, .*num_heads=3",
    ),
    "heads that do not divide": (
        ft.partial(LUCIDRAINS, num_heads=5),
        lambda: random_weights("lucidrains_multi"),
        "`num_heads` must divide .* num_heads=5 and qkv_size=24",
    ),
    "no heads": (
        ft.partial(LUCIDRAINS, num_heads=0),
        lambda: random_weights("lucidrains_multi"),
        "`num_heads` must be a positive integer, got 0",
    ),
    "an AdaptiveSlotWrapper": (
        LUCIDRAINS,
        lambda: (
            under("slot_attn.", random_weights("lucidrains_single"))
            | {"pred_keep_slot.weight": np.zeros((2, 24))}
        ),
        "`pred_keep_slot.weight` is unknown.*(.|\n)*AdaptiveSlotWrapper.*`slot_attn.`",
    ),
    "a MetaSlotAttention": (
        LUCIDRAINS,
        lambda: (
            under("slot_attention.", random_weights("lucidrains_multi"))
            | {"vq._codebook.embed": np.zeros((1, 2, 24))}
        ),
        "MetaSlotAttention, which also merges slots .*`slot_attention.`",
    ),
    "a SlotAttentionExperimental": (
        LUCIDRAINS,
        lambda: {"slots_to_inputs_attn.fn.to_q.weight": np.zeros((24, 24))},
        "SlotAttentionExperimental, which updates the inputs too",
    ),
    "SAVi's layer of norm_type layernorm": (
        interop.savi,
        lambda: (
            random_weights("savi_single")
            | {"InvertedDotProductAttention_0/LayerNorm_0/scale": np.zeros(24)}
        ),
        "`InvertedDotProductAttention_0/LayerNorm_0/scale` is unknown",
    ),
    "heads that nothing combines": (
        interop.savi,
        lambda: without(random_weights("savi_multi"), "DenseGeneral"),
        r"DenseGeneral_0/kernel` is missing, expected shape \(3, 8, 8\)",
    ),
    "part of an MLP": (
        interop.savi,
        lambda: without(random_weights("savi_single"), "dense_mlp_1"),
        r"`MLP_0/dense_mlp_1/kernel` is missing, expected shape \(40, 24\)",
    ),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_something_else(case):
    load, weights, reason = WEIGHTS[case]
    check_refused(reason, load, weights())


SIZES = {
    "decoder strides": (
        {"decoder_strides": (2, 2, 2, 1)},
        r"`image_size` must be `broadcast_size` times .*\(8, 8\) times 8, .*\(64, 64\)",
    ),
    "image size": ({"image_size": (32, 64)}, r"is \(32, 32\); got \(32, 64\)"),
    "one number": (
        {"image_size": 32},
        r"`image_size` must be \(height, width\), got 3",
    ),
    "three numbers": ({"broadcast_size": (8, 8, 3)}, "`broadcast_size` must be .hei"),
    "too few strides": (
        {"encoder_strides": (1, 1, 1)},
        "`encoder_strides` has 3 strides, for 4 convolutions",
    ),
    "too many strides": (
        {"decoder_strides": (2, 2, 1, 1, 1)},
        "conv2d_transpose_4/kernel` is missing(.|\n)*has 5 strides, for 4 convolutions",
    ),
    "a stride of 0": (
        {"decoder_strides": (2, 2, 0, 1)},
        "`decoder_strides` must be a positive integer, got 0",
    ),
    "no slots": ({"num_slots": 0}, "`num_slots` must be a positive integer, got 0"),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_do_not_fit(case):
    changes, reason = SIZES[case]
    weights = random_weights("google_autoencoder")
    check_refused(reason, LOAD["google_autoencoder"], weights, **changes)


@pytest.mark.usefixtures("as_users_run")
def test_kernels_that_are_not_square():
    weights = random_weights("google_autoencoder")
    entry = "slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_1/kernel"
    weights[entry] = weights[entry][:3]
    reason = f"`{entry}` is 3 x 5, and .*ConvTranspose2d` has square kernels only"
    check_refused(reason, LOAD["google_autoencoder"], weights)
