"""The examples run, write what they promise, and what they write can be read."""

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from PIL import Image

from eqx_slots import serialisation
from eqx_slots.data import blocks
from eqx_slots.models import presets


EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


def load(name):
    if str(EXAMPLES) not in sys.path:  # as where a script is started
        sys.path.insert(0, str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def autoencoder(monkeypatch):
    module = load("autoencoder")
    monkeypatch.setattr(module, "HELD_OUT", 9)
    module.Few = functools.partial(module.Arguments, batch_size=2)
    return module


FILES = {
    "checkpoints",
    "options.json",
    "metrics.json",
    "history.jsonl",
    "slots.png",
    "training.png",
    "iterations.gif",
    "model.safetensors",
}


@pytest.mark.parametrize(
    ("preset", "background"), [("small", "gray"), ("blog", "black")]
)
def test_autoencoder_writes_what_it_promises(
    autoencoder, tmp_path, capsys, preset, background
):
    output = tmp_path / "made" / "here"
    arguments = autoencoder.Few(
        preset=preset, background=background, steps=3, seed=5, output=output
    )
    result = autoencoder.main(arguments)
    assert {path.name for path in output.iterdir()} == FILES
    written = json.loads((output / "metrics.json").read_text())
    model = serialisation.load(output / "model.safetensors")
    num_slots = model.slot_attention.num_slots
    assert written == result
    assert written["steps"] == 3
    assert written["seed"] == 5
    assert written["num_slots"] == num_slots == {"small": 7, "blog": 5}[preset]
    assert written["preset"] == preset
    assert written["stopped"] == "finished"
    assert 0 < written["mse_of_mean_image"] < 0.3
    assert {name for name in written if "ari" in name} == {
        "fg_ari",
        "ari",
        "soft_fg_ari",
        "soft_ari",
    }
    assert -1 <= written["fg_ari"] <= 1
    # Hardly trained, all slots paint all pixels alike: no arg-max makes objects of it.
    assert written["soft_ari"] == pytest.approx(0, abs=1e-3)
    assert written["background_mask"] == pytest.approx(1 / num_slots, abs=0.1)
    rows = [json.loads(x) for x in (output / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 3]
    assert model.decoder.image_size == (32, 32)
    with Image.open(output / "slots.png") as image:
        slots = np.asarray(image)
    assert slots.shape == (8 * 98 + 2, (3 + num_slots) * 98 + 2, 3)
    with Image.open(output / "iterations.gif") as image:
        assert image.n_frames == 3
    printed = capsys.readouterr().out
    assert "FG-ARI" in printed
    # Hardly trained, it paints the same for all images, and that is said.
    assert "step 3: reconstruction_error: " in printed
    at_the_end = printed[printed.index("finished after 3 steps, ") :]
    assert "\n! reconstruction_error " in at_the_end
    assert "\n  undecided_background " in at_the_end


def test_held_out_scenes_are_the_same_for_every_seed_and_in_range(autoencoder):
    gray = autoencoder.Arguments()
    scenes = autoencoder.paint(jax.random.key(0), 9, gray)
    assert float(scenes.image.min()) == -1
    assert float(scenes.image.max()) == 1
    blog = autoencoder.Arguments(preset="blog")
    same = autoencoder.paint(jax.random.key(0), 9, blog)
    np.testing.assert_allclose(2 * same.image - 1, scenes.image, atol=1e-6)


def test_larger_pictures_show_scenes_of_the_same_kind(autoencoder):
    large = autoencoder.Arguments(image_size=64)
    painted = [
        jax.jit(lambda key, a=a: autoencoder.paint(key, 99, a))(jax.random.key(0))
        for a in (autoencoder.Arguments(), large)
    ]
    assert painted[1].image.shape == (99, 3, 64, 64)
    shares = [float((scenes.segmentation > 0).mean()) for scenes in painted]
    np.testing.assert_allclose(*shares, rtol=0.1)
    make = functools.partial(large.recipe.make, key=jax.random.key(0))
    model = eqx.filter_eval_shape(make, **large.built_with)
    assert model.decoder.image_size == (64, 64)


def test_options_of_scenes_reach_the_painter(autoencoder):
    options = {"objects": (8, 8), "block_size": (2, 2), "gap": 1, "noise": 0.0}
    red = autoencoder.Arguments(palette="one", background="stripes", **options)
    scenes = autoencoder.paint(jax.random.key(0), 9, red)
    on_blocks = np.moveaxis(np.asarray(scenes.image), 1, -1)[scenes.segmentation > 0]
    assert on_blocks.shape == (9 * 8 * 4, 3)  # side by side, none covered
    np.testing.assert_array_equal(on_blocks, [[1, -1, -1]] * len(on_blocks))
    assert len(np.unique(scenes.image[0])) == 4
    faint = autoencoder.Arguments(palette="faint", repeat_colours=True, **options)
    scenes = autoencoder.paint(jax.random.key(0), 9, faint)
    on_blocks = np.moveaxis(np.asarray(scenes.image), 1, -1)[scenes.segmentation > 0]
    np.testing.assert_allclose(np.abs(on_blocks), 0.2, atol=1e-6)  # gray is 0
    options |= {"noise": 0.1, "noise_on": "everything", "repeat_colours": True}
    noisy = autoencoder.Arguments(background="black", **options)
    scenes = autoencoder.paint(jax.random.key(0), 9, noisy)
    # Half of a Gaussian of 0.1 of the range, from black upwards.
    empty = np.moveaxis(np.asarray(scenes.image), 1, -1)[scenes.segmentation == 0]
    assert empty.mean() + 1 == pytest.approx(0.2 / np.sqrt(2 * np.pi), rel=0.1)


def test_a_score_that_no_scene_allows_is_undefined(autoencoder, tmp_path, capsys):
    alone = autoencoder.Few(objects=(1, 1), steps=1, output=tmp_path)
    result = autoencoder.main(alone)
    assert result["fg_ari"] is None
    assert -1 <= result["ari"] <= 1
    printed = capsys.readouterr().out
    assert "FG-ARI undefined  soft ARI " in printed
    assert "fg_ari undefined  ari " in printed
    assert "nan" not in printed
    assert list(autoencoder.demands(alone)) == ["ari", "soft_ari"]
    good = {"fg_ari": 0.96, "ari": 0.97, "soft_ari": 0.95}
    assert autoencoder.demands(autoencoder.Arguments()) == good


def test_ctrl_c_still_writes_everything(autoencoder, tmp_path, monkeypatch):
    evaluate = autoencoder.evaluate

    def interrupt(*args):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(autoencoder, "evaluate", evaluate)
        return evaluate(*args)

    monkeypatch.setattr(autoencoder, "evaluate", interrupt)
    arguments = autoencoder.Few(steps=1000, output=tmp_path)
    result = autoencoder.main(arguments)
    assert result["stopped"] == "interrupted"
    assert result["steps"] == 2
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_both_examples_learn_from_the_same_recipe(autoencoder):
    by_hand = load("train_by_hand")
    model = eqx.filter_eval_shape(presets.blocks, key=jax.random.key(0))
    params = eqx.filter(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    from eqx_slots.training._optim import _kinds

    is_one = lambda dims: isinstance(dims, optax.contrib.MuonDimensionNumbers)
    leaves = jax.tree_util.tree_leaves_with_path
    theirs = [path for path, _ in leaves(by_hand.matrices(params), is_leaf=is_one)]
    kinds = leaves(_kinds(params))
    assert theirs == [path for path, kind in kinds if kind == "matrix"]
    assert 0 < len(theirs) < len(kinds)


def test_train_by_hand(capsys):
    score = load("train_by_hand").main(steps=2)
    assert -1 <= score <= 1
    assert "step 0  loss" in capsys.readouterr().out


def test_cluster_points_learns(capsys):
    module = load("cluster_points")
    untrained, trained = module.main(steps=1), module.main(steps=150)
    assert trained > untrained + 0.2
    assert "step  150  loss" in capsys.readouterr().out


def test_drop_in_learns_three_times(capsys):
    for values in load("drop_in").main(steps=20):
        assert sum(values[-5:]) < 0.9 * sum(values[:5])
    assert capsys.readouterr().out.count("loss") == 3


def test_labels_depend_on_the_order_of_slots_in_a_row_alone(monkeypatch, capsys):
    module = load("labels")
    monkeypatch.setattr(module, "HELD_OUT", 16)
    monkeypatch.setattr(module, "BATCH_SIZE", 8)
    result = module.main(steps=2, slots="learned")
    assert capsys.readouterr().out.count("all right") == len(result) == 3
    image, around = jnp.ones((3, 32, 32)), jnp.arange(module.NUM_SLOTS)[::-1]
    for way in module.WAYS:
        model = module.Labels(way, "drawn", jr.key(0))
        one, other = (eqx.filter_jit(model)(image, jr.key(1), o) for o in (..., around))
        same = bool(jnp.allclose(one, other, atol=1e-5))
        assert same == (way != "in a row"), way
        scores = result[way]
        assert way == "in a row" or scores["all_right"] == scores["other_order"]


def test_labels_are_the_colours_that_one_sees():
    module = load("labels")
    images, labels = module.paint(jr.key(0), 8)
    for image, label in zip(images, labels, strict=True):
        for index, colour in enumerate(blocks.COLOURS.values()):
            pure = 2 * jnp.array(colour)[:, None, None] - 1
            assert bool(jnp.any(jnp.all(image == pure, axis=0))) == bool(label[index])


def test_more_slots_writes_what_it_promises(autoencoder, tmp_path, monkeypatch):
    module = load("more_slots")
    monkeypatch.setattr(module, "HELD_OUT", 4)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    monkeypatch.setattr(module, "SLOTS", (7,))
    only = {"weighted mean": module.REDUCTIONS["weighted mean"]}
    monkeypatch.setattr(module, "REDUCTIONS", only)
    rows = module.main(steps=1, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "more_slots.json",
        "more_slots.png",
    }
    assert json.loads((tmp_path / "more_slots.json").read_text())["rows"] == rows
    table = {(r["reduction"], r["objects"], r["slots"]): r["ari"] for r in rows}
    assert len(table) == len(rows) == 2 * 2
    scaled, mean = "scaled mean (trained as mean)", "weighted mean"
    assert table[scaled, "2 to 4", 7] == pytest.approx(table[mean, "2 to 4", 7])


def test_count_objects_writes_what_it_promises(autoencoder, tmp_path, monkeypatch):
    module = load("count_objects")
    monkeypatch.setattr(module, "HELD_OUT", 5)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    result = module.main(steps=2, price=10.0, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "count_objects.json",
        "count_objects.png",
    }
    assert json.loads((tmp_path / "count_objects.json").read_text()) == result
    assert 0 <= result["count_accuracy"] <= result["within_one"] <= 1
    true, found = np.array([1, 3, 5]), np.array([1, 3, 6])
    module.draw(true, found, tmp_path / "again.png")


NAMES = (
    "autoencoder",
    "set_prediction",
    "more_objects",
    "train_by_hand",
    "cluster_points",
    "drop_in",
    "labels",
    "more_slots",
    "count_objects",
    "features",
    "probe",
)


def test_a_script_is_started_from_anywhere(tmp_path):
    command = [sys.executable, str(EXAMPLES / "autoencoder.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--steps" in done.stdout
