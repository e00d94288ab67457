"""Every public class and function shows how it is used, and what it shows is run."""

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import eqx_slots

from .api import namespaces, package


# Modules that users import from; rooms such as `convolution` are for the others.
OFFERED = {space.path for space in namespaces(package())}
# Whose docstring shows these too: parts that say little alone, in files without room.
SHOWN_BY = {
    "metrics.Clip": "metrics.whole_clip",
    "metrics.Matched": "metrics.match_slots",
    "metrics.Score": "metrics.adjusted_rand_index",
    "metrics.mean": "metrics.adjusted_rand_index",
    "metrics.mean_best_overlap": "metrics.mean_iou",
    "metrics.soft_mean_iou": "metrics.soft_mean_best_overlap",
    "properties.Categorical": "properties.Properties",
    "properties.Continuous": "properties.Properties",
    "properties.Presence": "properties.Properties",
}
WITHOUT = {
    "training.join_processes": "needs a second process, and to be called before JAX",
}


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module offers, by the name under which the documentation has it."""
    for name, value in vars(module).items():
        where = getattr(value, "__module__", None) or getattr(value, "__name__", "")
        if name.startswith("_") or not where.startswith("eqx_slots"):
            continue
        if inspect.ismodule(value) and hasattr(module, "__path__"):
            if value.__name__ in OFFERED:
                yield from members(value)
        elif inspect.isclass(value) or inspect.isfunction(value):
            # An `__init__` exports all that is in it; what a file imports, it does not.
            if hasattr(module, "__path__") or where == module.__name__:
                full = f"{module.__name__}.{name}".removeprefix("eqx_slots.")
                yield full, value


PUBLIC = dict(pair for pair in members(eqx_slots) if "." in pair[0])


def docstrings(value: Any) -> Iterator[str]:
    """That of a class or function, and those of the methods of a class."""
    yield inspect.getdoc(value) or ""
    if inspect.isclass(value):
        for name, method in vars(value).items():
            if not name.startswith("_"):
                yield inspect.getdoc(method) or ""


def examples(value: Any) -> list[str]:
    found = re.compile(r"^\*\*Example:\*\*\n\n```python\n(.*?)^```$", re.M | re.S)
    return [code for text in docstrings(value) for code in found.findall(text)]


def test_nothing_public_is_overlooked():
    for name in ("nn.SlotAttention", "losses.huber", "data.blocks.scene", "viz.grid"):
        assert name in PUBLIC
    assert "models.presets.clevr" in PUBLIC
    assert "losses.match" not in PUBLIC  # is imported there
    assert {name.split(".")[0] for name in PUBLIC} == {
        *("data", "diagnostics", "interop", "losses", "metrics", "models", "nn"),
        *("properties", "serialisation", "training", "viz"),
    }


def is_result(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, tuple)


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_has_an_example(name):
    value = PUBLIC[name]
    text = inspect.getdoc(value)
    assert text
    # No other blocks of Python, which nobody would run.
    assert sum(text.count("```python") for text in docstrings(value)) == len(
        examples(value)
    )
    if name in WITHOUT:
        assert not examples(value)
        return
    shown = examples(PUBLIC[SHOWN_BY.get(name, name)])
    assert shown
    assert (name in SHOWN_BY) != bool(examples(value))
    if not is_result(value):  # whose name nobody has to write
        short = name.rpartition(".")[2]
        assert any(re.search(rf"\b{short}\b", code) for code in shown)


@pytest.fixture
def as_on_a_new_machine(monkeypatch, tmp_path):
    """In an empty folder, and with JAX's cache as it was before."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "caches").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    for name in ("here", "temporary"):
        assert not list((tmp_path / name).iterdir()), "something is left on the disk"


@pytest.mark.usefixtures("as_users_run", "as_on_a_new_machine")
@pytest.mark.parametrize("name", [name for name in PUBLIC if examples(PUBLIC[name])])
def test_examples_run_and_print_what_they_say(name, capsys):
    for code in examples(PUBLIC[name]):
        assert max(map(len, code.splitlines())) <= 84
        exec(compile(code, name, "exec"), {})
        promised = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)
        assert capsys.readouterr().out.splitlines() == promised
