"""The floor plan: data flows down, and a file imports only from rooms above its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[1] / "eqx_slots"

# From the ground up; a room may use those before it. `training` knows nothing of slots.
ROOMS = {
    "_misc": (),
    "_matching": ("_misc",),
    "convolution": ("_misc",),
    "nn": ("_misc", "convolution"),
    "properties": ("_misc",),
    "models": ("_misc", "convolution", "nn", "properties"),
    "data": ("_misc", "properties"),
    "losses": ("_misc", "_matching", "properties"),
    "metrics": ("_misc", "_matching", "properties"),
    "diagnostics": ("_misc", "models"),
    "training": ("_misc",),
    "viz": ("_misc",),
    "serialisation": ("_misc", "models"),
    "interop": ("_misc", "nn", "models"),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it."""
    here = ("eqx_slots", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            parts = (*base, *(node.module or "").split("."))
            parts = [part for part in parts if part]
            names = [[*parts, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "eqx_slots" and name[1:]}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_up(path):
    room = room_of(path)
    assert room in ROOMS, f"`{room}` is not in the floor plan"
    assert imported_rooms(path) <= {room, *ROOMS[room]}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_hold_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


def test_importing_the_package_imports_no_extra():
    extras = (
        "tyro rich matplotlib PIL safetensors hypothesis pytest sklearn scipy.stats"
        " torch flax tensorflow orbax mkdocs grain array_record pycocotools"
    ).split()
    code = f"import sys, eqx_slots; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
