"""The built site in a real browser, at the width of a desktop and of a phone.

`python -m tests.browser SITE ... [--screenshots FOLDER]` serves each on loopback and
opens every page in headless Chromium: nothing fails, nothing is asked of elsewhere,
nothing is wider than the screen. It says in one line that there is no Chromium.
"""

import argparse
import functools
import shutil
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

from tests.site import read


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SCREENS = {  # width, height, colours
    "desktop": (1280, 900, "light"),
    "phone": (390, 844, "dark"),
    "desktop-dark": (1280, 900, "dark"),
    "phone-light": (390, 844, "light"),
}
LOOKED_AT = ("desktop", "phone")  # colours move nothing
LARGEST = 1_000_000  # bytes of a page with all that it loads
PATIENCE = 120_000  # milliseconds, for slow machines

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


@contextmanager
def served(site):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

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

    def __init__(self, browser, root):
        self.context = browser.new_context()
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
        self.show("desktop")
        self.tab.goto(self.root + address, wait_until="networkidle")
        self.tab.evaluate(LOAD_ALL)
        if self.bytes > LARGEST:
            self.faults.append(f"{self.bytes / 1e6:.2f} MB")

    def show(self, screen):
        width, height, colours = SCREENS[screen]
        self.tab.set_viewport_size({"width": width, "height": height})
        self.tab.emulate_media(color_scheme=colours)


def search_faults(browser, root):
    """The first thing that a search for SlotAttention finds is the layer."""
    with Watched(browser, root) as watched:
        watched.open("/")
        watched.tab.keyboard.press("s")
        watched.tab.keyboard.type("SlotAttention", delay=20)
        first = watched.tab.locator(".md-search-result__link").first
        first.wait_for()
        found = first.get_attribute("href") or ""
        if not found.split("?")[0].endswith("api/nn/"):
            watched.faults.append(f"the first of the results is {found}")
        return [f"search: {fault}" for fault in watched.faults]


def photograph(watched, path, screen):
    watched.show(screen)
    watched.tab.screenshot(path=f"{path}.{screen}.png", full_page=True)


def look(site, executable, only="", screenshots=None):
    """What is wrong, a sentence each, and the heaviest page."""
    found, heaviest = [], (0, "")
    with served(site) as root, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        for address in read(site):
            if only not in address:
                continue
            with Watched(browser, root) as watched:
                watched.open(address)
                for screen in LOOKED_AT:
                    watched.show(screen)
                    laid_out = watched.tab.evaluate(LOOK)
                    watched.faults += [f"{screen}: {fault}" for fault in laid_out]
                found += [f"{address} {fault}" for fault in watched.faults]
                heaviest = max(heaviest, (watched.bytes, address))
                name = address.strip("/").replace("/", "-") or "index"
                for screen in SCREENS if screenshots else ():
                    photograph(watched, screenshots / name, screen)
        found += search_faults(browser, root)
        browser.close()
    return found, heaviest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sites", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="pages with this in their address")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all")
    arguments = parser.parse_args()
    executable = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if executable is None:
        print("There is no Chromium here: the pages were not looked at in a browser.")
        return
    failed = False
    for site in arguments.sites:
        found, (weight, page) = look(
            site, executable, arguments.only, arguments.screenshots
        )
        failed |= bool(found)
        heaviest = f"the heaviest page, {page}, has {weight / 1e6:.2f} MB"
        print(*found, f"{site.name}: {len(found)} faults; {heaviest}", sep="\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
