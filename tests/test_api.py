"""The public API is the recorded one, documented, and each name on one page."""

import re
import subprocess
import sys
from difflib import unified_diff

import griffe
import pytest

from tests.api import (
    members,
    names,
    namespaces,
    package,
    public,
    RECORD,
    record,
    ROOT,
    written,
)


PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


@pytest.fixture(scope="module")
def eqx_slots():
    return package()


def test_public_api_is_the_recorded_one():
    was, now = RECORD.read_text().splitlines(), record().splitlines()
    changed = [line for line in unified_diff(was, now, n=0) if line[0] in "+-"][2:]
    assert not changed, (
        "The public API is not that of tests/api.txt. If this is meant, run `python -m"
        " tests.api`; what users have to change goes into CHANGELOG.md:\n"
        + "\n".join(changed)
    )


def documented(page, namespaces_by_path, every):
    """Public names that a page asks for; a module stands for all that it holds."""
    found = []
    for path in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
        if path in namespaces_by_path:
            found += [f"{path}.{name}" for name in public(namespaces_by_path[path])]
        else:
            found.append(path)
    return [path for path in found if path in every]


def test_every_public_name_is_on_exactly_one_page(eqx_slots):
    every = names(eqx_slots)
    spaces = {space.path: space for space in namespaces(eqx_slots)}
    found = [name for page in PAGES for name in documented(page, spaces, every)]
    assert sorted(found) == sorted(every)


def test_every_public_name_says_what_it_is(eqx_slots):
    silent = [space.path for space in namespaces(eqx_slots) if not space.docstring]
    for path, member in names(eqx_slots).items():
        parts = {path: member}
        if member.is_class:
            parts |= {f"{path}.{name}": it for name, it in members(member).items()}
        for name, part in parts.items():
            field = part.is_attribute and part.parent.is_class
            # What a dataclass makes of its fields stands in no file.
            made = name.endswith(".__init__") and "dataclass" in member.labels
            if not (part.docstring or field or made):
                silent.append(name)
    assert silent == []


def test_docstrings_cover_every_file_with_public_names(eqx_slots):
    files = sorted({str(member.filepath) for member in names(eqx_slots).values()})
    command = [sys.executable, "-m", "interrogate", "--config", "pyproject.toml", "-vv"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    missed = [line for line in done.stdout.splitlines() if "MISSED" in line]
    assert done.returncode == 0, "\n".join(missed) or done.stderr


def test_signatures_are_written_in_full(tmp_path):
    (tmp_path / "m.py").write_text(
        "class A(B):\n"
        "    size: int = 3\n"
        "    @property\n"
        "    def width(self) -> int: ...\n"
        "    def f(self, a, /, b: int, *, c: str = 'x') -> str: ...\n"
        "    @classmethod\n"
        "    def g(cls, *a, **b): ...\n"
        "class C:\n"
        "    def __init__(self, d): self.d: int = d\n"
    )
    module = griffe.load("m", search_paths=[tmp_path])
    lines = [
        written(f"m.{name}.{part}", member)
        for name in ("A", "C")
        for part, member in members(module[name]).items()
    ]
    assert lines == [
        "m.A.size: int = 3",
        "m.A.width: int",
        "m.A.f(a, /, b: int, *, c: str = 'x') -> str",
        "m.A.g(*a, **b)",
        "m.C.__init__(d)",
        "m.C.d: int",
    ]
    assert written("m.A", module["A"]) == "m.A: class of B"
