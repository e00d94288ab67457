"""The scripts that draw what the pages show; and what holds for all examples."""

import json
import runpy
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from eqx_slots import serialisation, training
from eqx_slots.models import presets

from .test_examples import EXAMPLES, load, NAMES


pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


def test_walkthrough_draws_every_array(tmp_path, monkeypatch):
    module = load("walkthrough")
    model, path = presets.blocks(num_slots=3, key=jax.random.key(1)), tmp_path / "model"
    serialisation.save(path, model, make=presets.blocks, arguments={"num_slots": 3})
    module.main(model=path, seed=3, output=tmp_path / "made")
    names = "objects features logits weights slots rounds painted".split()
    assert {file.name for file in (tmp_path / "made").iterdir()} == {
        "rounds.gif",
        *(f"{name}.png" for name in names),
    }
    with Image.open(tmp_path / "made" / "rounds.gif") as image:
        assert image.n_frames == model.slot_attention.num_iters
    monkeypatch.setattr(module, "pretrained", {"blocks": model}.__getitem__)
    module.main(seed=3, output=tmp_path / "again")  # of the model that comes with it
    made, again = (tmp_path / name / "painted.png" for name in ("made", "again"))
    assert made.read_bytes() == again.read_bytes()
    rng = np.random.default_rng(0)
    slots, inputs = (
        rng.normal(size=shape).astype(np.float32) for shape in ((3, 64), (7, 32))
    )
    layer = model.slot_attention
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
    one, state = module.one_round(layer, slots, k, v), layer.step(slots, inputs)
    np.testing.assert_allclose(one.slots, state.slots, atol=1e-5)
    np.testing.assert_allclose(one.attention, state.attention, atol=1e-6)


@pytest.fixture
def failures(monkeypatch):
    module = load("failures")
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    monkeypatch.setattr(module, "HELD_OUT", 5)
    return module


def test_failures_are_drawn_where_they_show_most(failures, tmp_path, monkeypatch):
    run = failures.Run({1: "mean", 2: "twice", 3: "shared"}, num_slots=2)
    monkeypatch.setitem(failures.RUNS, "early", run)
    rows = failures.main(only="early", output=tmp_path)
    assert json.loads((tmp_path / "failures.json").read_text()) == rows
    assert [(row["picture"], row["step"]) for row in rows] == [
        ("mean", 1),
        ("twice", 2),
        ("shared", 3),
    ]
    assert rows[0]["reconstruction_error"] > 0.8
    assert "merged_objects" in rows[0]
    with Image.open(tmp_path / "mean.png") as image:
        assert image.size == ((3 + 2) * 98 + 2, 3 * 98 + 2)
    shown = {"shared": lambda images, made, labels: images[0, 0, 0, 0]}
    monkeypatch.setattr(failures, "SHOWN", shown)
    images = np.zeros((5, 3, 32, 32), np.float32)
    images[:, 0, 0, 0] = (0, 4, np.nan, 2, 1)
    chosen, _ = failures.best_shown("shared", images, (), ())
    assert chosen[:, 0, 0, 0].tolist() == [4, 2, 1]


def test_where_slots_look_is_drawn_below_what_they_paint(
    failures, tmp_path, monkeypatch
):
    run = failures.RUNS["columns"]._replace(stops={1: "elsewhere"}, num_slots=2)
    monkeypatch.setitem(failures.RUNS, "columns", run)
    failures.main(only="columns", output=tmp_path)
    with Image.open(tmp_path / "elsewhere.png") as image:
        assert image.size == ((1 + 2) * 98 + 2, 6 * 98 + 2)
    places = np.arange(6 * 6 * 2).reshape(36, 2)
    by_columns = failures.ByColumns(lambda image: places)(None)
    expected = places.reshape(6, 6, 2).swapaxes(0, 1)
    np.testing.assert_array_equal(by_columns.reshape(6, 6, 2), expected)


def test_a_run_that_diverges_is_drawn_too(failures, tmp_path, monkeypatch):
    optim = failures.optax.sgd(1e30)
    run = failures.Run({100: "diverged"}, num_slots=2, optim=optim)
    monkeypatch.setitem(failures.RUNS, "diverged", run)
    with pytest.warns(RuntimeWarning, match="The run ended after step"):
        (row,) = failures.main(only="diverged", output=tmp_path)
    assert (row["picture"], row["step"] < 100) == ("diverged", True)
    assert (tmp_path / "diverged.png").exists()


def test_pages_have_the_pictures_that_the_scripts_make(failures):
    images = EXAMPLES.parent / "docs" / "images"
    for run in failures.RUNS.values():
        for name in run.stops.values():
            assert (images / "failures" / f"{name}.png").exists()


def test_black_backgrounds_are_told_from_left_ones(tmp_path, monkeypatch):
    module = load("black_background")
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    monkeypatch.setattr(module, "HELD_OUT", 3)
    options = {"steps": 2, "seeds": (1,), "output": tmp_path / "made"}
    runs = module.main(module.Arguments(recipes=("ours",), **options))
    again = module.main(module.Arguments(recipes=("ours", "tutorial"), **options))
    assert [run["recipe"] for run in again] == ["ours", "tutorial"]
    assert again[0] == runs[0]  # and was not run again
    assert {file.name for file in (tmp_path / "made").iterdir()} == {
        "ours, seed 1, 2 steps.json",
        "tutorial, seed 1, 2 steps.json",
        "table.md",
        "black.png",
    }
    ours, tutorial = (run["history"][-1] for run in again)
    assert ours["slope"] == 1  # linear RGB lets everything through
    assert 0 < tutorial["slope"] < 1
    assert tutorial["gradient"] > 0

    rows = lambda *errors: [{"step": 50 * i, "error": e} for i, e in enumerate(errors)]
    assert module.left_at(rows(4.0, 1.0, 0.5, 0.4)) == 100
    assert module.left_at(rows(4.0, 0.5, 1.0, 0.4)) == 150  # came back to black
    assert module.left_at(rows(4.0, 0.5, 1.0)) is None

    rows = [{"step": 50} | dict.fromkeys(module.MEASURED, x) for x in (1.0, 2e-6)]
    made = [{"recipe": "ours", "history": [row]} for row in (*rows, rows[1])]
    assert module.table(made).splitlines()[-1] == (
        "| ours | 2 of 3 | 50 | 0.00 to 1.00 | 0.00 to 1.00 | 2e-06 to 1.00 |"
        " 2e-06 to 1.00 | 0.00 to 1.00 |"
    )
    assert "| 0 of 1 | never | 1.00 |" in module.table(made[:1])


SHOWING = (
    "walkthrough",
    "walkthrough_pictures",
    "failures",
    "collapse",
    "black_background",
    "black_recipes",
)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        (name, 88 if name in ("train_by_hand", "cluster_points") else 200)
        for name in (*NAMES, *SHOWING)
    ],
)
def test_examples_stay_short(name, limit):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert len(lines) <= limit


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_options(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as where a script is started
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setattr(training, "use_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "--steps" in printed
    assert "--seed" in printed
