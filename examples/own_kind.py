"""Whether a picture is of the kind that a model was trained on, by a few figures.

`own_pictures.py` stores quantiles of them beside the weights, `segment.py` compares.
"""

import json
import math

import jax.numpy as jnp
import numpy as np


QUANTILES = (0.01, 0.5, 0.99)
ROUNDING = 0.03  # where all of its own are the same
ONE_SIDED = ("error", "mask entropy")  # less of them is no reason to complain
LOGARITHMS = (*ONE_SIDED, "contrast", "detail")  # of what varies by factors


def figures_of(images, made, black):
    """Of each picture of a batch: how well it is painted, by how sharp masks, how far
    neighbours differ, and what colours it has."""
    seen, painted = ((x - black) / (1 - black) for x in (images, made.image))
    axes = (1, 2, 3)
    logs = jnp.log(jnp.maximum(made.masks, 1e-12))
    entropy = -jnp.sum(made.masks * logs, axis=1) / math.log(made.masks.shape[1])
    means = jnp.mean(seen, axis=(2, 3))
    steps = [jnp.mean(jnp.abs(jnp.diff(seen, axis=i)), axis=axes) for i in (2, 3)]
    figures = {
        "error": jnp.log10(jnp.mean((seen - painted) ** 2, axis=axes) + 1e-8),
        "mask entropy": jnp.log10(jnp.mean(entropy, axis=(1, 2)) + 1e-8),
        "contrast": jnp.log10(jnp.std(seen, axis=axes) + 1e-4),
        "detail": jnp.log10(sum(steps) + 1e-4),
        "darkest": jnp.min(seen, axis=axes),
        "brightest": jnp.max(seen, axis=axes),
    }
    channels = ("red", "green", "blue") if means.shape[1] == 3 else ("gray",)
    return figures | {f"mean {c}": means[:, i] for i, c in enumerate(channels)}


def quantiles_of(figures):
    """The first percent, the median and the last of each figure."""
    named = figures.items()
    return {name: np.quantile(values, QUANTILES).tolist() for name, values in named}


def complaints(figures, quantiles):
    """What of one picture lies far outside: more than twice as far from the median as
    99 of 100 of the model's own. In words, none if it looks like one of them."""
    found = []
    for name, (low, middle, high) in quantiles.items():
        value = float(figures[name])
        least = middle - 2 * max(middle - low, ROUNDING)
        most = middle + 2 * max(high - middle, ROUNDING)
        if value > most or (value < least and name not in ONE_SIDED):
            said = [f"{plain(name, x):.3g}" for x in (value, low, high)]
            found.append(f"{name} {said[0]}, its own {said[1]} to {said[2]}")
    return found


def plain(name, value):
    """A figure as people know it."""
    return 10**value if name in LOGARITHMS else value


def save_kind(path, **kind):
    path.write_text(json.dumps(kind, indent=2) + "\n")


def load_kind(path):
    return json.loads(path.read_text())
