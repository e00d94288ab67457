"""Peers that are measured side by side: each in a process of its own, in turns.

Libraries bring thread pools and allocators of their own, which disturb each other in
one process. A worker waits for a line on its standard input, does that once, and writes
what it measured.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[2]


class Worker:
    """A process that runs `module` as `python -m module --worker name folder`."""

    def __init__(self, module: str, name: str, folder: Path, **environment: str):
        command = [sys.executable, "-m", module, "--worker", name, str(folder)]
        self.errors = open(folder / f"{name}.log", "w")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, *words: str) -> Any:
        print(*words, file=self.process.stdin, flush=True)
        # A library may have written lines of its own.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)["answer"]
        raise RuntimeError(f"The worker died; see {self.errors.name}.")

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def serve(answers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer each line, a name and its arguments, until there are none."""
    for line in sys.stdin:
        name, *words = line.split()
        print(json.dumps({"answer": answers[name](*words)}), flush=True)


def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


# For workers that measure memory: what is freed goes back to the system at once.
NOTHING_KEPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_megabytes(call: Callable[[], Any]) -> float:
    """How much more memory the process holds at most while it makes a call (Linux).

    Includes what the call gives back.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    call()
    return (_status("VmHWM") - before) / 1e3


def page_faults(call: Callable[[], Any]) -> int:
    """How many pages of memory the system has to hand over, and clear, for a call."""
    count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = count()
    call()
    return count() - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)
