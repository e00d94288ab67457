"""A run that is killed again and again ends with the bits of one that is not.

    python -m tests.kill

A small model is trained with a checkpoint every few steps. Its process is killed
(SIGKILL) at random moments and at every point of a save, and a new one goes on from
the last checkpoint, until the run is done. The table says where each was killed and
how many steps had to be made again: never more than from one checkpoint to the next.
"""

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from .killed import EVERY, lines, SAVE_POINTS, train


class Death(NamedTuple):
    """Where a process was killed, in which step or in the save after it, and how many
    steps were lost by that, this one included."""

    where: str
    step: int
    lost: int


def start(folder: Path, num_steps: int, point: str | None = None):
    # Forked from a process that has imported everything and begun nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])
    process = context.Process(target=train, args=(folder, num_steps, point))
    process.start()
    return process


def whole(folder: Path, num_steps: int) -> str:
    """The digest of the last state of a run that nothing happens to."""
    process = start(folder, num_steps)
    process.join()
    assert process.exitcode == 0
    return lines(folder, "digest")[-1]


def killed(folder: Path, num_steps: int, kills: list[tuple[str, float | str]]):
    """The digest of a run that is killed at moments and at points of a save, and what
    each kill cost."""
    steps = []
    for _, what in kills:
        before = len(lines(folder, "reached"))
        process = start(folder, num_steps, what if isinstance(what, str) else None)
        if isinstance(what, float):
            # The first step, which is compiled, takes longer than all others together.
            while len(lines(folder, "reached")) < before + 2 and process.is_alive():
                time.sleep(0.01)
            time.sleep(what)
            process.kill()
        process.join()
        code = process.exitcode
        assert code == -signal.SIGKILL, f"ended with {code} before it could be killed"
        steps.append(1 + int(lines(folder, "reached")[-1]))
    got = whole(folder, num_steps)
    # What was lost shows when the next process begins.
    begun = [int(step) for step in lines(folder, "begin")[1:]]
    where = [name for name, _ in kills]
    return got, [Death(w, s, s - b) for w, s, b in zip(where, steps, begun)]


def report(num_moments: int, num_steps: int, seed: int) -> None:
    rng = random.Random(seed)
    moments = [rng.uniform(0, 1.5) for _ in range(num_moments)]
    kills = [(f"{moment:.2f} s after its first step", moment) for moment in moments]
    with tempfile.TemporaryDirectory() as name:
        want = whole(Path(name, "whole"), num_steps)
        kills += SAVE_POINTS.items()
        got, deaths = killed(Path(name, "killed"), num_steps, kills)
    print(f"{'killed':<32}{'in step':>8}{'steps lost':>12}")
    for death in deaths:
        print(f"{death.where:<32}{death.step:>8}{death.lost:>12}")
    print(f"{len(deaths)} kills, at most {max(d.lost for d in deaths)} steps lost")
    print(f"{num_steps} steps in one go  sha256 {want}")
    print(f"killed and resumed  sha256 {got}")
    assert got == want, "the two ended with other bits"
    assert all(death.lost <= EVERY for death in deaths), "too much was lost"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="at random moments")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report(arguments.kills, arguments.steps, arguments.seed)
