"""Training on several devices and by several processes: the same, each doing less."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eqx_slots import training
from eqx_slots.training import _devices

from .devices import STEPS
from .helpers import normal
from .test_training import (
    batch_at,
    begin,
    loss,
)


pytestmark = pytest.mark.usefixtures("standard_promotion")
AUTO = (AxisType.Auto,)


def started(num_devices, folder, **more):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.devices", str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | more,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """On eight devices, and by two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    folder = tmp_path_factory.mktemp("checkpoints")
    start = lambda index: started(2, folder, **run, JAX_PROCESS_ID=str(index))
    processes = [start(index) for index in (0, 1)]
    processes.append(started(8, folder))
    try:
        return [finished(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_losses_are_those_of_one_device(reports):
    *processes, devices = reports
    want = devices["on one device"]["losses"]
    assert len(want) == STEPS
    for report in (devices, *processes):
        np.testing.assert_allclose(report["trained"]["losses"], want, rtol=1e-5)


def test_losses_on_inputs_of_two_processes_are_those_of_one_device(reports):
    *processes, devices = reports
    want = devices["inputs on one device"]
    assert len(set(want)) == STEPS
    for report in processes:
        np.testing.assert_allclose(report["trained on inputs"], want, rtol=1e-5)


def test_two_processes_go_on_where_they_were_left(reports):
    for report in reports[:2]:
        whole, resumed = report["weights"]
        assert resumed == whole
        assert whole == reports[0]["weights"][0]


def test_steps_and_batches_are_compiled_once(reports):
    for report in reports:
        names = report["trained"]["compiled"]
        assert names.count("jit(spread_step)") == names.count("jit(made)") == 1


def test_a_step_sends_nothing_but_gradients(reports):
    sent = reports[-1]["sent"]
    assert list(sent) == ["all-reduce"]
    (number,) = sent["all-reduce"]
    # That of the decoder's first kernel is summed as it comes: for the 6 kinds of rows
    # and of columns that a slot, the same everywhere, is painted on.
    assert 0.5 * reports[-1]["parameters"] < number
    assert number < reports[-1]["parameters"] + 6 * 6 * 32 * 64


def test_a_step_shares_out_as_a_part_of_a_program_too(reports):
    assert list(reports[-1]["sent as a part"]) == ["all-reduce"]


def test_the_state_is_whole_on_every_device(reports):
    assert reports[-1]["state is whole"]


def test_inputs_that_are_shared_out_stay_so(reports):
    sent = reports[-1]["sent with inputs shared out"]
    assert list(sent) == ["all-reduce"]
    assert max(sent["all-reduce"]) < 2 * 256 * 16  # fewer than a device has of them


def test_a_device_holds_its_part_of_what_depends_on_the_batch(reports):
    # As much as each of two devices that train on two eighths of the batch. (One alone
    # convolves in another order, which takes other memory.)
    part = reports[-1]["memory of one of a pair"]
    assert abs(reports[-1]["memory"] - part) < 0.05 * part


def test_a_state_that_differs_between_processes_is_refused(reports):
    for process in reports[:2]:
        assert "must be the same in every process" in process["other seed"]


def test_a_signal_to_one_process_stops_all_after_the_same_step(reports):
    first, second = (process["stopped"] for process in reports[:2])
    assert first == second
    assert first[0] == "interrupted"


def test_a_row_of_one_device_trains_as_without():
    optim = optax.adam(0.1)
    mesh = training.data_mesh(jax.devices()[:1])
    ends = []
    for options in ({}, {"mesh": mesh}):
        _, state = begin(optim, use_ema=True)
        counted = eqx.debug.assert_max_traces(loss, max_traces=1)
        step = training.make_step(counted, optim, **options)
        batches = training.shard_batches(batch_at, mesh) if options else batch_at
        *_, last = training.run(step, state, batches, num_steps=4)
        ends.append(last.state)
    first, second = (jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in ends)
    for got, want in zip(second, first, strict=True):
        assert got.sharding == NamedSharding(mesh, PartitionSpec())
        if jnp.issubdtype(got.dtype, jnp.floating):
            np.testing.assert_array_equal(got, want)


def test_a_batch_made_elsewhere_is_brought_to_the_devices():
    """NumPy's arrays, a number without an axis, and what is not an array at all."""
    mesh = training.data_mesh(jax.devices()[:1])
    optim = optax.sgd(0.1)
    seen = []

    def watched(model, batch, key):
        seen.append(batch)
        return loss(model, (batch["x"] * batch["scale"], batch["y"]), key)

    inputs, targets = map(np.asarray, batch_at(0))
    batch = {"x": inputs, "y": targets, "scale": jnp.asarray(2.0), "name": "blocks"}
    _, state = begin(optim)
    _, info = training.make_step(watched, optim, mesh=mesh)(batch, state)
    assert seen[0]["name"] == "blocks"
    _, state = begin(optim)
    _, want = training.make_step(watched, optim)(batch, state)
    np.testing.assert_allclose(info.loss, want.loss, rtol=1e-6)


def test_steps_on_a_mesh_can_be_part_of_what_is_compiled():
    mesh = training.data_mesh(jax.devices()[:1])
    optim = optax.sgd(0.1)
    _, state = begin(optim)
    step = training.make_step(loss, optim, mesh=mesh)
    batches = training.shard_batches(batch_at, mesh)
    dynamic, static = eqx.partition(state, eqx.is_array)

    @jax.jit
    def twice(dynamic):
        state = eqx.combine(dynamic, static)
        for _ in range(2):
            state, info = step(batches(state.step), state)
        return info.loss

    want = twice(dynamic)
    for _ in range(2):
        state, info = step(batches(state.step), state)
    np.testing.assert_allclose(info.loss, want, rtol=1e-5)


def test_what_cannot_be_shared_out_is_refused():
    # Nothing is placed on it before the shapes are looked at.
    eight = Mesh(np.array(8 * jax.devices()[:1]), ("batch",), axis_types=AUTO)
    optim = optax.sgd(0.1)
    _, state = begin(optim)
    step = training.make_step(loss, optim, mesh=eight)
    with pytest.raises(ValueError, match=r"multiple of 8, got .*\(13, 3\).* size 16,"):
        step(batch_at(0), state)
    batches = training.shard_batches(batch_at, eight)
    with pytest.raises(ValueError, match=r"8 devices along 'batch'.*\(13, 3\)"):
        jax.eval_shape(batches, 0)
    with pytest.raises(ValueError, match="`devices` is empty"):
        training.data_mesh([])


def test_a_mesh_of_explicit_axes_is_refused():
    explicit = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    optim = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"AxisType.Auto, got .*Explicit.*data_mesh"):
        training.make_step(loss, optim, mesh=explicit)
    with pytest.raises(ValueError, match=r"AxisType.Auto"):
        training.shard_batches(batch_at, explicit)


def pretended(monkeypatch, **gathered):
    """A mesh of one device that says it belongs to two processes."""
    mesh = training.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(_devices, "_of_several_processes", lambda mesh: True)
    gather = gathered.get("gather", lambda x: np.stack([x, x]))
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    return mesh


def test_a_batch_of_one_process_is_refused_where_there_are_several(monkeypatch):
    optim = optax.sgd(0.1)
    step = training.make_step(loss, optim, mesh=pretended(monkeypatch))
    with pytest.raises(ValueError, match=r"\(13, 3\).*this process alone.*shard_batc"):
        step(batch_at(0), begin(optim)[1])


def test_states_are_compared_between_processes(monkeypatch):
    optim = optax.sgd(0.1)
    mesh = pretended(monkeypatch)
    step = training.make_step(loss, optim, mesh=mesh)
    batches = training.shard_batches(batch_at, mesh)
    _, state = begin(optim)
    state, _ = step(batches(0), state)
    mesh = pretended(monkeypatch, gather=lambda x: np.stack([x, x + 1]))
    step(batches(1), state)  # compared once, not at every step
    with pytest.raises(ValueError, match=r"same in every process.*same seed"):
        step(batches(0), begin(optim)[1])


def test_every_leaf_of_a_state_is_compared(monkeypatch):
    digests = []
    gather = lambda x: digests.append(int(x)) or np.stack([x, x])
    mesh = pretended(monkeypatch, gather=gather)
    _, state = begin(optax.sgd(0.1))
    other = eqx.tree_at(lambda s: s.model.bias, state, state.model.bias + 1)
    for one in (state, other, state._replace(key=jr.key(2)), state):
        _devices.place((), one, mesh)
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


@pytest.mark.parametrize("anywhere", [True, False])
def test_a_flag_in_another_process_counts(monkeypatch, anywhere):
    step = SimpleNamespace(is_fully_addressable=False)
    gather = lambda flag: np.stack([flag, np.asarray(anywhere)])
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    assert _devices.in_any_process(False, SimpleNamespace(step=step)) is anywhere
    assert _devices.in_any_process(True, SimpleNamespace(step=step)) is True
    alone = SimpleNamespace(step=jnp.zeros(()))
    assert _devices.in_any_process(False, alone) is False


def test_processes_are_joined_where_the_environment_says_so(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    training.join_processes()
    assert calls == []
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "first:1234")
    training.join_processes()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "3")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    training.join_processes()
    assert calls == [("first:1234", None, None), ("first:1234", 3, 2)]
    monkeypatch.setenv("JAX_PROCESS_ID", "second")
    with pytest.raises(ValueError, match=r"`JAX_PROCESS_ID` must be .* got 'second'"):
        training.join_processes()
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    match = "has JAX_NUM_PROCESSES and JAX_PROCESS_ID, so `JAX_COORD.*got none"
    with pytest.raises(ValueError, match=match):
        training.join_processes()
    assert len(calls) == 2


def test_another_axis_of_a_mesh_is_left_to_the_loss():
    """What is on the devices already is not gathered to be shared out anew."""
    grid = jax.make_mesh((1, 1), ("batch", "inputs"), axis_types=2 * AUTO)
    placed = NamedSharding(grid, PartitionSpec("batch", "inputs"))
    inputs = jax.device_put(normal(0, 13, 3), placed)
    _, state = begin(optax.sgd(0.1))
    (kept,), _ = _devices.place((inputs,), state, grid)
    assert kept is inputs
