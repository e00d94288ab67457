"""What walkthrough.py draws: the arrays of one walk in, a figure out."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from eqx_slots import viz


# A slot has the same colour in all pictures: that of its segment.
COLOURS = viz.segmentation(np.arange(10)[None])[0] / 255


def chart(values, low=0.0, high=1.0, cmap="viridis"):
    """Numbers as colours."""
    scaled = (np.asarray(values) - low) / (high - low)
    return colormaps[cmap](np.clip(scaled, 0, 1))[..., :3]


def charts(places, low=0.0, high=1.0, cmap="viridis"):
    """A map for each row, whose numbers are for places over the image, line by line."""
    height = round(places.shape[1] ** 0.5)
    maps = rearrange(np.asarray(places), "rows (h w) -> rows h w", h=height)
    return list(chart(maps, low, high, cmap))


def own_scale(places, cmap="viridis"):
    """The same, each map up to its largest number."""
    return [charts(row[None], 0, row.max(), cmap)[0] for row in places]


def show(axes, picture, title="", slot=None, aspect="equal"):
    axes.imshow(picture, interpolation="nearest", aspect=aspect)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    if slot is not None:
        axes.spines[:].set(color=COLOURS[slot % 10], linewidth=2)


def table(rows, num_slots=0, *, titles=(), size=(1.1, 1.25), aspect="equal"):
    """Rows (text: pictures), a column a slot, then others; titles by row and column."""
    columns, titles = max(map(len, rows.values())), dict(titles)
    whole = (size[0] * columns + 0.4, size[1] * len(rows) + 0.2)
    figure = Figure(figsize=whole, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for i, (text, row) in enumerate(rows.items()):
        grid[i, 0].set_ylabel(text, fontsize=8)
        for j, picture in enumerate(row):
            title = titles.get((i, j), "")
            if i == 0 and j < num_slots:
                title = f"slot {j}\n{title}".strip()
            slot = j if j < num_slots else None
            show(grid[i, j], picture, title, slot, aspect)
        for axes in grid[i, len(row) :]:
            axes.axis("off")
    return figure


def principal(rows, number):
    """The rows in their first principal components, and the map for further rows."""
    rows = np.asarray(rows)
    mean = rows.mean(axis=0)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:number]
    project = lambda more: (np.asarray(more) - mean) @ axes.T
    return project(rows), project


def features(image, inputs):
    """Three principal components as red, green and blue."""
    parts, _ = principal(inputs, 3)
    low, high = np.percentile(parts, [1, 99], axis=0)
    scaled = np.clip((parts - low) / (high - low), 0, 1)
    colours = rearrange(scaled, "(h w) rgb -> h w rgb", h=round(len(parts) ** 0.5))
    right = f"inputs: {len(inputs)} vectors of {inputs.shape[1]} numbers"
    titles = {(0, 0): "image: 3 x 32 x 32", (0, 1): right}
    rows = {"": [viz.picture(image), colours]}
    return table(rows, titles=titles, size=(2.7, 2.7))


def both_axes(one):
    """The same logits with a softmax over either axis, and what a place adds up to."""
    num_slots, most = len(one.logits), float(jnp.abs(one.logits).max())
    other = jax.nn.softmax(one.logits, axis=1)
    ours, theirs = (x.sum(axis=0, keepdims=True) for x in (one.attention, other))
    rows = {
        "logits": charts(one.logits, -most, most, "RdBu_r"),
        "softmax over\nslots": charts(jnp.concatenate([one.attention, ours])),
        "softmax over\ninputs": own_scale(jnp.concatenate([other, theirs])),
    }
    span = f"sum: {theirs.min():.1g}\nto {theirs.max():.2f}"
    titles = {(1, num_slots): "sum: 1", (2, num_slots): span}
    return table(rows, num_slots, titles=titles)


def weights(one):
    """Each on a scale of its own, with the inputs that the slot has won in all."""
    won = one.attention.sum(axis=1)
    titles = {(0, slot): f"won {x:.1f}" for slot, x in enumerate(won)}
    row = own_scale(one.weights, "magma")
    return table({"weights": row}, len(won), titles=titles, size=(1.1, 1.4))


def attention(rounds):
    rows = {f"round {i}": charts(one.attention) for i, one in enumerate(rounds, 1)}
    return table(rows, len(rounds[0].attention))


def numbers(first, rounds):
    """The slots themselves, a line each; the largest two per cent are clipped."""
    states = [first, *(one.slots for one in rounds)]
    most = np.percentile(np.abs(np.stack(states)), 98)
    row = [chart(state, -most, most, "RdBu_r") for state in states]
    titles = {(0, i): f"after round {i}" if i else "initial" for i in range(len(row))}
    return table({"slots": row}, titles=titles, size=(2.2, 1.3), aspect="auto")


def objects(image, made):
    """The image, and what is seen of each slot."""
    seen = (made.rgb + 1) / 2 * made.masks[:, None]
    texts = ("image", *(f"slot {slot}" for slot in range(len(seen))))
    titles = {(0, i): text for i, text in enumerate(texts)}
    row = [viz.picture(image), *map(viz.picture, seen)]
    return table({"": row}, titles=titles)


def painted(image, made):
    """Each slot's picture, its mask, and what of it is seen; then all together."""
    rgb, masks = (made.rgb + 1) / 2, made.masks
    owner = viz.segmentation(np.argmax(masks, axis=0))
    whole = viz.picture((made.image + 1) / 2)
    rows = {
        "rgb": [*map(viz.picture, rgb), viz.picture(image)],
        "masks": [*map(viz.heatmap, masks), owner],
        "masks x rgb": [*map(viz.picture, rgb * masks[:, None]), whole],
    }
    texts = ("input", "largest mask", "mixture")
    titles = {(i, len(masks)): text for i, text in enumerate(texts)}
    return table(rows, len(masks), titles=titles)


def frame(image, v, rounds):
    """Where the slots look in the last of these rounds, and the means they took."""
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    spec = figure.add_gridspec(1, 2)
    left, right = figure.add_subfigure(spec[0]), figure.add_subfigure(spec[1])
    pictures = viz.attention_row(image, rounds[-1].attention)
    grid = left.subplots(-(-len(pictures) // 3), 3).ravel()
    show(grid[0], pictures[0], f"round {len(rounds)}")
    for slot, (axes, picture) in enumerate(zip(grid[1:], pictures[1:])):
        show(axes, picture, f"slot {slot}", slot)
    for axes in grid[len(pictures) :]:
        axes.axis("off")

    dots, project = principal(v, 2)
    factor = image.shape[-1] // round(len(dots) ** 0.5)
    colours = rearrange(image[:, ::factor, ::factor], "rgb h w -> (h w) rgb")
    axes = right.subplots()
    axes.scatter(*dots.T, c=colours, s=16, edgecolors="0.5", linewidths=0.3)
    paths = np.stack([project(one.updates) for one in rounds], axis=1)
    for slot, path in enumerate(paths):
        axes.plot(*path.T, "-", color="black", linewidth=0.8, zorder=3)
        disc = {"facecolor": COLOURS[slot % 10], "boxstyle": "circle,pad=0.15"}
        x, y = path[-1]
        axes.text(x, y, str(slot), fontsize=9, ha="center", va="center", bbox=disc)
    axes.set(xticks=[], yticks=[])
    axes.set_title("values, and the mean that each slot takes", fontsize=8)
    return figure


def save(figures, path):
    """One figure as it is; several become a GIF."""
    frames = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130 if len(figures) == 1 else 100)
        frames.append(Image.open(buffer).convert("RGB"))
    if len(frames) == 1:
        frames[0].save(path, optimize=True)
    else:
        frames = [frame.quantize(256, Image.Quantize.MAXCOVERAGE) for frame in frames]
        duration = [1200] * (len(frames) - 1) + [2500]
        options = {"append_images": frames[1:], "duration": duration, "loop": 0}
        frames[0].save(path, save_all=True, optimize=True, **options)
