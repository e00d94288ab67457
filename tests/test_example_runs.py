"""What the examples share: options, files, seeds, devices, recipe and scores."""

import functools
import json
import os
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

from eqx_slots import metrics, training

from .test_examples import EXAMPLES, load
from .test_recipe import Made


pytestmark = pytest.mark.usefixtures("as_users_run")


def test_a_table_over_seeds(tmp_path, capsys, monkeypatch):
    seeds, options = load("seeds"), load("options")
    scores, calls = {3: 0.5, 4: 1.0, 5: 0.9}, []

    def main(arguments):
        calls.append(arguments.seed)
        row = asdict(arguments) | {"output": str(arguments.output), "seconds": 7}
        row |= {"score": scores[arguments.seed], "stopped": "finished"}
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "metrics.json").write_text(json.dumps(row))
        return row

    kept = []
    monkeypatch.setattr(seeds.training, "use_compilation_cache", lambda: kept.append(1))
    arguments = options.Run(steps=9, seed=3, seeds=3, output=tmp_path)
    rows = seeds.over_seeds(main, arguments, {"score": 0.8})
    assert calls == [3, 4, 5]
    table = (tmp_path / "seeds.md").read_text()
    assert table in capsys.readouterr().out
    assert "| 3 | 0.500 | 7 | not good enough |" in table
    assert "| 4 | 1.000 | 7 |  |" in table
    assert "| mean | 0.800 | | |" in table
    assert "| spread | 0.216 | | |" in table
    assert "2 of 3 seeds reached score 0.8." in table
    assert json.loads((tmp_path / "seeds.json").read_text()) == rows
    assert (tmp_path / "seeds.png").exists()
    (tmp_path / "seed_4" / "metrics.json").unlink()
    seeds.over_seeds(main, replace(arguments, resume=True), {"score": 0.8})
    assert calls == [3, 4, 5, 4]
    other = replace(arguments, resume=True, steps=8)  # other options, other runs
    seeds.over_seeds(main, other, {"score": 0.8})
    assert calls == [3, 4, 5, 4, 3, 4, 5]
    assert len(kept) == 3
    scores[4] = "no number"  # the second run fails
    with pytest.raises(TypeError):
        seeds.over_seeds(main, arguments, {"score": 0.8})
    assert "0 of 1 seeds reached score 0.8." in (tmp_path / "seeds.md").read_text()
    assert len(kept) == 4
    alone = replace(arguments, seeds=1, compilation_cache=False)
    assert seeds.over_seeds(main, alone, {})["seed"] == 3
    assert len(kept) == 4


def test_a_folder_keeps_the_run_that_is_in_it(tmp_path, capsys):
    options = load("options")
    arguments = options.Run(steps=9, seed=3, output=tmp_path)
    resumed = replace(arguments, resume=True)
    options.check_resumable(arguments, [3])  # as it was before there were options
    there = json.dumps(options.identity(arguments))
    (tmp_path / "options.json").write_text(there)
    options.check_resumable(resumed, [3])
    options.check_resumable(replace(resumed, checkpoint_every=1, devices=2), [3])
    for other, sentence in {
        "resume": "with --steps 9 --seed 3, not --steps 8 --seed 4: another",
        "anew": "of 9: --resume goes on from there, another",
    }.items():
        changed = replace(arguments, seed=4, resume=other == "resume")
        if other == "resume":
            changed = replace(changed, steps=8)
        with pytest.raises(SystemExit) as caught:
            options.check_resumable(changed, [2, 3])
        assert caught.value.code == 2
        assert f"has made 3 steps {sentence}" in capsys.readouterr().err
    options.check_resumable(replace(arguments, seed=4), [9])  # it came to its end
    options.check_resumable(replace(resumed, seed=4), [])


def test_a_full_disk_costs_a_file_and_not_the_run(tmp_path, monkeypatch):
    files = load("files")
    path = tmp_path / "history.jsonl"
    rows = [{"step": 1, "loss": float("nan")}, {"step": 2, "NaN": "Infinity"}]
    files.write_rows(path, rows)
    assert (
        path.read_text()
        == '{"step": 1, "loss": null}\n{"step": 2, "NaN": "Infinity"}\n'
    )
    assert files.read_rows(path)[1] == rows[1]
    before = path.read_text()
    files.write_rows(tmp_path / "none", [])
    assert files.read_rows(tmp_path / "none") == []

    def full(self, text):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(RuntimeWarning, match="history.jsonl could not be wri.*No space"):
        files.write_rows(path, rows * 2)
    assert path.read_text() == before


def test_skipped_steps_are_told(tmp_path, capsys):
    files, options = load("files"), load("options")
    history = [{"step": 7, "seconds": 2.0, "skipped": 3}]
    arguments = options.Run(output=tmp_path)
    result = files.write_result(arguments, {"ari": 0.5}, history, "diverged")
    assert (result["skipped"], result["stopped"]) == (3, "diverged")
    assert "diverged after 7 steps, 3 of them skipped, 2 s" in capsys.readouterr().out


TWO_DEVICES = """
import equinox as eqx, jax, optax
from eqx_slots import training
from follow import spread
from options import Run

model = eqx.nn.Linear(3, 1, key=jax.random.key(0))
optim = optax.sgd(0.1)
batch_at = lambda step: jax.random.normal(jax.random.key(step), (4, 3))
loss = lambda model, batch, key: (jax.numpy.mean(jax.vmap(model)(batch) ** 2), None)
for devices in (1, 2):
    step, batches = spread(Run(devices=devices), loss, optim, batch_at)
    state = training.TrainState.create(model, optim, key=jax.random.key(1))
    for now in training.run(step, state, batches, num_steps=3):
        pass
    print(len(batches(0).sharding.device_set), float(now.loss))
"""


def test_batches_are_shared_out_over_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env=os.environ | flags | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=True,
    )
    (one, loss), (two, same) = (line.split() for line in done.stdout.splitlines())
    assert (one, two) == ("1", "2")
    assert float(same) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("use_ema", [True, False])
def test_scored_and_kept_is_the_moving_average(tmp_path, use_ema):
    follow, options = load("follow"), load("options")
    arguments = options.Run(steps=4, output=tmp_path)
    loss = lambda model, batch, key: (jnp.sum(jax.vmap(model)(batch)), None)
    optim = optax.sgd(1.0)
    step, batches = follow.spread(arguments, loss, optim, lambda _: jnp.ones((2, 3)))
    model = eqx.nn.Linear(3, 1, use_bias=False, key=jr.key(0))
    state = training.TrainState.create(model, optim, use_ema=use_ema, key=jr.key(1))
    evaluate = lambda model: {"weight": model.weight[0, 0]}
    kept, rows, _ = follow.follow(
        arguments, step, state, batches, evaluate, lambda row: ""
    )
    # The gradient is 2, and early on the average decays by (1 + t) / (10 + t).
    weight = average = float(model.weight[0, 0])
    for t in range(4):
        weight, decay = weight - 2, (1 + t) / (10 + t)
        average = decay * average + (1 - decay) * weight
    expected = pytest.approx(average if use_ema else weight, rel=1e-5)
    assert kept.weight[0, 0] == rows[-1]["weight"] == expected


def test_ctrl_c_ends_all_seeds(tmp_path):
    seeds, options = load("seeds"), load("options")
    row = {"score": None, "seconds": 7, "stopped": "interrupted"}
    main = lambda arguments: row | {"seed": arguments.seed}
    arguments = options.Run(seeds=3, output=tmp_path, compilation_cache=False)
    rows = seeds.over_seeds(main, arguments, {"score": 0.1})
    assert [one["seed"] for one in rows] == [0]
    table = (tmp_path / "seeds.md").read_text()
    assert "| 0 | undefined | 7 | interrupted not good enough |" in table


def test_figures_of_the_largest_mask_and_of_masks_as_they_are():
    """A background that two slots paint, three fifths and two, in every pixel."""
    autoencoder, scores = load("autoencoder"), load("scores")
    few = autoencoder.Arguments(objects=(2, 2))
    scenes = jax.jit(lambda key: autoencoder.paint(key, 5, few))(jax.random.key(0))
    truth = scenes.segmentation
    whole = jax.nn.one_hot(truth, 4, axis=1)
    found = scores.figures(Made(scenes.image + 0.2, whole), scenes, -1.0)
    right = {name for name, value in found.items() if value == 1}
    assert right == set(scores.FIGURES) - {"mse", "mse_of_mean_image"}
    assert float(found["mse"]) == pytest.approx(0.01, rel=1e-4)  # of [-1, 1] as [0, 1]
    spread = scenes.image - scenes.image.mean(axis=0)
    wanted = float((spread**2).mean()) / 4
    assert float(found["mse_of_mean_image"]) == pytest.approx(wanted, rel=1e-4)

    background = whole[:, :1]
    shared = whole.at[:, :1].add(-0.4 * background).at[:, 3:].add(0.4 * background)
    found = scores.figures(Made(scenes.image, shared), scenes, -1.0)
    wrong = {name for name, value in found.items() if not abs(value - 1) < 1e-6}
    assert wrong == {"soft_ari", "background_mask", "mse", "mse_of_mean_image"}
    assert float(found["background_mask"]) == pytest.approx(0.6)
    one = functools.partial(metrics.soft_adjusted_rand_index, num_true=3)
    soft = float(metrics.mean(jax.vmap(one)(truth, shared)))
    assert 0.2 < soft < 0.9
    assert float(found["soft_ari"]) == pytest.approx(soft)


# A mistake in an option is one sentence, and the exit status of a wrong command.
SLIPS = {
    "autoencoder --seeds 0": "--seeds must be more than 0, got 0.",
    "autoencoder --steps 0": "--steps must be more than 0, got 0.",
    "autoencoder --checkpoint-every -1": "--checkpoint-every must be more than 0",
    "autoencoder --seed -1": "--seed must lie in [0, 2147483646], got -1.",
    "autoencoder --objects 1 20": "--objects must be two numbers from 1 to 6, the",
    "autoencoder --objects 4 2": "the smaller first, got 4 2.",
    "autoencoder --block-size 40 50": "cannot be painted: `block_size` must be",
    "autoencoder --noise -1": "cannot be painted: `noise` must not be negative",
    "autoencoder --num-slots 0": "--num-slots must be more than 0, got 0.",
    "autoencoder --sparsity nan": "--sparsity must be 0 or more, got nan.",
    "autoencoder --batch-size 0": "--batch-size must be more than 0, got 0.",
    "autoencoder --devices 3": "--batch-size 32 does not divide among --devices 3.",
    "autoencoder --preset blog --image-size 64": "--preset blog is for --image-size 32",
    "autoencoder --preset clevr": "--preset clevr is for --scenes solids.",
    "autoencoder --scenes sprites --gap 2": "--gap is no option of --scenes sprites.",
    "autoencoder --scenes solids --image-size 4": "--image-size must be 8 or more",
    "autoencoder --scenes solids --pool 9": "--pool must be --batch-size at least",
    "autoencoder --kind binarized": "--kind is no option of --scenes blocks.",
    "autoencoder --scenes tetrominoes --image-size 19": "20 x 20 at least",
    "autoencoder --output {file}/runs": "--output {file}/runs cannot be made: Not a",
    "set_prediction --objects 0 6": "--objects must be two numbers from 1 to 6",
    "set_prediction --devices 99": "--devices 99 does not divide the 32 scenes.",
    "set_prediction --output {file}": "--output {file} cannot be made: File exists.",
    "more_objects --seeds 2": "It trains one seed, on one to four blocks",
    "train_by_hand --steps 0": "--steps must be more than 0, got 0.",
    "cluster_points --steps 0": "--steps must be more than 0, got 0.",
    "labels --steps 0": "--steps must be more than 0, got 0.",
    "drop_in --steps 0": "--steps must be more than 0, got 0.",
    "more_slots --seed -3": "--seed must lie in [0, 2147483646], got -3.",
    "count_objects --price -1": "--price must be 0 or more, got -1.0.",
    "failures --output {file}/x": "--output {file}/x cannot be made: Not a directory.",
    "black_background --recipes mine": "--recipes has no 'mine', only: tutorial, ",
    "black_background --seeds -1": "--seed must lie in [0, 2147483646], got -1.",
    "features --model {file} --features {file}": "is one of --features, --model and",
    "features --control --model {file}": "--control goes with --backbone, or alone.",
    "features --control --decoder transformer --top-k 3": "--top-k is an option of",
    "features --control --top-k 8": "--top-k must be 1 to 7, got 8.",
    "features --control --pool 9": "--pool must be --batch-size at least, got 9.",
    "features --control --devices 3": "--batch-size 32 does not divide among --devi",
    "features --model {file} --output {file}.runs": "--model: ",
    "features --backbone none --output {file}.runs": "--backbone",
    "probe --colour pink": "--colour must be one of gray, red, blue, green, brown, ",
    "probe --scenes 0": "--scenes must be more than 0, got 0.",
    "probe --model {file}": "--model: ",
    "segment {file} --model solid_sets": "--model solid_sets says what objects are",
    "walkthrough --model {file}": "--model: ",
    "walkthrough --model {file}.safetensors": "--model: ",
}


@pytest.mark.parametrize("line", SLIPS)
def test_a_mistake_in_an_option_is_one_sentence(line, tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("")
    name, *options = line.format(file=file).split()
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as where a script is started
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    monkeypatch.setattr(training, "use_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert SLIPS[line].format(file=file) in said
    assert said.count("\n") == 1


def test_a_folder_must_be_open_to_writing(tmp_path, monkeypatch, capsys):
    options = load("options")
    monkeypatch.setattr(options.os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        options.make_folder(tmp_path / "new")
    assert capsys.readouterr().err.endswith("new cannot be written to.\n")


def test_more_devices_than_there_are(capsys):
    follow, options = load("follow"), load("options")
    with pytest.raises(SystemExit):
        follow.spread(options.Run(devices=99), None, None, None)
    assert "--devices 99, but JAX found 1: [" in capsys.readouterr().err
