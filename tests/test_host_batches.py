import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from eqx_slots import training
from eqx_slots.training import _host_batches

from .killed import lines
from .reading import held, Numbers, train
from .test_devices import finished


MESH = training.data_mesh(jax.devices()[:1])


def indices(batch_at, steps):
    return np.array([batch_at(step)["index"] for step in steps])


@pytest.mark.parametrize("seed", [0, 7])
def test_every_example_once_an_epoch_and_in_another_order(seed):
    batch_at = training.host_batches(Numbers(23), MESH, batch_size=5, seed=seed)
    epochs = indices(batch_at, range(12)).reshape(3, 20)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
        assert set(epoch.tolist()) <= set(range(23))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    # Who sits out changes with the epoch, so that nobody always does.
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) > 1


def test_the_order_of_the_source():
    batch_at = training.host_batches(Numbers(23), MESH, batch_size=5, seed=None)
    want = np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(indices(batch_at, range(4)), want)
    np.testing.assert_array_equal(indices(batch_at, range(4, 8)), want)


def test_seeds_are_different_orders():
    options = {"batch_size": 5}
    orders = [
        indices(
            training.host_batches(Numbers(23), MESH, seed=seed, **options), range(4)
        ).tolist()
        for seed in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]


@given(steps=st.lists(st.integers(0, 20), min_size=1, max_size=6))
@settings(max_examples=10)
def test_a_batch_depends_on_its_step_alone(asked, steps):
    batch_at, want = asked
    for step in steps:
        got = batch_at(jnp.asarray(step))
        jax.tree.map(np.testing.assert_array_equal, got, want[step])


@pytest.fixture(scope="module")
def asked():
    """Batches to be asked for in any order, and those that come one by one."""
    batch_at, one_by_one = (
        training.host_batches(Numbers(11), MESH, batch_size=3, seed=4) for _ in range(2)
    )
    return batch_at, [one_by_one(step) for step in range(21)]


def test_examples_are_those_of_the_source():
    batch_at = training.host_batches(Numbers(23), MESH, batch_size=5)
    batch = batch_at(2)
    assert batch_at(2) is batch
    for index, x in zip(batch["index"], batch["x"]):
        np.testing.assert_array_equal(x, Numbers(23)[int(index)]["x"])
    assert batch["x"].dtype == jnp.float32
    assert batch["x"].sharding.mesh == MESH


def test_batches_are_read_ahead():
    """While a step is computed, and no further than was asked for."""
    read, enough = [], threading.Event()

    class Watched(Numbers):
        def __getitem__(self, index):
            read.append(index)
            if len(read) >= 3:
                enough.set()
            return super().__getitem__(index)

    batch_at = training.host_batches(Watched(50), MESH, batch_size=1, seed=None)
    read.clear()
    batch_at(10)
    assert enough.wait(10)
    time.sleep(0.1)
    assert sorted(read) == list(range(10, 11 + _host_batches._AHEAD))


def test_a_source_that_fails_can_be_asked_again():
    class Flaky(Numbers):
        broken = False

        def __getitem__(self, index):
            if self.broken:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    source = Flaky(10)
    batch_at = training.host_batches(source, MESH, batch_size=2, seed=None)
    source.broken = True
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            batch_at(0)
    source.broken = False
    np.testing.assert_array_equal(batch_at(0)["index"], [0, 1])


def test_workers_give_what_threads_give():
    options = {"batch_size": 4, "seed": 3}
    with_threads = training.host_batches(Numbers(23), MESH, **options)
    batch_at = training.host_batches(Numbers(23), MESH, num_workers=2, **options)
    for step in range(3, 9):
        jax.tree.map(np.testing.assert_array_equal, batch_at(step), with_threads(step))
    assert len(multiprocessing.active_children()) == 2
    del batch_at
    assert not multiprocessing.active_children()


def one_of_two(index, address):
    run = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    run |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.reading"],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_PROCESS_ID": str(index)} | run,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_each_process_reads_its_own_examples():
    """Two of them, with two devices each, have together what one alone has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [one_of_two(index, address) for index in (0, 1)]
    try:
        first, second = map(finished, processes)
    finally:
        for process in processes:
            process.kill()
    assert [a + b for a, b in zip(first, second)] == held(5)
    assert {len(part) for part in first + second} == {4}


@pytest.mark.usefixtures("as_users_run")
def test_what_lies_between_the_parts_of_a_process_is_not_read():
    class Sharding:
        def addressable_devices_indices_map(self, shape):
            return {"a": (slice(6, 8),), "b": (slice(0, 2),), "c": (slice(0, 2),)}

    assert _host_batches._own_rows(Sharding(), 12).tolist() == [0, 1, 6, 7]


def started(folder, num_steps, num_workers):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.reading"])
    folder.mkdir(exist_ok=True)
    arguments = (folder, num_steps, num_workers)
    process = context.Process(target=train, args=arguments)
    before = len(lines(folder, "reached"))
    process.start()
    return process, before


def reached(folder, process, count):
    while len(lines(folder, "reached")) < count:
        assert process.is_alive()
        time.sleep(0.01)


def gone(pid):
    """Whether a process ends before long; a zombie waits for nobody but its parent."""
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_is_killed_and_stopped_ends_with_the_same_bits(
    tmp_path, num_workers
):
    steps = 150
    whole, _ = started(tmp_path / "whole", steps, 0)
    folder = tmp_path / "killed"
    process, before = started(folder, steps, num_workers)
    reached(folder, process, before + 5)
    workers = [int(pid) for pid in last_workers(folder)]
    assert len(workers) == num_workers
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert all(map(gone, workers))

    process, before = started(folder, steps, num_workers)
    reached(folder, process, before + 5)
    workers = [int(pid) for pid in last_workers(folder)]
    os.killpg(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 0
    assert lines(folder, "stopped") == ["interrupted"]
    assert all(map(gone, workers))
    stopped_at = lines(folder, "reached")[-1]

    process, _ = started(folder, steps, num_workers)
    process.join()
    whole.join()
    begun = lines(folder, "begin")
    assert begun[0] == "0" < begun[1]
    assert begun[2] == stopped_at
    assert lines(folder, "digest")[-1] == lines(tmp_path / "whole", "digest")[-1]


def last_workers(folder):
    said = (folder / "log").read_text().splitlines()
    named = [line.split(" ", 1)[1] for line in said if line.startswith("workers ")]
    return [pid for pid in named[-1].split(",") if pid]


def test_a_step_takes_what_is_read(standard_promotion):
    """By way of the run that everybody uses, on one device as on none."""
    batches = training.host_batches(Numbers(23), MESH, batch_size=5)

    def fit(model, batch, key):
        made = jax.vmap(model)(batch["x"])
        return jnp.mean((made - batch["x"]) ** 2), batch["index"]

    optim = optax.sgd(0.1)
    for mesh in (None, MESH):
        model = eqx.nn.Linear(3, 3, key=jr.key(0))
        state = training.TrainState.create(model, optim, key=jr.key(1))
        step = training.make_step(fit, optim, mesh=mesh)
        reports = training.run(step, state, batches, num_steps=7, report_every=1)
        seen = [report.info.aux for report in reports]
        np.testing.assert_array_equal(seen, indices(batches, range(7)))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Numbers(3), {}, "got 3 for `batch_size`=4"),
        (iter(Numbers(9)), {}, "got .*iterator; of what can only be iterated"),
        (Numbers(9), {"batch_size": 0}, "`batch_size` must be a positive integer"),
        (Numbers(9), {"num_workers": -1}, "`num_workers` must be 0 or more, got -1"),
        (["a", "b", "c", "d"], {}, "got str at source.0.; leave it out"),
        (4 * [{"x": 1.0, "name": b"a"}], {}, r"got bytes at source\[0\]\['name'\]"),
    ],
)
def test_mistakes(source, options, message):
    with pytest.raises(ValueError, match=message):
        training.host_batches(source, MESH, **{"batch_size": 4} | options)


def test_mistakes_in_an_example_and_a_step():
    shapes = [np.zeros(3), np.zeros(3), np.zeros(4), np.zeros(3)]
    batch_at = training.host_batches(shapes, MESH, batch_size=2, seed=None)
    batch_at(0)
    with pytest.raises(ValueError, match=r"examples \[2, 3\]: all input arrays must"):
        batch_at(1)
    with pytest.raises(ValueError, match="`step` must be 0 or more, got -1"):
        batch_at(-1)
    with pytest.raises(ValueError, match="outside of what is compiled"):
        jax.jit(batch_at)(0)
    with pytest.raises(ValueError, match="outside of what is compiled"):
        training.shard_batches(batch_at, MESH)(0)


def test_devices_that_a_batch_cannot_be_shared_out_over():
    eight = jax.sharding.Mesh(
        np.array(8 * jax.devices()[:1]), ("batch",), axis_types=MESH.axis_types
    )
    with pytest.raises(ValueError, match="make the batch size 16"):
        training.host_batches(Numbers(20), eight, batch_size=12)


def test_a_worker_ends_with_its_parent(monkeypatch):
    """As the processes that tests start do, out of sight of the measure of coverage."""
    ended, left = threading.Event(), []

    class Parent:
        def join(self):
            left.append("waited for")

    monkeypatch.setattr(multiprocessing, "parent_process", Parent)
    monkeypatch.setattr(os, "_exit", lambda code: (left.append(code), ended.set()))
    before = signal.getsignal(signal.SIGINT)
    try:
        _host_batches._begin_worker(0, 1)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.wait(10)
    assert left == ["waited for", 1]


def test_flags_are_read_once():
    from absl import flags

    for _ in range(2):
        _host_batches._read_flags()
        assert flags.FLAGS.is_parsed()
