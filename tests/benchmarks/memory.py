"""What `training.keep_memory` saves of a training step, on Linux.

    pip install -e ".[dev]" && taskset -c 0 python -m tests.benchmarks.memory

The gradient of the default example's loss, 32 images and seven slots, in a process with
it and in one without: CPU time, that of it which the system takes, and the pages that
the system hands over, a call.
"""

import os
import statistics
import subprocess
import sys

import equinox as eqx
import jax
import jax.random as jr

from eqx_slots import training

from .example import example, last_batch
from .turns import page_faults


def measure(calls: int = 15) -> str:
    """A row of the table, of this process."""
    arguments = example.Arguments(num_slots=7)
    make = eqx.filter_jit(arguments.recipe.make)
    model = make(**arguments.built_with, key=jr.key(0))
    batch = last_batch(arguments)
    gradient = eqx.filter_jit(eqx.filter_grad(example.loss, has_aux=True))
    call = lambda: jax.block_until_ready(gradient(model, batch, jr.key(2)))
    call()
    user, system, pages = [], [], []
    for _ in range(calls):
        before = os.times()
        pages.append(page_faults(call))
        after = os.times()
        user.append(after.user - before.user)
        system.append(after.system - before.system)
    in_system = 1e3 * statistics.fmean(system)
    total = 1e3 * statistics.fmean(user) + in_system
    return f"{total:.0f} | {in_system:.0f} | {statistics.median(pages):,.0f} |"


def main() -> None:
    print("| | CPU time, ms | of it in the system, ms | pages |", flush=True)
    print("| --- | --- | --- | --- |", flush=True)
    for name, option in (("as it is", "no"), ("`keep_memory()`", "keep")):
        command = [sys.executable, "-m", "tests.benchmarks.memory", option]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"| {name} | {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["keep"]:
        training.keep_memory()
    print(measure()) if sys.argv[1:] else main()
