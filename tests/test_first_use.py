"""What a newcomer tries first, and what is printed when it is not quite right."""

import re
import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import diagnostics, losses, metrics, SlotAttention, training, viz
from eqx_slots.data import blocks
from eqx_slots.models import presets, Reconstruction
from eqx_slots.serialisation import load, save

from .helpers import built, float64, normal
from .test_slot_attention import make


pytestmark = pytest.mark.usefixtures("as_users_run")
KEY = jr.key(0)
INPUTS = np.random.default_rng(0).normal(size=(17, 11)).astype(np.float32)
IMAGE = np.random.default_rng(1).uniform(size=(3, 32, 32)).astype(np.float32)


def shapes(call, *args, **kwargs):
    """What a call would give; nothing is compiled."""
    return eqx.filter_eval_shape(call, *args, **kwargs)


def autoencoder():
    return built(presets.blocks)


def made(batch=(2,)):
    """A reconstruction of the right shapes."""
    return Reconstruction(
        image=jnp.ones((*batch, 3, 32, 32)),
        rgb=jnp.ones((*batch, 7, 3, 32, 32)),
        masks=jnp.ones((*batch, 7, 32, 32)),
        slots=jnp.ones((*batch, 7, 64)),
        attention=jnp.ones((*batch, 7, 256)),
    )


class Tensor:
    """Another library's array, as far as NumPy can read it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class OnDevice:
    """Another library's array that only DLPack can read."""

    def __dlpack__(self, **options):
        raise NotImplementedError


@pytest.mark.parametrize(
    "inputs",
    [INPUTS, INPUTS.astype(np.float64), INPUTS.tolist(), list(INPUTS), Tensor(INPUTS)],
    ids=["float32", "float64", "lists", "a list of arrays", "a tensor"],
)
def test_whatever_makes_an_array_is_taken(inputs):
    state = shapes(lambda: make()(inputs, key=KEY))
    assert state.slots.shape == (3, 7)
    assert state.slots.dtype == jnp.float32


def test_float64_stays_float64_where_jax_has_it():
    with float64():
        assert (
            shapes(lambda: make()(INPUTS.astype(float), key=KEY)).slots.dtype == float
        )


@pytest.mark.parametrize("key", [KEY, jr.PRNGKey(0)], ids=["new style", "old style"])
def test_both_styles_of_keys_are_taken(key):
    assert shapes(lambda: make()(INPUTS, key=key)).slots.shape == (3, 7)
    layer = shapes(partial(SlotAttention, 11, 7, num_slots=3), key=key)
    assert layer.num_slots == 3


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (INPUTS.T, "inputs"),
        (INPUTS[0], "inputs"),
        (normal(0, 11, 5, 3), "inputs"),
        (normal(0, 32, 32, 3), "image"),
    ],
    ids=["transposed", "one vector", "a map of features", "channels last"],
)
def test_the_cure_of_a_shape_is_taken(given, names):
    module = make() if names == "inputs" else autoencoder()
    with pytest.raises(ValueError, match=f"`{names}` must have shape") as caught:
        module(given, key=KEY)
    (cure,) = re.findall(r"`([^`]*)`[.?]$", str(caught.value))
    shapes(lambda: module(eval(cure, {"jnp": jnp, names: given}), key=KEY))


@pytest.mark.parametrize(
    "images",
    [np.stack([IMAGE] * 2), np.stack([IMAGE] * 2).transpose(0, 2, 3, 1)],
    ids=["a batch", "a batch, channels last"],
)
def test_the_cure_of_a_batch_of_images_is_taken(images):
    model = autoencoder()
    with pytest.raises(ValueError, match="did you mean") as caught:
        model(images)
    (cure,) = re.findall("did you mean `(.*)`", str(caught.value))
    names = {"jnp": jnp, "jax": jax, "module": model, "image": images}
    assert shapes(lambda: eval(cure, names)).image.shape == (2, 3, 32, 32)


LAYER = {
    "a width of its own": (
        lambda m: m(INPUTS[:, :5], key=KEY),
        r"input_size=11\), got \(17, 5\). .*`SlotAttention\(5, ...\)`",
    ),
    "no key": (lambda m: m(INPUTS), "got no key.*jax.random.key.*slots="),
    "no keys in vmap": (
        lambda m: jax.vmap(m)(INPUTS[None]),
        r"under `jax.vmap` .* `key=jax.random.split\(key, n\)`",
    ),
    "no key in jit": (lambda m: eqx.filter_jit(m)(INPUTS), "got no key"),
    "a seed for a key": (
        lambda m: m(INPUTS, key=3),
        r"`key` must be a PRNG key, such as `jax.random.key\(0\)`, got 3",
    ),
    "a string for a key": (lambda m: m(INPUTS, key="3"), "got str"),
    "numbers for a key": (
        lambda m: m(INPUTS, key=jnp.ones(2)),
        r"`key` must be a PRNG key, .*, got float32\[2\]",
    ),
    "keys of a batch": (
        lambda m: m(INPUTS, key=jr.split(KEY, 5)),
        r"one PRNG key, got an array of shape \(5,\)",
    ),
    "old keys of a batch": (
        lambda m: m(INPUTS, key=jr.split(jr.PRNGKey(0), 5)),
        r"one PRNG key, got an array of shape \(5, 2\)",
    ),
    "a seed to build": (lambda m: SlotAttention(11, 7, num_slots=3, key=0), "got 0"),
    "integers": (lambda m: m(INPUTS.astype(int), key=KEY), "floating point.*astype"),
    "lists of lengths": (lambda m: m([[1.0], [1.0, 2.0]], key=KEY), "got list"),
    "itself": (lambda m: m(m, key=KEY), "got SlotAttention.*optax .*lambda _: labels"),
    "nothing": (lambda m: m(None, key=KEY), "`inputs` must be an array.*got NoneType"),
    "a name of a file": (lambda m: m("image.png", key=KEY), "got str"),
    "only DLPack": (lambda m: m(OnDevice(), key=KEY), "jax.dlpack.from_dlpack"),
    "a state": (lambda m: m(made(), key=KEY), "one of its fields: image, rgb, masks"),
    "slots in lists of lengths": (
        lambda m: m(INPUTS, slots=[[1.0], []]),
        "`slots` must be an array",
    ),
    "slots counted by an array": (
        lambda m: m(INPUTS, num_slots=jnp.array(3), key=KEY),
        "`num_slots` must be a Python integer, got a JAX array.*`slot_mask`",
    ),
    "rounds counted inside jit": (
        lambda m: jax.jit(lambda n: m(INPUTS, num_iters=n, key=KEY))(3),
        "`num_iters` must be a Python integer.*static",
    ),
}

MODEL = {
    "gray": (lambda m: m(IMAGE[:1]), r"channels=3.*`Encoder\(in_channels=...\)`"),
    "integers": (lambda m: m((255 * IMAGE).astype(np.uint8)), "floating point.*/ 255"),
    "a path": (lambda m: m("image.png"), "`image` must be an array.*got str"),
    "seed": (lambda m: presets.blocks(key=0), "`key` must be a PRNG key"),
    "seed, CLEVR": (lambda m: presets.clevr(key=0), "`key` must be a PRNG key"),
    "seed, sets": (lambda m: presets.clevr_sets(key=0), "`key` must be a PRNG key"),
    "seed, block sets": (lambda m: presets.block_sets(key=0), "must be a PRNG key"),
    "integer slot": (lambda m: m.decoder(np.ones(64, int)), "`slot` must be floating"),
    "the slots in a list": (lambda m: m.decoder([[1.0], []]), "`slot` must be an arr"),
}

AROUND = {
    "another size than the decoder's": (
        lambda: losses.mean_squared_error(IMAGE[:, :16, :16], IMAGE),
        r"got \(3, 16, 16\) and \(3, 32, 32\); .*`model.decoder.image_size`",
    ),
    "whole reconstruction": (
        lambda: losses.mean_squared_error(made(()), IMAGE),
        "`predicted` must be an array.*one of its fields: image",
    ),
    "error of integers": (
        lambda: losses.mean_squared_error(IMAGE, (255 * IMAGE).astype(np.uint8)),
        "`target` must be floating point, got uint8.*/ 255",
    ),
    "error against integers": (
        lambda: losses.mean_squared_error((255 * IMAGE).astype(np.uint8), IMAGE),
        "`predicted` must be floating point",
    ),
    "labels in lists of lengths": (
        lambda: metrics.adjusted_rand_index(
            [[0], []], [0], num_true=1, num_predicted=1
        ),
        "`true` must be an array",
    ),
    "labels in a table": (
        lambda: metrics.mean_iou([0], {}, num_true=1, num_predicted=1),
        "`predicted` must be an array.*got dict",
    ),
    "mean of numbers": (lambda: metrics.mean(jnp.ones(3)), "`Score`.*jnp.mean"),
    "scene of a seed": (lambda: blocks.scene(0), "`key` must be a PRNG key"),
    "training from a seed": (
        lambda: training.TrainState.create(make(), training.adam(1e-3), key=0),
        "`key` must be a PRNG key",
    ),
    "picture of integers": (
        lambda: viz.picture((255 * IMAGE).astype(np.uint8)),
        "`image` must be floating point, got uint8.*/ 255",
    ),
    "picture of a batch": (
        lambda: viz.picture(IMAGE[None]),
        r"did you mean `\[picture\(image\) for image in image\]`",
    ),
    "picture, channels last": (
        lambda: viz.picture(IMAGE.transpose(1, 2, 0)),
        r"jnp.moveaxis\(image, -1, 0\)",
    ),
    "row of a batch": (
        lambda: viz.slot_row(*made()[:1] * 2, *made()[1:3]),
        "`rgb` must have shape.*for one in zip",
    ),
    "row, swapped": (
        lambda: viz.slot_row(IMAGE, IMAGE, *made(())[2:0:-1]),
        "`rgb` must have shape",
    ),
    "row, other masks": (
        lambda: viz.slot_row(IMAGE, IMAGE, made(()).rgb, made(()).masks[:5]),
        "`masks` must have shape .slots=7",
    ),
    "attention of masks": (
        lambda: viz.attention_row(IMAGE, made(()).masks),
        "`attention` must have shape",
    ),
    "attention of a batch": (
        lambda: viz.attention_row(IMAGE[None], made().attention),
        "`image` must have shape .*for one in zip",
    ),
    "diagnosis of a model": (
        lambda: diagnostics.diagnose(make(), made()),
        "`images` must be an array.*got SlotAttention",
    ),
    "diagnosis of images alone": (
        lambda: diagnostics.diagnose(IMAGE[None], IMAGE[None]),
        r"`made` must be a `Reconstruction`.*jax.vmap\(model\)\(images\)",
    ),
    "masks alone": (
        lambda: diagnostics.effective_slots(made().masks),
        "`made` must be a `Reconstruction`",
    ),
}


@pytest.mark.parametrize("case", LAYER.values(), ids=LAYER.keys())
def test_mistakes_with_the_layer(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call(make())


@pytest.mark.parametrize("case", MODEL.values(), ids=MODEL.keys())
def test_mistakes_with_a_model(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call(autoencoder())


@pytest.mark.parametrize("case", AROUND.values(), ids=AROUND.keys())
def test_mistakes_around_a_model(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call()


def test_a_message_does_not_print_what_was_given():
    with pytest.raises(ValueError, match="got SlotAutoencoder") as caught:
        make()(autoencoder(), key=KEY)
    assert len(str(caught.value)) < 200


def test_a_key_is_passed_by_name():
    with pytest.raises(TypeError, match=r"SlotAttention.__call__\(\) takes 2 pos"):
        make()(INPUTS, KEY)
    with pytest.raises(TypeError, match=r"missing 1 required keyword-only .*'key'"):
        SlotAttention(11, 7, num_slots=3)


def test_a_diagnosis_tells_images_that_were_not_scaled():
    noise = normal(0, 2, 3, 32, 32)
    findings = diagnostics.diagnose(100 + 50 * noise, made())
    assert findings[0].is_wrong
    assert "/ 255" in findings[0].sentence
    assert "/ 255" not in diagnostics.diagnose(noise, made())[0].sentence


def test_extras_that_are_missing_are_named(monkeypatch, tmp_path):
    for name in ("orbax", "orbax.checkpoint", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for extra, call in (
        ("checkpoints", lambda: training.Checkpoints(tmp_path)),
        ("weights", lambda: load(tmp_path / "x")),
        ("weights", lambda: save(tmp_path / "x", make(), make=make)),
    ):
        install = rf'needs `pip install "eqx-slots\[{extra}\]"`'
        with pytest.raises(ImportError, match=install):
            call()
