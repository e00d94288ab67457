"""What README and documentation show is run, and every public name has its page."""

import re
from pathlib import Path

import pytest

import eqx_slots


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return [code for code in found if "--8<--" not in code]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if snippets(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_snippets_run_and_print_what_they_say(page, capsys):
    names = {}
    for code in snippets(page):
        exec(compile(code, str(page), "exec"), names)
        promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.M)
        assert capsys.readouterr().out.splitlines() == promised


def test_readme_is_short_and_shows_code_early():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 90
    assert lines.index("```python") < 25


ROOMS = (
    "nn",
    "properties",
    "models",
    "data",
    "training",
    "losses",
    "metrics",
    "diagnostics",
    "viz",
    "interop",
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room):
    module = getattr(eqx_slots, room)
    page = (ROOT / "docs" / "api" / f"{room}.md").read_text()
    whole = f"::: eqx_slots.{room}\n" in page
    for name, value in vars(module).items():
        public = getattr(value, "__module__", "").startswith("eqx_slots")
        if name.startswith("_") or not (public or name in ("blocks", "presets")):
            continue
        assert whole or f"::: eqx_slots.{room}.{name}" in page, name
        assert getattr(value, "__doc__", None), name


def test_no_placeholder_is_left():
    for page in [*PAGES, *(ROOT / "examples").glob("*.py")]:
        assert not re.findall(r"^@[A-Z]+@", page.read_text(), re.M), page


def test_version_stands_in_one_place():
    assert eqx_slots.__version__ in (ROOT / "pyproject.toml").read_text()
    assert eqx_slots.__version__ in (ROOT / "CITATION.cff").read_text()
