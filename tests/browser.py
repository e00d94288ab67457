"""The built site in a real browser, at the width of a desktop and of a phone.

`python -m tests.browser SITE ... [--screenshots FOLDER]` serves each on loopback and
opens every page in headless Chromium: nothing fails, nothing is asked of elsewhere,
nothing is wider than the screen. It says in one line that there is no Chromium.
"""

import argparse
import functools
import gzip
import re
import shutil
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

from tests.site import read


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SCREENS = {  # width, height, colours
    "desktop": (1280, 900, "light"),
    "phone": (390, 844, "dark"),
    "desktop-dark": (1280, 900, "dark"),
    "phone-light": (390, 844, "light"),
}
LOOKED_AT = ("desktop", "phone")  # colours move nothing
LARGEST = 1_000_000  # bytes of a page with all that it loads, as they are sent
TEXT = (".css", ".html", ".js", ".json", ".svg")
PATIENCE = 60_000  # milliseconds, for slow machines

# What only the browser knows of the page that it has laid out.
LOOK = """() => {
  const faults = [], width = window.innerWidth;
  const name = e => `${e.localName}.${e.className.baseVal ?? e.className} ` +
    `"${e.textContent.trim().slice(0, 30)}"`;
  const scrolls = e => e && e !== document.body &&
    (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
  if (document.documentElement.scrollWidth > width)
    faults.push(`scrolls sideways: ${document.documentElement.scrollWidth} px wide`);
  for (const e of document.querySelectorAll("article *")) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && box.right > width + 1 && !scrolls(e.parentElement))
      faults.push(`is cut off at the right: ${name(e)}`);
  }
  for (const e of document.querySelectorAll("math")) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && !(box.width > 0 && box.height > 0))
      faults.push(`formula without a size: ${name(e)}`);
  }
  for (const e of document.querySelectorAll("article img")) {
    if (!(e.complete && e.naturalWidth > 0)) faults.push(`no picture: ${e.src}`);
    else if (e.checkVisibility() && !e.width) faults.push(`flat picture: ${e.src}`);
  }
  return faults;
}"""
# Pictures below the fold are loaded too, and count.
LOAD_ALL = """() => Promise.all([...document.images].map(e => {
  e.loading = "eager";
  return e.decode().catch(() => null);
}))"""


def chromium():
    """The browser of this machine, or None."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as hosts do: text is compressed on its way."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in TEXT or not path.is_file():
            return super().do_GET()
        body = gzip.compress(path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(site):
    handler = functools.partial(Handler, directory=site)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Watched:
    """A fresh tab, without a cache, and what went wrong in it."""

    def __init__(self, browser, root, screen):
        width, height, colours = SCREENS[screen]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=colours
        )
        self.context.set_default_timeout(PATIENCE)
        self.tab, self.root = self.context.new_page(), root
        self.faults, self.bytes = [], 0
        self.context.on("request", self.asked)
        self.context.on("requestfailed", self.failed)
        self.context.on("response", self.answered)
        self.context.on("console", self.said)
        self.context.on("weberror", lambda it: self.faults.append(f"error {it.error}"))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.context.close()

    def asked(self, request):
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss"):
            if not request.url.startswith(self.root):
                self.faults.append(f"asks elsewhere: {request.url}")

    def failed(self, request):
        self.faults.append(f"request fails: {request.url} {request.failure}")

    def answered(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")
        self.bytes += int(response.headers.get("content-length", 0))

    def said(self, message):
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def open(self, address):
        self.tab.goto(self.root + address, wait_until="networkidle")
        self.tab.evaluate(LOAD_ALL)


def search_faults(browser, root):
    """The first thing that a search for SlotAttention finds is the layer."""
    with Watched(browser, root, "desktop") as watched:
        watched.open("/")
        watched.tab.locator(".md-search__button, input.md-search__input").first.click()
        watched.tab.keyboard.type("SlotAttention", delay=20)
        first = watched.tab.locator('a[href*="?h="]').first
        try:
            layer = re.compile(r"/api/nn/\?h=SlotAttention", flags=re.IGNORECASE)
            expect(first).to_have_attribute("href", layer, timeout=PATIENCE)
        except AssertionError:
            found = first.get_attribute("href") if first.count() else "nothing"
            watched.faults.append(f"SlotAttention is not found first, but {found}")
        return [f"search: {fault}" for fault in watched.faults]


def look(site, executable, only="", screenshots=None):
    """What is wrong, a sentence each, and the heaviest page."""
    found, heaviest = [], (0, "")
    with served(site) as root, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        for address in filter(lambda it: only in it, read(site)):
            for screen in SCREENS if screenshots else LOOKED_AT:
                with Watched(browser, root, screen) as watched:
                    watched.open(address)
                    watched.faults += watched.tab.evaluate(LOOK)
                    if watched.bytes > LARGEST:
                        watched.faults.append(f"{watched.bytes / 1e6:.2f} MB")
                    found += [f"{address} {screen}: {it}" for it in watched.faults]
                    heaviest = max(heaviest, (watched.bytes, address))
                    if screenshots:
                        name = address.strip("/").replace("/", "-") or "index"
                        path = screenshots / f"{name}.{screen}.png"
                        watched.tab.screenshot(path=path, full_page=True)
        found += search_faults(browser, root)
        browser.close()
    return found, heaviest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sites", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="pages with this in their address")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all")
    arguments = parser.parse_args()
    if (executable := chromium()) is None:
        print("There is no Chromium here: the pages were not looked at in a browser.")
        return
    failed = False
    for site in arguments.sites:
        if not read(site):
            raise SystemExit(f"There are no pages in {site}.")
        found, (weight, page) = look(
            site, executable, arguments.only, arguments.screenshots
        )
        failed |= bool(found)
        heaviest = f"the heaviest page, {page}, has {weight / 1e6:.2f} MB"
        print(*found, f"{site.name}: {len(found)} faults; {heaviest}", sep="\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
