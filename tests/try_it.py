"""The page on which slots compete live, in a real browser.

`python -m tests.try_it SITE [--picture FILE]` opens it in headless Chromium: what its
JavaScript computes is what JAX does, all its controls act, nothing is asked of
elsewhere, and without JavaScript there is a picture, which `--picture` draws anew. It
prints what a frame takes with the CPU throttled four times, and says in one line that
there is no Chromium.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from playwright.sync_api import sync_playwright

from eqx_slots.data import blocks
from eqx_slots.models import pretrained
from tests.browser import chromium, LARGEST, served, Watched


SCENES, FRAMES = 20, 15
CLOSE = 1e-3
CASES = ((3, None), (1, None), (3, 6), (2, 0))  # rounds, and the slot that is off
SCRIPTS = Path(__file__).parents[1] / "docs" / "javascripts"
LINES = 400  # of both scripts together

COMPUTE = """async ([images, rounds, off]) => {
  const slots = await import(new URL("../javascripts/slots.js", location.href));
  const file = await fetch(new URL("../javascripts/blocks.eqx", location.href));
  const model = slots.modelFrom(await file.arrayBuffer());
  const begin = model.slots.filter((_, at) => Math.floor(at / 64) !== off);
  return images.map(image => {
    const inputs = slots.encode(model, Float32Array.from(image));
    const found = slots.slotAttention(model.slotAttention, inputs, begin, rounds);
    const made = slots.decode(model, found.slots);
    return [found.slots, found.attention, made.masks, made.image].map(it => [...it]);
  });
}"""
SEEN = """() => Array.from(document.querySelectorAll("#play canvas"),
  it => it.toDataURL())"""


def numbers_faults(tab):
    """Where page and JAX differ."""
    model, found = pretrained("blocks"), []
    images = 2 * jax.vmap(blocks.scene)(jr.split(jr.key(0), SCENES)).image - 1
    flat = np.asarray(rearrange(images, "b c h w -> b (h w c)")).tolist()
    for rounds, off in CASES:
        on = np.arange(7) != off
        options = {"num_iters": rounds, "slot_mask": jnp.asarray(on)}
        see = eqx.filter_jit(jax.vmap(partial(model, **options)))
        made = see(images)
        here = tab.evaluate(COMPUTE, [flat, rounds, -1 if off is None else off])
        image = rearrange(made.image, "b c h w -> b h w c")
        wanted = (made.slots[:, on], made.attention[:, on], made.masks[:, on], image)
        names = ("slots", "attention", "masks", "image")
        for name, theirs, ours in zip(names, zip(*here), wanted):
            worst = np.abs(np.asarray(theirs) - np.asarray(ours).reshape(SCENES, -1))
            if not worst.max() < CLOSE:
                found.append(f"{name}, {rounds} rounds, {off} off: {worst.max():.1e}")
    return found


def drag(tab, block, *path):
    """Take a block by its middle along a path, in pixels of the screen."""
    box = block.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    for right, down in path:
        tab.mouse.move(x + right, y + down)
    tab.mouse.up()


def settled(tab):
    """What all canvases show, after the frame that was asked for."""
    tab.evaluate("() => new Promise(go => requestAnimationFrame(() => setTimeout(go)))")
    return tab.evaluate(SEEN)


def control_faults(tab):
    """The controls that change nothing; numbers of canvases by what they show."""
    found, play = [], tab.locator("#play")
    named = lambda name: play.locator(f"[name={name}]")
    block = play.locator(".scene button").last
    middle = play.locator(".scene").bounding_box()["width"] / 2
    inward = lambda: [
        (middle if at < middle else -middle) / 3
        for at in block.evaluate("it => [it.offsetLeft, it.offsetTop]")
    ]
    acts = {
        "dragging": lambda: drag(tab, block, inward()),
        "arrow keys": lambda: (block.focus(), tab.keyboard.press(arrow())),
        "adding": named("add").click,
        "colouring": play.locator(".colours [aria-pressed=false]").first.click,
        "removing": named("remove").click,
        "one round": lambda: named("rounds").fill("1"),
        "switching off": play.locator("input[type=checkbox]").last.uncheck,
        "another scene": named("scene").click,
    }
    arrow = lambda: "ArrowLeft" if block.evaluate("it => it.offsetLeft") else "ArrowUp"
    for name, act in acts.items():
        before = settled(tab)
        act()
        after = settled(tab)
        changed = [a != b for a, b in zip(before, after)]
        # The scene itself, what is painted, and the cards.
        if not (changed[1] and any(changed[3:])):
            found.append(f"{name} changes nothing that the slots paint")
        if changed[0] == (name in ("one round", "switching off")):
            found.append(f"{name} is not seen in the scene as it should be")
    return found


def without_script(browser, root):
    """Readers without JavaScript see a picture, and no controls."""
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(root + "/try_it/")
    picture, controls = tab.locator("#play-picture"), tab.locator("#play")
    good = picture.is_visible() and controls.is_hidden()
    context.close()
    return [] if good else ["without JavaScript there is no picture"]


def speed(tab, cdp):
    """Milliseconds of a frame while a block is dragged, by the clock and of the CPU."""
    cdp.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    ticks = lambda: next(
        it["value"] * 1000
        for it in cdp.send("Performance.getMetrics")["metrics"]
        if it["name"] == "TaskDuration"
    )
    box = tab.locator("#play .scene button").last.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    clock, cpu = [], []
    for i in range(FRAMES):
        before = ticks()
        tab.mouse.move(box["x"] + 40 * (i % 2), box["y"] + 40 * (i // 2 % 2))
        tab.evaluate("() => new Promise(go => requestAnimationFrame(() => go()))")
        cpu.append(ticks() - before)
        clock.append(float(tab.locator("[name=time]").inner_text().split()[0]))
    tab.mouse.up()
    cdp.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    return statistics.median(clock), min(clock), statistics.median(cpu)


def look(site, executable, picture):
    found = []
    lines = sum(len(it.read_text().splitlines()) for it in SCRIPTS.glob("*.js"))
    if lines > LINES:
        found.append(f"the scripts have {lines} lines")
    with served(site) as root, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        with Watched(browser, root, "desktop") as watched:
            tab = watched.tab
            watched.open("/try_it/")
            tab.locator("#play").wait_for()
            weight = watched.bytes
            if not 250_000 < weight < LARGEST:
                found.append(f"{weight} bytes")
            if picture:
                tab.locator("#play .pictures").screenshot(path=picture)
            found += numbers_faults(tab) + control_faults(tab)
            clock, least, cpu = speed(tab, watched.context.new_cdp_session(tab))
            found += watched.faults
            print(
                f"/try_it/: {weight / 1e6:.2f} MB; a frame on a CPU throttled"
                f" four times, median of {FRAMES}: {clock:.0f} ms by the clock (least"
                f" {least:.0f}), {cpu:.0f} ms of the CPU"
            )
        found += without_script(browser, root)
        browser.close()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--picture", type=Path, help="where readers' picture goes")
    arguments = parser.parse_args()
    if (executable := chromium()) is None:
        print("There is no Chromium here: the page to try was not tried.")
        return
    found = look(arguments.site, executable, arguments.picture)
    print(*found, f"{arguments.site.name}: {len(found)} faults of it", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
