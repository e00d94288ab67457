"""Memory that a step has freed is kept for the next one, where that is possible."""

import ctypes
import subprocess
import sys

import pytest

from eqx_slots.training import _memory, keep_memory


# Faults of pages of a program that takes more than 64 MB for a moment.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from eqx_slots import training

kept = sys.argv[1] == "kept" and training.keep_memory()
f = jax.jit(lambda x: jnp.sum(jnp.sort(x * jnp.arange(2**22, dtype=x.dtype))[::999]))
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    f(jnp.float32(1)).block_until_ready()
before = count()
for _ in range(3):
    f(jnp.float32(1)).block_until_ready()
print(kept, count() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for glibc")
def test_pages_are_cleared_once():
    found = {}
    for name in ("kept", "not"):
        command = [sys.executable, "-c", FAULTS, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        found[name] = int(count)
        if name == "kept" and kept == "False":
            pytest.skip("the C library has no such option")
    assert found["not"] > 3 * 2**26 / 4096  # of each call at least 64 MB, page by page
    assert found["kept"] < 0.2 * found["not"]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(_memory.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert not keep_memory()


class Library:
    """A C library; `mallopt` says 1 where it does what it is told."""

    def __init__(self, answers):
        self.told = []
        if answers is not None:
            self.mallopt = lambda *options: self.told.append(options) or answers


@pytest.mark.parametrize(("answers", "kept"), [(None, False), (0, False), (1, True)])
def test_what_the_library_says_is_said(monkeypatch, answers, kept):
    library = Library(answers)
    monkeypatch.setattr(_memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_memory() is kept
    if answers is not None:
        assert library.told == [(-1, 2**30), (-3, 2**30), (-8, 1)]
