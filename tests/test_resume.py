"""Runs that are saved, stopped and gone on with."""

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
import pytest

from eqx_slots import training

from . import sharded_checkpoint
from .kill import killed, whole
from .killed import EVERY, SAVE_POINTS
from .test_checkpoint import bits


pytestmark = pytest.mark.usefixtures("standard_promotion")


def loss(model, batch, key):
    noisy = batch + 0.1 * jr.normal(key, batch.shape)
    return jnp.mean(jax.vmap(model)(noisy) ** 2), None


def batch_at(step):
    return jr.normal(jr.fold_in(jr.key(7), step), (13, 3))


OPTIM = training.adam(training.paper_schedule(0.1, warmup_steps=3))
STEP = training.make_step(loss, OPTIM)


def begin(seed=0):
    model = eqx.nn.MLP(3, 2, 5, 1, key=jr.key(seed))
    return training.TrainState.create(model, OPTIM, use_ema=True, key=jr.key(seed + 1))


def run(state, checkpoints=None, *, step=STEP, batch_at=batch_at, num_steps=7, **more):
    options = {"num_steps": num_steps, "checkpoints": checkpoints, **more}
    *_, last = training.run(step, state, batch_at, **options)
    return last


@pytest.fixture
def checkpoints(tmp_path):
    return training.Checkpoints(tmp_path / "checkpoints", keep=9)


def test_a_run_is_saved_every_so_often_and_at_the_end(checkpoints):
    last = run(begin(), checkpoints, checkpoint_every=3)
    assert checkpoints.steps() == [3, 6, 7]
    assert bits(checkpoints.restore(begin(5))) == bits(last.state)
    checkpoints.clear(after=6)
    run(checkpoints.restore(begin(5)), checkpoints)
    assert checkpoints.steps() == [3, 6, 7]


def test_it_goes_on_bit_for_bit_from_any_of_them(checkpoints):
    last = run(begin())
    run(begin(), checkpoints, checkpoint_every=1)
    for step in (1, 3, 6):
        state = checkpoints.restore(begin(5), step=step)
        assert int(state.step) == step
        assert bits(run(state).state) == bits(last.state)


def test_a_state_that_is_restored_is_not_compiled_anew(checkpoints):
    counted = eqx.debug.assert_max_traces(loss, max_traces=1)
    step = training.make_step(counted, OPTIM)
    run(begin(), checkpoints, step=step, num_steps=2)
    assert run(checkpoints.restore(begin()), step=step).step == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(checkpoints, number):
    def interrupted(step):
        if step == 3:
            os.kill(os.getpid(), number)
        return batch_at(step)

    last = run(begin(), checkpoints, batch_at=interrupted)
    assert (last.step, last.stopped) == (4, "interrupted")
    assert checkpoints.steps() == [4]
    state = checkpoints.restore(begin(5))
    assert bits(run(state).state) == bits(run(begin()).state)


def test_the_last_report_comes_when_the_state_is_saved(checkpoints):
    for report in training.run(
        STEP, begin(), batch_at, num_steps=2, checkpoints=checkpoints
    ):
        assert checkpoints.steps() == ([2] if report.stopped else [])


def test_a_run_that_diverges_saves_its_last_good_state(checkpoints):
    broken = lambda step: batch_at(step) * jnp.where(step < 3, 1.0, jnp.nan)
    with pytest.warns(RuntimeWarning, match="ended after step 7"):
        last = run(begin(), checkpoints, batch_at=broken, num_steps=99, max_skipped=4)
    assert (last.step, last.stopped) == (7, "diverged")
    state = checkpoints.restore(begin(5))
    good = run(begin(), num_steps=3).state
    assert bits((state.model, state.opt_state)) == bits((good.model, good.opt_state))
    assert bits(state.ema) == bits(good.ema)
    assert (int(state.step), int(state.skipped), int(state.taken)) == (7, 4, 3)


def test_a_save_that_fails_is_a_warning_and_the_run_goes_on(checkpoints):
    checkpoints.folder.write_text("in the way")
    checkpoints.steps = list  # as if the folder had gone after the run had begun
    with pytest.warns(RuntimeWarning) as caught:
        last = run(begin(), checkpoints, checkpoint_every=3)
    assert last.stopped == "finished"
    texts = [str(warning.message) for warning in caught]
    for text, step in zip(texts, (3, 6, 7), strict=True):
        assert text.startswith(f"Step {step} could not be saved in ")
        assert text.endswith("The run goes on.")


def test_mistakes(checkpoints):
    with pytest.raises(ValueError, match="`checkpoint_every` must be"):
        run(begin(), checkpoints, checkpoint_every=0)
    with pytest.raises(ValueError, match=r"`checkpoint_every`=3 needs a place"):
        run(begin(), checkpoint_every=3)
    run(begin(), checkpoints)
    match = r"has checkpoints of steps \[7\], but the state has made 0:.*clear\(after=0"
    with pytest.raises(ValueError, match=match):
        run(begin(), checkpoints, num_steps=99)
    checkpoints.clear(after=0)
    assert run(begin(), checkpoints).step == 7


def test_killed_at_every_point_of_a_save_it_ends_with_the_same_bits(tmp_path):
    kills = [("0.05 s after its first step", 0.05), *SAVE_POINTS.items()]
    num_steps = 105
    want = whole(tmp_path / "whole", num_steps)
    got, deaths = killed(tmp_path / "killed", num_steps, kills)
    assert got == want
    assert [death.where for death in deaths] == [where for where, _ in kills]
    assert 0 <= deaths[0].lost <= EVERY
    assert [death.lost for death in deaths[1:]] == [EVERY] * 5 + [0] * 3


def test_saved_on_eight_devices_restored_on_one_and_back(tmp_path):
    one, eight = (training.Checkpoints(tmp_path / name) for name in ("one", "eight"))
    state = sharded_checkpoint.begin(seed=0)
    one.save(state)
    command = [sys.executable, "-m", "tests.sharded_checkpoint", str(tmp_path)]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    environment = os.environ | devices | {"JAX_PLATFORMS": "cpu"}
    options = {"cwd": Path(__file__).parents[1], "env": environment}
    made = subprocess.run(command, **options, stdout=subprocess.PIPE, check=True)
    places = json.loads(made.stdout)
    assert places["model.layers[0].weight"] == [8, [1, 3]]
    assert places["model.layers[1].weight"] == [8, [2, 8]]
    assert places["key"] == [8, []]
    back = eight.restore(sharded_checkpoint.begin(seed=2))
    assert bits(back) == bits(state)
    assert back.model.layers[0].weight.devices() == {jax.devices()[0]}
