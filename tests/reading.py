"""Processes that read batches: one that is killed, or one of several.

`test_host_batches.py` starts them. As `python -m tests.reading` it is one process of
several, and prints what its devices hold of the first batches.
"""

import json
import multiprocessing
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  # once, before the forks that use it

from eqx_slots.training import (
    Checkpoints,
    data_mesh,
    host_batches,
    join_processes,
    make_step,
    run,
    TrainState,
)

from .killed import digest


EVERY = 5


class Numbers:
    """A source whose examples say which they are."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        values = np.random.default_rng(index).normal(size=3).astype(np.float32)
        return {"x": values, "index": index}


def train(folder: Path, num_steps: int, num_workers: int) -> None:
    """Train to the end, from wherever the last process has got to."""
    os.setsid()  # Ctrl-C goes to a whole group
    jax.config.update("jax_disable_most_optimizations", True)
    optim = optax.adam(0.01)
    model = eqx.nn.Linear(3, 2, key=jr.key(0))
    state = TrainState.create(model, optim, key=jr.key(1))
    checkpoints = Checkpoints(folder / "checkpoints")
    if checkpoints.steps():
        state = checkpoints.restore(state)
    options = {"batch_size": 4, "seed": 5, "num_workers": num_workers}
    batch_at = host_batches(Numbers(23), data_mesh(jax.devices()[:1]), **options)
    log = (folder / "log").open("a", buffering=1)
    print("begin", int(state.step), file=log)

    def loss(model, batch, key):
        noise = 0.1 * jr.normal(key, batch["x"].shape)
        made = jax.vmap(model)(batch["x"] + noise)
        return jnp.mean((made - batch["x"][:, :2]) ** 2), None

    options = {"num_steps": num_steps, "report_every": 1}
    options |= {"checkpoints": checkpoints, "checkpoint_every": EVERY}
    for last in run(make_step(loss, optim), state, batch_at, **options):
        workers = [str(child.pid) for child in multiprocessing.active_children()]
        print("workers", ",".join(workers), file=log)
        print("reached", last.step, file=log)
    print("stopped", last.stopped, file=log)
    print("digest", digest(last.state), file=log)


def held(num_steps: int) -> list[list[int]]:
    """Of each batch, what the devices of this process hold."""
    batch_at = host_batches(Numbers(23), data_mesh(), batch_size=8)
    parts = []
    for step in range(num_steps):
        index = batch_at(step)["index"]
        assert index.shape == (8,)
        shards = [np.asarray(shard.data) for shard in index.addressable_shards]
        parts.append(np.concatenate(shards).tolist())
    return parts


if __name__ == "__main__":
    join_processes()
    print(json.dumps(held(5)))
