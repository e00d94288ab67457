"""What README and documentation show is run, and what they link to is there."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import eqx_slots


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, *(page for page in sorted(ROOT.glob("*.md")) if page not in PAGES)]


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


def links(page: Path) -> list[str]:
    """What a page links to or shows, without what stands in code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)|<(https?:[^>]+)>", text)


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_well_formed_and_lead_somewhere(page):
    for inline, bare in links(page):
        link = urlsplit(inline or bare)
        if link.scheme:
            assert link.scheme == "https", f"{link.geturl()} is not https"
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", link.netloc), (
                link.geturl()
            )
            continue
        target = (page.parent / unquote(link.path)) if link.path else page
        assert target.exists(), f"{link.geturl()} leads nowhere"
        if link.fragment and page.parent == ROOT:  # the builders see to the others
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert link.fragment in map(slug, headings), link.geturl()


def test_no_placeholder_is_left():
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "examples").glob("*.py")]:
        assert not re.findall(r"@[A-Za-z_.]+@", page.read_text()), page


def test_version_stands_in_one_place():
    assert eqx_slots.__version__ in (ROOT / "pyproject.toml").read_text()
    assert eqx_slots.__version__ in (ROOT / "CITATION.cff").read_text()
