"""The site built by both builders, and what has to be in it.

`python -m tests.site FOLDER` builds it into FOLDER/mkdocs and FOLDER/zensical, FOLDER
being new; a warning is an error. `tests/browser.py` then looks as a reader does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from tests.api import names, package


ROOT = Path(__file__).parents[1]
SOURCES = (
    "mkdocs.yml",
    "docs",
    "eqx_slots",
    "examples",
    "CHANGELOG.md",
    "CITATION.cff",
)
QUIET = "No issues found"  # what Zensical says when it has nothing to warn of


def build(folder: Path) -> dict[str, Path]:
    """Both sites, from a copy of the sources: Zensical builds inside of its project."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    sites = {}
    for builder in ("mkdocs", "zensical"):
        command = [sys.executable, "-m", builder, "build", "--strict"]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(
            command, cwd=source, env=environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        if done.returncode or "WARNING" in said:
            raise SystemExit(f"{said}\n{builder} does not build the site.")
        if builder == "zensical" and QUIET not in said:
            raise SystemExit(f"{said}\nzensical has warnings.")
        sites[builder] = (source / "site").rename(folder / builder)
    return sites


@dataclass
class Page(HTMLParser):
    """What a page of a built site holds."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    headings: list[int] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # for readers to follow
    loaded: list[str] = field(default_factory=list)  # by the browser, with the page
    pictures: list[tuple[str, str]] = field(default_factory=list)
    formulas: int = 0

    def __post_init__(self):
        super().__init__()
        self.text = self.path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        of = {name: value or "" for name, value in attrs}
        self.anchors |= {of[name] for name in ("id", "name") if name in of}
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        if tag in ("img", "script", "source", "video") and "src" in of:
            self.loaded.append(of["src"])
        if tag == "link" and of.get("rel") != "canonical":
            self.loaded.append(of["href"])
        if tag == "img":
            self.pictures.append((of["src"], of.get("alt", "")))
        self.formulas += tag == "math"


def read(site: Path) -> dict[str, Page]:
    """All pages, by their address below the root of the site."""
    paths = sorted(site.rglob("*.html"))
    address = lambda path: f"/{path.relative_to(site)}".removesuffix("index.html")
    return {address(path): Page(path) for path in paths}


def navigation() -> list[str]:
    """Addresses of the pages in the navigation."""
    found = re.findall(r"^ +- .*: (\S+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.M)
    return [f"/{name}/".replace("/index/", "/") for name in found]


def faults(site: Path) -> list[str]:
    """What is wrong with a built site, a sentence each."""
    pages, found = read(site), []
    for address, page in pages.items():
        found += [f"{address}: {fault}" for fault in faults_of_page(page)]
        where = f"http://site{address}"
        for link in [*page.links, *page.loaded]:
            to = urlsplit(urljoin(where, link))
            if to.netloc != "site":
                if link in page.loaded:
                    found.append(f"{address}: loads {link} from elsewhere")
                continue
            path = unquote(to.path)
            if path not in pages and not (site / path.lstrip("/")).is_file():
                found.append(f"{address}: {link} leads nowhere")
            elif to.fragment and path in pages:
                if unquote(to.fragment) not in pages[path].anchors | {"__search"}:
                    found.append(f"{address}: {link} has no such place")
    found += [f"{page} is not built" for page in navigation() if page not in pages]
    return found + content_faults(site, pages)


def faults_of_page(page: Page) -> list[str]:
    found = [f"picture {src} has no text" for src, alt in page.pictures if not alt]
    if page.headings.count(1) != 1 or page.headings[0] != 1:
        found.append(f"not one heading at its top: {page.headings}")
    steps = zip(page.headings, page.headings[1:])
    found += [f"heading {b} below heading {a}" for a, b in steps if b > a + 1]
    for mark in ('class="arithmatex"', "--8&lt;--", "--8<--"):
        if mark in page.text:
            found.append(f"{mark} is left as it was")
    return found


def content_faults(site: Path, pages: dict[str, Page]) -> list[str]:
    """What readers would miss: public names, formulas, code, and the search for it."""
    found = []
    for name in names(package()):
        on = [address for address, page in pages.items() if name in page.anchors]
        if len(on) != 1:
            found.append(f"{name} is on {len(on)} pages: {', '.join(on) or 'none'}")
    for address in ("/algorithm/", "/performance/"):
        if not pages[address].formulas:
            found.append(f"{address} has no formula")
    code = re.sub("<[^>]*>", "", pages["/examples/"].text)
    if "import equinox" not in code:
        found.append("/examples/ has no code of the examples")
    index = site / "search" / "search_index.json"  # of MkDocs
    index = index if index.exists() else site / "search.json"
    index = json.loads(index.read_text())
    entries = index.get("docs") or index["items"]
    if not any("SlotAttention" in entry["title"] for entry in entries):
        found.append("the search does not know SlotAttention")
    return found


def main(folder: Path) -> None:
    failed = False
    for builder, site in build(folder).items():
        found = faults(site)
        failed |= bool(found)
        print(*found, f"{builder}: {len(read(site))} pages", sep="\n")
    sys.exit(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
