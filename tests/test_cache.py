"""Compiled programs are kept from one start to the next, where that is possible."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from eqx_slots import training


NAMES = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def without_a_cache(monkeypatch):
    """A process where nobody has said anything, and nothing is left of it after."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    for name in ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_something(number):
    jax.jit(lambda x: x * number)(jnp.ones(3))


def test_programs_are_kept_even_where_some_were_compiled_before(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "before"))
    compile_something(3)
    folder = tmp_path / "made" / "here"
    assert training.use_compilation_cache(str(folder)) == folder
    assert 0 < jax.config.jax_persistent_cache_min_compile_time_secs < 1
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compile_something(5)
    kept = [path.name for path in folder.glob("jit__lambda*-cache")]
    assert len(kept) == 1
    assert folder.stat().st_mode & 0o077 == 0  # programs are run: nobody else's
    jax.clear_caches()
    compile_something(5)
    assert [path.name for path in folder.glob("jit__lambda*-cache")] == kept


def test_the_folder_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    want = tmp_path / ".cache" / "eqx_slots"
    assert training.use_compilation_cache() == want
    assert jax.config.jax_compilation_cache_dir == str(want)


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert training.use_compilation_cache() == tmp_path / "eqx_slots"


def test_what_jax_was_told_before_stands(monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    name = "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.setenv(name.upper(), "7")
    jax.config.update(name, 7.0)
    assert training.use_compilation_cache() == tmp_path / "told"
    assert getattr(jax.config, name) == 7.0
    assert training.use_compilation_cache(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize("is_told", [True, False])
def test_a_storage_elsewhere_is_left_to_jax(is_told):
    told = None if is_told else "gs://bucket/here"
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/here")
    assert training.use_compilation_cache(told) is None
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/here"
    jax.config.update("jax_compilation_cache_dir", None)


def test_the_way_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    assert training.use_compilation_cache(tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written_to_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    assert training.use_compilation_cache(tmp_path / "file" / "cache") is None
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *args: False)
        assert training.use_compilation_cache(tmp_path) is None

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert training.use_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None
