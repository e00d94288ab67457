"""The process that `kill.py` kills: a small model, trained with many checkpoints."""

import hashlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  # once, before the forks that use it

from eqx_slots.training import (
    _checkpoint,
    _manifest,
    Checkpoints,
    make_step,
    run,
    TrainState,
)


EVERY, KEEP = 5, 2
# Of the save that a process is to be killed in; from the third on, old ones go.
SAVE_POINTS = {
    "before anything is written": "write",
    "while Orbax writes": "orbax",
    "when Orbax has written": "manifest",
    "while waiting for the disk": "fsync",
    "between write and commit": "commit",
    "just after the commit": "committed",
    "before the oldest is deleted": "prune",
    "while the oldest is deleted": "pruning",
}
KILLED_AT_SAVE = 3


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_save(point: str) -> None:
    """Have this process killed at a point of its third save."""
    write, replace = Checkpoints._write, os.replace
    saves = []

    def arm(self, state, step):
        saves.append(step)
        if len(saves) == KILLED_AT_SAVE:
            hook(self, step)
        write(self, state, step)

    def hook(self, step):
        if point == "write":
            die()
        elif point == "orbax":
            partial = self.folder / f"{step}.partial"
            threading.Thread(target=die_when_written, args=(partial,)).start()
        elif point == "manifest":
            _checkpoint.write_manifest = die
        elif point == "fsync":
            _manifest.os.fsync = die
        elif point in ("commit", "committed"):
            os.replace = lambda *paths: (
                point == "committed" and replace(*paths),
                die(),
            )
        elif point == "prune":
            _checkpoint._delete = die
        elif point == "pruning":
            shutil.rmtree = die_when_deleting

    Checkpoints._write = arm


def die_when_written(folder: Path) -> None:
    while not any(path.is_file() for path in folder.rglob("*")):
        time.sleep(0.001)
    die()


def die_when_deleting(folder: Path, **options) -> None:
    if files := [path for path in folder.rglob("*") if path.is_file()]:
        files[0].unlink()
        die()


@eqx.filter_jit
def begin(optim) -> TrainState:
    model = eqx.nn.Linear(3, 2, key=jr.key(0))
    return TrainState.create(model, optim, use_ema=True, key=jr.key(1))


def train(folder: Path, num_steps: int, point: str | None) -> None:
    """Train to the end, from wherever the last process has got to."""
    jax.config.update("jax_disable_most_optimizations", True)  # they take the longest
    if point is not None:
        die_in_save(point)
    optim = optax.adam(0.01)
    state = begin(optim)
    checkpoints = Checkpoints(folder / "checkpoints", keep=KEEP)
    if checkpoints.steps():
        state = checkpoints.restore(state)
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("a", buffering=1)
    print("begin", int(state.step), file=log)

    def loss(model, batch, key):
        noise = 0.1 * jr.normal(key, batch.shape)
        return jnp.mean((jax.vmap(model)(batch + noise) - batch[:, :2]) ** 2), None

    batch = jax.jit(lambda step: jr.normal(jr.fold_in(jr.key(2), step), (13, 3)))

    def batch_at(step):
        print("reached", int(step), file=log)
        return batch(step)

    options = {"num_steps": num_steps, "report_every": num_steps}
    options |= {"checkpoints": checkpoints, "checkpoint_every": EVERY}
    *_, last = run(make_step(loss, optim), state, batch_at, **options)
    print("digest", digest(last.state), file=log)


def digest(state: TrainState) -> str:
    state = state._replace(key=jr.key_data(state.key))
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()


def lines(folder: Path, word: str) -> list[str]:
    """What the processes of a run have said of one kind, the last one last."""
    log = folder / "log"
    said = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in said if line.startswith(f"{word} ")]
