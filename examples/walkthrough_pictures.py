"""What walkthrough.py draws: arrays of one walk in, a figure out."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from eqx_slots import viz


def principal(rows, number):
    """The rows in their first principal components, and the map for further rows."""
    rows = np.asarray(rows)
    mean = rows.mean(axis=0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:number]
    project = lambda more: (np.asarray(more) - mean) @ axes.T
    return project(rows), project


def chart(values, low=0, high=1, cmap="viridis"):
    """Numbers as colours."""
    scaled = (np.asarray(values) - low) / (high - low)
    return colormaps[cmap](np.clip(scaled, 0, 1))[..., :3]


def charts(places, low=0, high=1, cmap="viridis"):
    """A map for each row, whose numbers are for places over the image, line by line."""
    height = round(places.shape[1] ** 0.5)
    maps = rearrange(np.asarray(places), "rows (h w) -> rows h w", h=height)
    return list(chart(maps, low, high, cmap))


def show(axes, picture, title="", colour="black", aspect="equal"):
    axes.imshow(picture, interpolation="nearest", aspect=aspect)
    axes.set_title(title, fontsize=8, color=colour)
    axes.set(xticks=[], yticks=[])


def table(rows, titles, size=(1.1, 1.25), aspect="equal"):
    """Rows (text: pictures) with a list of titles for each; "slot 3" has its colour."""
    columns = max(map(len, rows.values()))
    whole = (size[0] * columns + 0.4, size[1] * len(rows) + 0.2)
    figure = Figure(figsize=whole, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (text, row), names in zip(grid, rows.items(), titles):
        line[0].set_ylabel(text, fontsize=8)
        for axes, picture, title in zip(line, row, names):
            colour = f"C{title.split()[1]}" if title.startswith("slot") else "black"
            show(axes, picture, title, colour, aspect)
    return figure


def features(image, inputs):
    """Three principal components as red, green and blue."""
    parts, _ = principal(inputs, 3)
    low, high = np.percentile(parts, [1, 99], axis=0)
    scaled = np.clip((parts - low) / (high - low), 0, 1)
    colours = rearrange(scaled, "(h w) rgb -> h w rgb", h=round(len(parts) ** 0.5))
    titles = "image: 3 x 32 x 32", f"inputs: {len(inputs)} vectors of {inputs.shape[1]}"
    return table({"": [viz.picture(image), colours]}, [titles], size=(2.7, 2.7))


def both_axes(one, slots):
    """The same logits with a softmax over either axis, and what a place adds up to."""
    most = jnp.abs(one.logits).max()
    other = jax.nn.softmax(one.logits, axis=1)
    ours, theirs = (x.sum(axis=0, keepdims=True) for x in (one.attention, other))
    logits = charts(one.logits, -most, most, "RdBu_r")
    span = f"sum: {theirs.min():.2f}\nto {theirs.max():.2f}"
    rows = {
        "logits": [*logits, np.ones_like(logits[0])],
        "softmax over\nslots": charts(jnp.concatenate([one.attention, ours])),
        "softmax over\ninputs": charts(other, 0, other.max())
        + charts(theirs, 0, theirs.max()),
    }
    blank = [""] * len(slots)
    return table(rows, [[*slots, ""], [*blank, "sum: 1"], [*blank, span]])


def weights(one, slots):
    """Each on a scale of its own, with the inputs that the slot has won in all."""
    row = [charts(x[None], 0, x.max(), "magma")[0] for x in one.weights]
    titles = [f"{slot}\nwon {won.sum():.1f}" for slot, won in zip(slots, one.attention)]
    return table({"weights": row}, [titles], size=(1.1, 1.4))


def attention(rounds, slots):
    rows = {f"round {i}": charts(one.attention) for i, one in enumerate(rounds, 1)}
    return table(rows, [slots, *([""] * len(slots) for _ in rounds)])


def numbers(first, rounds):
    """The slots themselves, a line each, before and after each round."""
    states = [first, *(one.slots for one in rounds)]
    most = max(float(jnp.abs(state).max()) for state in states)
    row = [chart(state, -most, most, "RdBu_r") for state in states]
    titles = ["initial slots", *(f"after round {i}" for i in range(1, len(states)))]
    return table({"slots": row}, [titles], size=(2.2, 1.3), aspect="auto")


def painted(image, made, slots):
    """Each slot's picture, its mask, and what of it is seen; then all together."""
    rgb, masks = (made.rgb + 1) / 2, made.masks
    owner = viz.segmentation(np.argmax(masks, axis=0))
    whole = viz.picture((made.image + 1) / 2)
    rows = {
        "rgb": [*map(viz.picture, rgb), viz.picture(image)],
        "masks": [*map(viz.heatmap, masks), owner],
        "masks x rgb": [*map(viz.picture, rgb * masks[:, None]), whole],
    }
    blank = [""] * len(slots)
    titles = [[*slots, "input"], [*blank, "largest mask"], [*blank, "mixture"]]
    return table(rows, titles)


def frame(image, v, rounds, slots):
    """Where the slots look in the last of these rounds, and the means they took."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2)
    pictures = viz.attention_row(image, rounds[-1].attention)
    grid = left.subplots(-(-len(pictures) // 3), 3).ravel()
    show(grid[0], pictures[0], f"round {len(rounds)}")
    for slot, axes in enumerate(grid[1:]):
        if slot < len(slots):
            show(axes, pictures[1 + slot], slots[slot], f"C{slot}")
        else:
            axes.axis("off")

    dots, project = principal(v, 2)
    factor = image.shape[-1] // round(len(dots) ** 0.5)
    colours = rearrange(image[:, ::factor, ::factor], "rgb h w -> (h w) rgb")
    axes = right.subplots()
    axes.scatter(*dots.T, c=colours, s=16, edgecolors="0.5", linewidths=0.3)
    paths = np.stack([project(one.updates) for one in rounds], axis=1)
    for slot, path in enumerate(paths):
        axes.plot(*path.T, "o-", color=f"C{slot}", linewidth=1.2, markersize=3)
        axes.text(*path[-1], f" {slot}", color=f"C{slot}", weight="bold")
    axes.set(xticks=[], yticks=[])
    axes.set_title("values, and the mean that each slot takes", fontsize=8)
    return figure


def save(figures, path):
    """In few colours, which makes a small file; several figures become a GIF."""
    frames = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        image = Image.open(buffer).convert("RGB")
        frames.append(image.quantize(128, dither=Image.Dither.NONE))
    options = {"append_images": frames[1:], "duration": 1200, "loop": 0}
    frames[0].save(path, optimize=True, **(options | {"save_all": len(frames) > 1}))
