"""One image through a trained model, every array in between as a picture.

    python examples/walkthrough.py [--model FILE] [--seed S] [--output DIR]

Fifteen seconds on one CPU core. FILE is what `python examples/autoencoder.py` has
written; if not said, it is `pretrained("blocks")`. The scene is painted from the seed,
and DIR gets the pictures of docs/algorithm.md: `objects.png`, `features.png`,
`logits.png`, `weights.png`, `rounds.gif`, `rounds.png`, `slots.png` and `painted.png`.
"""

from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
import walkthrough_pictures as draw
from einops import einsum
from options import check_seed, make_folder, refuse

from eqx_slots import serialisation
from eqx_slots.data import blocks
from eqx_slots.models import pretrained


class Round(NamedTuple):
    """What one round makes of the slots."""

    logits: jax.Array
    attention: jax.Array
    weights: jax.Array
    updates: jax.Array
    slots: jax.Array


def one_round(layer, slots, k, v):
    """As `layer.step`, line by line."""
    q = jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots))
    logits = einsum(q, k, "slots d, inputs d -> slots inputs") / q.shape[1] ** 0.5
    attention = jax.nn.softmax(logits, axis=0)
    weights = attention + 1e-8
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    updates = einsum(weights, v, "slots inputs, inputs d -> slots d")
    slots = jax.vmap(layer.cell)(updates, slots)
    slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
    return Round(logits, attention, weights, updates, slots)


@eqx.filter_jit
def walk(model, image):
    """Features, values, initial slots, all rounds, and what the model makes of it."""
    layer, inputs = model.slot_attention, model.encoder(model.standardization(image))
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
    first = slots = layer.slot_init(layer.num_slots)
    made = []
    for _ in range(layer.num_iters):
        made.append(one_round(layer, slots, k, v))
        slots = made[-1].slots
    return inputs, v, first, made, model(image)


def main(
    model: Path | None = None,
    seed: int = 0,
    output: Path = Path("runs/walkthrough"),
):
    check_seed(seed)
    try:
        trained = pretrained("blocks") if model is None else serialisation.load(model)
    except (OSError, ValueError) as error:
        refuse(f"--model: {error}")
    make_folder(output)
    image = blocks.scene(jr.key(seed)).image
    inputs, v, first, rounds, made = walk(trained, 2 * image - 1)
    np.testing.assert_allclose(rounds[-1].slots, made.slots, atol=1e-3)
    image, made = jax.device_get((image, made))
    pictures = {
        "objects": draw.objects(image, made),
        "features": draw.features(image, inputs),
        "logits": draw.both_axes(rounds[-1]),
        "weights": draw.weights(rounds[-1]),
        "rounds": draw.attention(rounds),
        "slots": draw.numbers(first, rounds),
        "painted": draw.painted(image, made),
    }
    for name, figure in pictures.items():
        draw.save([figure], output / f"{name}.png")
    counts = range(1, 1 + len(rounds))
    frames = [draw.frame(image, v, rounds[:count]) for count in counts]
    draw.save(frames, output / "rounds.gif")
    print(f"Look at {output}")


if __name__ == "__main__":
    tyro.cli(main)
