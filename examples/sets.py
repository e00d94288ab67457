"""What `set_prediction.py` predicts on each kind of scenes, its loss and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from options import refuse

from eqx_slots import losses, viz
from eqx_slots.data import blocks, records, solids
from eqx_slots.models import presets
from eqx_slots.properties import BLOCKS, CLEVR, Properties


@dataclass(frozen=True)
class Sets:
    """Scenes with their truth as a set, and a model for them."""

    scene: Callable[..., Any]
    elements: Callable[..., Any]
    properties: Properties
    make: Callable[..., Any]
    objects: tuple[int, int]
    """Fewest and most in a scene, if not said."""
    side: int
    steps: int
    demands: dict[str, float]
    """Least scores of a seed that counts as a success."""
    show: Callable[..., None]
    """Writes what is predicted over a picture: axes, values, attention, side."""
    label_weight: float | None = None
    """Of each label in the cost of a pair; `None` averages them."""
    early_loss: float = 0.0
    """Weight of the loss after each round but the last."""


def block(axes, values, _, side):
    """A block as predicted: its box, and its colour by name."""
    height, width = values["size"] * side / 6
    y, x = values["centre"] * side / 6 - (height / 2, width / 2)
    style = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, **style))
    write(axes, y, x, name_of(BLOCKS, values, "colour"), ha="left")


def solid(axes, values, weights, side):
    """What a solid is said to be, where its slot looks."""
    first, second = ("size", "colour"), ("material", "shape")
    lines = [name_of(CLEVR, values, *names) for names in (first, second)]
    y, x = seen_at(weights, side)
    write(axes, y, x, "\n".join(lines), ha="center")


def seen_at(weights, side):
    """The middle of a slot's attention, `(y, x)` in pixels."""
    grid = int(len(weights) ** 0.5)
    weights = np.asarray(weights, float).reshape(grid, grid)
    middles = (np.arange(grid) + 0.5) * side / grid - 0.5
    total = weights.sum() + 1e-9
    return [(weights.sum(axis) * middles).sum() / total for axis in (1, 0)]


def name_of(properties, values, *groups):
    labels = (properties.group(name).labels[values[name]] for name in groups)
    return " ".join(labels)


def write(axes, y, x, text, **options):
    back = {"facecolor": "black", "alpha": 0.6, "pad": 0.5, "linewidth": 0}
    axes.text(x, y, text, color="white", fontsize=7, va="bottom", bbox=back, **options)


KINDS = {
    "blocks": Sets(
        blocks.scene,
        blocks.elements,
        BLOCKS,
        presets.block_sets,
        objects=(1, 6),
        side=32,
        steps=3000,
        demands={"ap_inf": 0.98, "ap_0.25": 0.9},
        show=block,
    ),
    "solids": Sets(
        solids.scene,
        solids.elements,
        CLEVR,
        presets.solid_sets,
        objects=(3, 6),
        side=64,
        steps=6000,
        demands={"ap_inf": 0.9, "ap_1": 0.85, "ap_0.5": 0.75},
        show=solid,
        label_weight=0.5,
        early_loss=0.5,
    ),
}
# The folder of CLEVR v1.0, whose pictures have up to ten objects.
KINDS["clevr"] = replace(
    KINDS["solids"],
    elements=lambda picture: records.elements(picture.objects),
    objects=(3, 10),
)


def read(arguments, held_out):
    """The pictures of a folder to train on, and the first that are for validation."""
    size, most = (arguments.sets.side,) * 2, arguments.objects[1]
    options: dict[str, Any] = {"image_size": size, "max_objects": most}
    options["progress"] = lambda count: print(f"read {count} pictures", end="\r")
    try:
        source = records.clevr(arguments.records, "train", **options)
        others = records.clevr(arguments.records, "val", count=held_out, **options)
    except ValueError as error:
        refuse(f"--records: {error}")
    if len(source) < arguments.batch_size or not len(others):
        refuse(f"--records: {len(source)} pictures are too few for a batch.")
    return source, jax.tree.map(lambda *x: jnp.stack(x), *others)


def draw(folder, sets, images, made):
    """What is predicted, written over the scenes, and the attention of each slot."""
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for axes, image, elements, attention in zip(
        panels, images, made.elements, made.attention
    ):
        axes.imshow(viz.picture(image))
        axes.axis("off")
        for element, weights in zip(elements, attention):
            values = sets.properties.decode(element)
            values = {name: np.asarray(x) for name, x in values.items()}
            if values["present"] > 0.5:
                sets.show(axes, values, weights, image.shape[-1])
    figure.savefig(folder / "sets.png", dpi=120)
    return list(map(viz.attention_row, images, made.attention))


def predict(model, images, key, **options):
    one = lambda image, key: model(image, key=key, **options)
    return jax.vmap(one)(images, jr.split(key, len(images)))


def loss_on(sets):
    """Of the best matching of predictions and truth, whatever their order."""
    properties, weight = sets.properties, sets.label_weight
    cost = partial(losses.element_cost, properties=properties, label_weight=weight)
    matched = jax.vmap(partial(losses.matched_set_loss, cost=cost))

    def loss(model, batch, key):
        images, targets = batch
        error = lambda elements: jnp.mean(matched(elements, targets).loss)
        if not sets.early_loss:
            return error(predict(model, images, key).elements), None
        one = lambda image, key: model.rounds(image, key=key).elements
        keys = jr.split(key, len(images))
        *early, last = jax.vmap(error)(jax.vmap(one, out_axes=1)(images, keys))
        return last + sets.early_loss * sum(early), None

    return loss


def targets_of(sets, scenes, num_slots):
    """The truth, with a row for each slot."""
    return sets.properties.pad(jax.vmap(sets.elements)(scenes), num_slots)
