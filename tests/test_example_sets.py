"""The examples that predict sets."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eqx_slots import losses, serialisation
from eqx_slots.data import records
from eqx_slots.properties import CLEVR

from . import test_clevr
from .helpers import assert_close, built, normal
from .test_examples import load


MISSING = {"records": Path("none")}
pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


@pytest.fixture
def set_prediction(monkeypatch):
    module = load("set_prediction")
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    monkeypatch.setattr(module, "HELD_OUT", 9)
    return module


def test_set_prediction_writes_what_it_promises(set_prediction, tmp_path, capsys):
    arguments = set_prediction.Arguments(steps=3, seed=5, output=tmp_path)
    result = set_prediction.main(arguments)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints",
        "metrics.json",
        "options.json",
        "history.jsonl",
        "sets.png",
        "attention.png",
        "training.png",
        "model.safetensors",
    }
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == result
    assert written["steps"] == 3
    scores = [written[name] for name in set_prediction.AP]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in (*scores, written["count_accuracy"]))
    rows = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 3]
    model = serialisation.load(tmp_path / "model.safetensors")
    with Image.open(tmp_path / "attention.png") as image:
        num_slots = model.slot_attention.num_slots
        assert image.size == ((1 + num_slots) * 98 + 2, 8 * 98 + 2)
    assert "ap_0.25" in capsys.readouterr().out


def test_boxes_stand_where_they_were_predicted():
    sets = load("sets")
    axes = sets.Figure().subplots()
    values = {"centre": [2.0, 3.0], "size": [1.0, 4.0], "colour": 4}
    sets.block(axes, {name: np.array(x) for name, x in values.items()}, None, 60)
    (patch,), (label,) = axes.patches, axes.texts
    # Rows 15 to 25, columns 10 to 50; a pixel's middle has its number.
    np.testing.assert_allclose(patch.get_bbox().extents, [9.5, 14.5, 49.5, 24.5])
    assert label.get_text() == "magenta"


def test_sets_of_solids(set_prediction):
    """Out of a pool, with a model for them."""
    arguments = set_prediction.Arguments(scenes="solids", pool=32)
    batch_at = set_prediction.batches(jax.random.key(0), arguments)
    images, targets = eqx.filter_jit(batch_at)(0)
    assert images.shape == (2, 3, 64, 64)
    assert images.min() < -0.3 and images.max() > 0.3
    assert targets.shape == (2, 8, 19)
    assert ((targets[..., -1] == 1).sum(axis=1) >= 3).all()
    model = eqx.filter_eval_shape(
        functools.partial(arguments.sets.make, key=jax.random.key(1)),
        num_slots=arguments.num_slots,
    )
    assert model.properties == CLEVR


def test_the_loss_of_solids_looks_at_each_round():
    sets = load("sets")
    solids = sets.KINDS["solids"]
    model = built(functools.partial(solids.make, num_slots=3))
    images = 0.3 * normal(1, 2, 3, 64, 64)
    targets = jnp.round(jax.nn.sigmoid(normal(2, 2, 3, 19))).at[..., -1].set(1)
    key = jax.random.key(3)
    cost = functools.partial(losses.element_cost, properties=CLEVR, label_weight=0.5)
    matched = jax.vmap(functools.partial(losses.matched_set_loss, cost=cost))

    @eqx.filter_jit
    def after(rounds):
        made = sets.predict(model, images, key, num_iters=rounds)
        return jnp.mean(matched(made.elements, targets).loss)

    one, two, three = map(after, (1, 2, 3))
    assert len({float(one), float(two), float(three)}) == 3
    got, _ = eqx.filter_jit(sets.loss_on(solids))(model, (images, targets), key)
    assert_close(got, three + 0.5 * (one + two))
    # As blocks have it: the last round's alone, labels averaged.
    plain = replace(solids, label_weight=None, early_loss=0.0)
    got, _ = eqx.filter_jit(sets.loss_on(plain))(model, (images, targets), key)
    cost = functools.partial(losses.element_cost, properties=CLEVR)
    matched = jax.vmap(functools.partial(losses.matched_set_loss, cost=cost))
    made = eqx.filter_jit(sets.predict)(model, images, key)
    assert_close(got, jnp.mean(eqx.filter_jit(matched)(made.elements, targets).loss))
    blocks = sets.KINDS["blocks"]
    assert (blocks.label_weight, blocks.early_loss) == (None, 0.0)


def test_sets_of_the_files_of_clevr(set_prediction, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, make = tmp_path / "CLEVR_v1.0", set_prediction.Arguments
    folder.mkdir()
    test_clevr.write(folder, (2, 0, 1, 2, 1), split="train")
    test_clevr.write(folder, (2, 1, 2))
    small = replace(set_prediction.KINDS["clevr"], side=16)
    monkeypatch.setitem(set_prediction.KINDS, "clevr", small)
    options = {"scenes": "solids", "records": folder, "output": tmp_path / "run"}
    result = set_prediction.main(make(steps=2, **options))
    assert (result["steps"], result["objects"]) == (2, [3, 10])
    assert result["records"] == str(folder)
    model = serialisation.load(tmp_path / "run" / "model.safetensors")
    assert (model.slot_attention.num_slots, model.properties) == (12, CLEVR)
    # What is scored are the pictures for validation, and what is in them.
    source, scenes = set_prediction.read(make(**options), 2)
    assert len(source) == 5
    images, targets = set_prediction.as_seen(scenes, make(**options))
    want = records.clevr(folder, "val", image_size=(16, 16), cache=tmp_path / "other")
    for index in range(2):
        np.testing.assert_allclose(images[index], 2 * want[index].image - 1, atol=1e-6)
        elements = np.asarray(records.elements(want[index].objects))
        np.testing.assert_array_equal(targets[index, :10], elements)
        assert not targets[index, 10:].any()
    few = make(objects=(1, 1), **options)
    source, scenes = set_prediction.read(few, 2)
    assert (len(source), scenes.objects.present.sum()) == (3, 1)
    for wrong, sentence in (
        (lambda: make(records=folder), "--records are for --scenes solids"),
        (lambda: set_prediction.read(make(**options | MISSING), 2), "is not there"),
    ):
        with pytest.raises(SystemExit):
            wrong()
        assert sentence in capsys.readouterr().err
    monkeypatch.setattr(set_prediction, "BATCH_SIZE", 6)
    with pytest.raises(SystemExit):
        set_prediction.read(make(**options), 2)
    assert "5 pictures are too few for a batch" in capsys.readouterr().err


def test_what_a_solid_is_said_to_be():
    sets = load("sets")
    axes = sets.Figure().subplots()
    values = {"size": 1, "colour": 7, "material": 0, "shape": 2}
    weights = np.zeros((4, 4))
    weights[1, 3] = 0.5
    sets.solid(axes, values, weights.ravel(), 8)
    (label,) = axes.texts
    assert label.get_text() == "large yellow\nrubber cylinder"
    np.testing.assert_allclose(label.get_position(), (6.5, 2.5))  # x, y


def test_more_objects_writes_what_it_promises(set_prediction, tmp_path, monkeypatch):
    module = load("more_objects")
    monkeypatch.setattr(module, "HELD_OUT", 4)
    monkeypatch.setattr(module, "SLOTS", (6, 7))
    monkeypatch.setattr(module, "ROUNDS", (1,))
    rows = module.main(module.Arguments(steps=1, output=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints",
        "history.jsonl",
        "options.json",
        "more_objects.json",
        "more_objects.png",
    }
    assert json.loads((tmp_path / "more_objects.json").read_text())["rows"] == rows
    assert rows[0]["ap_inf"] != rows[1]["ap_inf"]  # other slots, other scores
    found = [(row["objects"], row["slots"], row["rounds"]) for row in rows]
    assert len(set(found)) == len(rows) == 3 * 2


def test_a_resumed_run_ends_as_one_that_was_left_alone(set_prediction, tmp_path):
    """The example's own: the last checkpoint lost, as if killed before it."""
    options = {"steps": 4, "checkpoint_every": 2, "output": tmp_path}
    whole = set_prediction.main(set_prediction.Arguments(**options))
    model, record = tmp_path / "model.safetensors", tmp_path / "history.jsonl"
    weights, rows = serialisation.load(model), record.read_text().splitlines()
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    resumed = set_prediction.main(set_prediction.Arguments(resume=True, **options))
    assert eqx.tree_equal(serialisation.load(model), weights)
    timed = ("seconds", "steps_per_second")
    assert resumed["seconds"] > json.loads(rows[0])["seconds"]  # of both together
    without = lambda row: {k: v for k, v in row.items() if k not in timed}
    again = [without(json.loads(x)) for x in record.read_text().splitlines()]
    # The first step after resuming reports too.
    assert [row["step"] for row in again] == [1, 3, 4]
    assert again[0] == without(json.loads(rows[0]))
    assert again[-1]["ap_inf"] == whole["ap_inf"] == resumed["ap_inf"]
    # Once more, and there is nothing left to do.
    finished = set_prediction.main(set_prediction.Arguments(resume=True, **options))
    assert (finished["stopped"], finished["steps"]) == ("finished", 4)
    assert finished["ap_inf"] == whole["ap_inf"]
    # Even if it was killed before it could write down how it ended.
    write = "\n".join(record.read_text().splitlines()[:-1])
    record.write_text(write.replace('"loss": ', '"loss": null, "was": ') + "\n")
    again = set_prediction.main(set_prediction.Arguments(resume=True, **options))
    assert again["ap_inf"] == whole["ap_inf"]
    assert eqx.tree_equal(serialisation.load(model), weights)


def test_two_seeds_of_an_example(set_prediction, tmp_path):
    """From the command line to the table, and again with nothing left to do."""
    arguments = set_prediction.Arguments(
        steps=2, seeds=2, output=tmp_path, compilation_cache=False
    )
    over_seeds = lambda options: set_prediction.over_seeds(
        set_prediction.main, options, options.sets.demands
    )
    rows = over_seeds(arguments)
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["ap_inf"] != rows[1]["ap_inf"]
    assert over_seeds(replace(arguments, resume=True)) == rows
    assert "0 of 2 seeds reached" in (tmp_path / "seeds.md").read_text()
