"""What the examples share: folders, files, tables of seeds and devices of a run."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from .test_examples import EXAMPLES, load


pytestmark = pytest.mark.usefixtures("as_users_run")


def test_a_table_over_seeds(tmp_path, capsys, monkeypatch):
    shared = load("shared")
    scores, calls = {3: 0.5, 4: 1.0, 5: 0.9}, []

    def main(arguments):
        calls.append(arguments.seed)
        row = asdict(arguments) | {"output": str(arguments.output), "seconds": 7}
        row |= {"score": scores[arguments.seed], "stopped": "finished"}
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "metrics.json").write_text(json.dumps(row))
        return row

    kept = []
    monkeypatch.setattr(
        shared.training, "use_compilation_cache", lambda: kept.append(1)
    )
    arguments = shared.Run(steps=9, seed=3, seeds=3, output=tmp_path)
    rows = shared.over_seeds(main, arguments, {"score": 0.8})
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
    shared.over_seeds(main, replace(arguments, resume=True), {"score": 0.8})
    assert calls == [3, 4, 5, 4]
    other = replace(arguments, resume=True, steps=8)  # other options, other runs
    shared.over_seeds(main, other, {"score": 0.8})
    assert calls == [3, 4, 5, 4, 3, 4, 5]
    assert len(kept) == 3
    scores[4] = "no number"  # the second run fails
    with pytest.raises(TypeError):
        shared.over_seeds(main, arguments, {"score": 0.8})
    assert "0 of 1 seeds reached score 0.8." in (tmp_path / "seeds.md").read_text()
    assert len(kept) == 4
    alone = replace(arguments, seeds=1, compilation_cache=False)
    assert shared.over_seeds(main, alone, {})["seed"] == 3
    assert len(kept) == 4


class Saved:
    """Checkpoints of some steps."""

    def __init__(self, *steps):
        self.steps = lambda: list(steps)


def test_a_folder_keeps_the_run_that_is_in_it(tmp_path):
    shared = load("shared")
    arguments = shared.Run(steps=9, seed=3, output=tmp_path)
    resumed = replace(arguments, resume=True)
    shared.check_folder(arguments, Saved(3))  # as it was before there were options
    options = json.dumps(shared.identity(arguments))
    (tmp_path / "options.json").write_text(options)
    shared.check_folder(resumed, Saved(3))
    shared.check_folder(replace(resumed, checkpoint_every=1, devices=2), Saved(3))
    match = "has made 3 steps with --steps 9 --seed 3, not --steps 8 --seed 4: another"
    with pytest.raises(SystemExit, match=match):
        shared.check_folder(replace(resumed, seed=4, steps=8), Saved(2, 3))
    with pytest.raises(SystemExit, match="made 3 steps of 9: --resume goes on from"):
        shared.check_folder(replace(arguments, seed=4), Saved(2, 3))
    shared.check_folder(replace(arguments, seed=4), Saved(9))  # it came to its end
    shared.check_folder(replace(resumed, seed=4), Saved())


def test_a_full_disk_costs_a_file_and_not_the_run(tmp_path, monkeypatch):
    shared = load("shared")
    path = tmp_path / "history.jsonl"
    rows = [{"step": 1, "loss": float("nan")}, {"step": 2, "NaN": "Infinity"}]
    shared.write_rows(path, rows)
    assert (
        path.read_text()
        == '{"step": 1, "loss": null}\n{"step": 2, "NaN": "Infinity"}\n'
    )
    assert shared.read_rows(path)[1] == rows[1]
    before = path.read_text()
    shared.write_rows(tmp_path / "none", [])
    assert shared.read_rows(tmp_path / "none") == []

    def full(self, text):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(RuntimeWarning, match="history.jsonl could not be wri.*No space"):
        shared.write_rows(path, rows * 2)
    assert path.read_text() == before


def test_skipped_steps_are_told(tmp_path, capsys):
    shared = load("shared")
    history = [{"step": 7, "seconds": 2.0, "skipped": 3}]
    arguments = shared.Run(output=tmp_path)
    result = shared.write_result(arguments, {"ari": 0.5}, history, "diverged")
    assert (result["skipped"], result["stopped"]) == (3, "diverged")
    assert "diverged after 7 steps, 3 of them skipped, 2 s" in capsys.readouterr().out


TWO_DEVICES = """
import equinox as eqx, jax, optax
from eqx_slots import training
from shared import Run, spread

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


def test_ctrl_c_ends_all_seeds(tmp_path):
    shared = load("shared")
    row = {"score": None, "seconds": 7, "stopped": "interrupted"}
    main = lambda arguments: row | {"seed": arguments.seed}
    arguments = shared.Run(seeds=3, output=tmp_path, compilation_cache=False)
    rows = shared.over_seeds(main, arguments, {"score": 0.1})
    assert [one["seed"] for one in rows] == [0]
    table = (tmp_path / "seeds.md").read_text()
    assert "| 0 | nan | 7 | interrupted not good enough |" in table
