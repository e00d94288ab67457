"""The examples on frozen features and on frozen slots."""

import functools
import json
from types import SimpleNamespace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

from eqx_slots import nn, serialisation
from eqx_slots.data import Scene
from eqx_slots.models import (
    Encoder,
    FeatureReconstruction,
    presets,
    pretrained,
    Reconstruction,
)
from eqx_slots.properties import Categorical, CLEVR

from .helpers import built
from .test_examples import load


pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


class Objects(NamedTuple):
    present: jax.Array


def stripes(key, *, num_objects, image_size):
    """A scene that is soon painted: each object a stripe of some colour."""
    most = num_objects[1]
    owner = jnp.arange(image_size[1]) * (most + 1) // image_size[1]
    labels = jnp.broadcast_to(owner, image_size)
    colours = jr.uniform(key, (3, most + 1))
    return Scene(colours[:, labels], labels, Objects(jnp.ones(most, bool)))


@pytest.fixture
def features(monkeypatch, tmp_path):
    """The example, so small that it takes seconds, on scenes that are soon painted."""
    backbones = load("backbones")
    module = load("features")
    for one in (backbones, module):
        monkeypatch.setattr(one, "HELD_OUT", 3)
    monkeypatch.setattr(backbones, "TOGETHER", 4)
    monkeypatch.setattr(backbones, "solids", SimpleNamespace(scene=stripes))
    sizes = {"slot_size": 8, "hidden_size": 8, "image_size": 16, "pool": 5}
    sizes |= {"objects": (2, 2), "batch_size": 2, "steps": 2, "output": tmp_path}
    module.Few = functools.partial(backbones.Arguments, **sizes)
    module.backbones, module.encoder = backbones, backbones.encoder
    small = functools.partial(Encoder, 8, strides=(4,), kernel_size=3)
    monkeypatch.setattr(backbones, "encoder", lambda arguments: built(small))
    return module


def test_features_writes_what_it_promises(features, tmp_path, monkeypatch, capsys):
    arguments = features.Few(control=True, top_k=2)
    result = features.main(arguments)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints",
        "tokens",
        "tokens.lock",
        "options.json",
        "metrics.json",
        "history.jsonl",
        "masks.png",
        "training.png",
        "model.safetensors",
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    scores = ("fg_ari", "ari", "mbo", "miou")
    names = [f"{soft}{name}" for soft in ("", "soft_") for name in scores]
    both = [result[f"{whose}{name}"] for whose in ("", "attention_") for name in names]
    assert all(-1 <= score <= 1 for score in both)
    assert (result["steps"], result["stopped"]) == (2, "finished")
    assert result["error"] > 0
    model = serialisation.load(tmp_path / "model.safetensors")
    assert (model.decoder.top_k, model.slot_attention.num_slots) == (2, 3)
    with Image.open(tmp_path / "masks.png") as image:
        assert image.size == ((3 + 3) * 50 + 2, 3 * 50 + 2)
    assert "attention's FG-ARI" in capsys.readouterr().out

    # Once more, and features are read, not computed.
    monkeypatch.setattr(features.backbones.Seen, "__call__", None)
    again = features.main(features.Few(control=True, top_k=2, resume=True))
    assert again["fg_ari"] == result["fg_ari"]


def test_features_of_other_scenes_are_refused(features, tmp_path, capsys):
    tokens = features.tokens_of(features.Few(control=True))
    assert (len(tokens), tokens[0].shape) == (8, (16, 8))
    rest = features.Source(tokens, 3)
    assert len(rest) == 5
    np.testing.assert_array_equal(rest[0], tokens[3])
    with pytest.raises(SystemExit):
        features.tokens_of(features.Few(control=True, objects=(1, 2)))
    said = capsys.readouterr().err
    assert said.startswith(f"--cache: {tmp_path / 'tokens'} was made with another back")


def test_pictures_to_make_features_of(features, tmp_path, capsys):
    path = tmp_path / "mine.npy"
    arguments = features.Few(features=path)
    with pytest.raises(SystemExit):
        features.tokens_of(arguments)
    pictures = tmp_path / "images.npy"
    wanted = f"{path}; make features of the 8 pictures of {pictures}, in their order.\n"
    assert capsys.readouterr().err.endswith(wanted)
    paint = jax.jit(lambda numbers: features.scenes_of(numbers, arguments).image)
    images = np.concatenate([paint(np.arange(4)), paint(np.arange(4, 8))])
    np.testing.assert_allclose(np.load(pictures) / 255, images, atol=0.51 / 255)

    kept = np.random.default_rng(0).normal(size=(8, 16, 4)).astype(np.float32)
    np.save(path, kept)
    np.testing.assert_array_equal(features.tokens_of(arguments)[5], kept[5])
    for wrong, sentence in (
        (kept[:7], f"{path} is of 7 pictures and not of 8."),
        (kept[0], f"{path} must hold features"),
    ):
        np.save(path, wrong)
        with pytest.raises(SystemExit):
            features.tokens_of(arguments)
        assert capsys.readouterr().err.startswith(f"--features: {sentence}")


def test_the_encoder_of_a_trained_model(features, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    model = built(presets.solid_sets)
    serialisation.save(path, model, make=presets.solid_sets)
    arguments = features.Few(model=path)
    assert eqx.tree_equal(features.encoder(arguments), model.encoder)
    ours = pretrained("solid_sets").encoder
    assert eqx.tree_equal(features.encoder(features.Few()), ours)
    drawn = features.encoder(features.Few(control=True))
    arrays = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    assert [x.shape for x in arrays(drawn)] == [x.shape for x in arrays(ours)]
    assert not eqx.tree_equal(drawn, ours)
    small = functools.partial(presets.blocks, image_size=8)
    serialisation.save(
        path, built(small), make=presets.blocks, arguments={"image_size": 8}
    )
    with pytest.raises(SystemExit):
        features.encoder(arguments)
    assert "is no model of `set_prediction.py`." in capsys.readouterr().err


def test_what_a_transformer_sees(features):
    """The picture in its own size, each channel by ImageNet's mean and deviation."""
    mean, spread = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    image = np.random.default_rng(0).uniform(size=(3, 2, 2)).astype(np.float32)
    large = jax.jit(lambda x: features.backbones.for_transformer(x, side=4))(image)
    corners = large[:, ::3, ::3] * spread[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(corners, image, atol=1e-6)


class Told(eqx.Module):
    """Makes the same of all features."""

    made: FeatureReconstruction

    def __call__(self, tokens, *, key):
        return self.made


def test_both_masks_are_scored(features):
    """Columns of a background and two objects: the decoder has them, the attention
    nothing; and the mean features are an error of 1."""
    owners = np.tile([0, 1, 2, 2], 4)
    tokens = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)
    masks = jnp.asarray(np.eye(3, dtype=np.float32)[:, owners])
    nothing = jnp.zeros((3, 16)).at[1].set(1)
    parts = (jnp.asarray(tokens.mean(axis=0)), masks, jnp.zeros((3, 4)), nothing)
    truth = np.tile(np.repeat([0, 1, 2, 2], 4), (2, 16, 1))
    scenes = Scene(None, jnp.asarray(truth), Objects(jnp.ones((2, 2), bool)))
    model = Told(FeatureReconstruction(*parts))
    found = features.evaluate(model, jnp.asarray(tokens), scenes, jr.key(0))
    found = {name: float(value) for name, value in found.items()}
    for name in ("fg_ari", "ari", "mbo", "miou"):
        assert found[name] == pytest.approx(1)
        assert found[f"attention_{name}"] < 0.6
        assert found[f"attention_{name}"] == found[f"attention_soft_{name}"]
    assert 0.5 < found["soft_ari"] < 0.99  # as coarse as the patches
    assert found["background_mask"] > 0.8
    assert found["error"] == pytest.approx(1, rel=1e-5)


def fake(masks, slot_init=None):
    """A model of pictures of 4 x 4, with 2 x 2 features, and what it was asked for."""
    asked = []

    def see(image, *, num_slots, key):
        asked.append(num_slots)
        slots = 10.0 * jnp.arange(3)[:, None]
        return Reconstruction(image, None, masks, slots, None)

    see.asked, see.decoder = asked, SimpleNamespace(image_size=(4, 4))
    see.slot_attention = SimpleNamespace(slot_init=slot_init)
    see.standardization = lambda image: image - image
    see.encoder = lambda seen: jnp.array([[1.0], [2.0], [3.0], [4.0]]) + jnp.mean(seen)
    return see


OWNERS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]])


@pytest.fixture
def probe(monkeypatch):
    """The example, with one scene of two objects of at most three."""
    module = load("probe")
    present = Objects(jnp.arange(3) < 2)
    scene = Scene(jnp.ones((3, 4, 4)), jnp.asarray(OWNERS), present)
    painter = SimpleNamespace(
        scene=lambda key, *, num_objects, image_size: scene,
        elements=lambda scene: jnp.zeros((3, CLEVR.size)).at[:2, -1].set(1),
    )
    monkeypatch.setattr(module, "solids", painter)
    return module


def test_objects_go_with_the_slots_that_paint_them(probe):
    shares = np.eye(3)[OWNERS]  # the background's, the first's, the second's
    masks = jnp.asarray(np.moveaxis(shares @ np.roll(np.eye(3), 1, axis=0), -1, 0))
    model = fake(0.6 * masks + 0.4 * jnp.roll(masks, 1, axis=0))
    vectors, _, alone = probe.see(model, jr.key(0), objects=(1, 3))
    np.testing.assert_array_equal(vectors["slot"][:2], [[0.0], [10.0]])
    np.testing.assert_array_equal(vectors["picture"][:2], [[2.5], [2.5]])
    # The second has four pixels of the upper right feature and two of the one below.
    whole = [[1.0], [(4 * 2 + 2 * 4) / 6]]
    np.testing.assert_allclose(vectors["its pixels"][:2], whole, rtol=1e-6)
    np.testing.assert_array_equal(alone[:2], [True, True])

    drawn = eqx.filter_eval_shape(nn.GaussianSlots, 4, key=jr.key(0))
    both = fake(jnp.zeros((3, 4, 4)).at[2].set(1), drawn)
    vectors, _, alone = probe.see(both, jr.key(0), objects=(1, 3))
    np.testing.assert_array_equal(vectors["slot"][:2], [[20.0], [20.0]])
    np.testing.assert_array_equal(alone[:2], [False, False])
    assert (model.asked, both.asked) == ([None], [4])


def test_objects_of_many_scenes(probe, monkeypatch):
    monkeypatch.setattr(probe, "TOGETHER", 2)
    model = fake(jnp.ones((3, 4, 4)))
    monkeypatch.setattr(probe.eqx, "filter_jit", lambda call: call)
    vectors, elements, alone = probe.objects_of(model, jr.key(0), 3, (1, 3))
    assert vectors["slot"].shape == (2 * 2 * 2, 1)  # 2 batches, those that are there
    assert elements.shape == (8, CLEVR.size) and (elements[:, -1] == 1).all()
    assert alone.shape == (8,)


def test_a_model_has_what_is_probed():
    probe = load("probe")
    make = functools.partial(presets.blocks, image_size=16, num_slots=4)
    see = functools.partial(probe.see, objects=(1, 3))
    vectors, elements, alone = eqx.filter_eval_shape(see, built(make), jr.key(0))
    shapes = {name: x.shape for name, x in vectors.items()}
    assert shapes == {"slot": (3, 64), "picture": (3, 32), "its pixels": (3, 32)}
    assert (elements.shape, alone.shape) == ((3, CLEVR.size), (3,))


def made_up(number, seed):
    """Objects, of which a slot tells all and nothing else anything."""
    rng = np.random.default_rng(seed)
    values = {"coordinates": rng.uniform(-3, 3, (number, 3)).astype(np.float32)}
    for group in CLEVR.select(Categorical):
        values[group.name] = rng.integers(0, group.size, number)
    elements = np.asarray(CLEVR.encode(values))
    mixed = elements @ np.random.default_rng(9).normal(size=(CLEVR.size, 24))
    noise = rng.normal(size=(2, number, 2))
    vectors = {"slot": mixed, "picture": noise[0], "its pixels": noise[1]}
    vectors = {name: x.astype(np.float32) for name, x in vectors.items()}
    return vectors, elements, np.arange(number) % 4 > 0


def test_probe_writes_what_it_promises(tmp_path, monkeypatch, capsys):
    probe = load("probe")
    counts = []

    def objects_of(model, key, number, objects):
        counts.append((number, objects))
        return made_up(2000, seed=len(counts))

    monkeypatch.setattr(probe, "objects_of", objects_of)
    monkeypatch.setattr(probe, "RATE", 3e-2)
    path = tmp_path / "model.safetensors"
    small = functools.partial(presets.blocks, image_size=8)
    options = {"make": presets.blocks, "arguments": {"image_size": 8}}
    serialisation.save(path, built(small), **options)
    rows = probe.main(path, colour="brown", steps=400, output=tmp_path / "made")
    assert counts == [(4000, (3, 6)), (1000, (3, 6)), (1000, (7, 10))]
    sets = ("as in training", "brown", "7 to 10 objects")
    vectors, probes = ("slot", "picture", "its pixels"), ("linear", "MLP")
    kinds = [(on, of, by) for on in sets for of in vectors for by in probes]
    assert [(x["scored on"], x["from"], x["probe"]) for x in rows] == kinds
    chances = {"size": 1 / 2, "material": 1 / 2, "shape": 1 / 3, "colour": 1 / 7}
    for row in rows:
        is_slot, is_new = row["from"] == "slot", row["scored on"] == "brown"
        assert ("colour" in row) != is_new
        for name in row.keys() & chances.keys():
            wanted = 1 if is_slot else chances[name]
            assert row[name] == pytest.approx(wanted, abs=0.02 if is_slot else 0.12)
        if not is_new:  # where the probe has to guess what brown does to the place
            assert row["place"] == pytest.approx(float(is_slot), abs=0.1)
    written = json.loads((tmp_path / "made" / "probe.json").read_text())
    assert written["rows"] == rows
    assert written["alone"]["7 to 10 objects"] == pytest.approx(0.75, abs=0.03)
    shown = (tmp_path / "made" / "probe.md").read_text()
    assert shown in capsys.readouterr().out
    lines = shown.splitlines()
    titles = "scored on | from | probe | place | size | material | shape | colour"
    assert lines[0] == f"| {titles} |"
    assert len({line.count("|") for line in lines[:20]}) == 1
    assert lines[9].startswith("| brown | slot | MLP | ") and lines[9].endswith("|  |")
