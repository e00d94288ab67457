"""A number of slots for each image: keep those that are needed, and count blocks.

    python examples/count_objects.py [--steps N] [--seed S] [--price P] [--output DIR]

With the defaults: some ten minutes on two CPU cores, then 87 % of the counts are exact
and 99 % within one (seed 0).

The autoencoder of `autoencoder.py` with a part that decides which slots to paint with.
In the second half of training each slot kept costs `--price`, so one stays only if it
saves that much error; from the start the price would end them all before they hold
anything. Prints how often the number of slots kept, less one for the background, is
the number of blocks, and writes `count_objects.json` and `count_objects.png` (predicted
over true count, and how many scenes).
"""

import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from matplotlib.figure import Figure
from options import check_run, make_folder, refuse
from recipe import optimiser, reconstruct

from eqx_slots import losses, metrics, nn, training
from eqx_slots.data import blocks
from eqx_slots.models import presets, SlotAutoencoder


FEWEST, MOST, BATCH_SIZE, HELD_OUT = 1, 5, 32, 320


def paint(key, number):
    scene = partial(blocks.scene, num_objects=(FEWEST, MOST))
    scenes = jax.vmap(scene)(jr.split(key, number))
    return scenes._replace(image=2 * scenes.image - 1)


def build(key):
    model_key, keep_key = jr.split(key)
    model = presets.blocks(grad_iters=1, key=model_key)
    keep_slots = nn.KeepSlots(64, min_slots=1, key=keep_key)
    # Nearly all slots are kept to begin with: what is not painted learns nothing.
    keep_slots = eqx.tree_at(lambda k: k.score.bias, keep_slots, jnp.array([3.0]))
    parts = (model.encoder, model.slot_attention, model.decoder)
    return SlotAutoencoder(*parts, keep_slots=keep_slots)


def loss(model, batch, key):
    images, price = batch
    made = reconstruct(model, images, key)
    error = losses.mean_squared_error(made.image, images)
    probability = jax.vmap(model.keep_slots)(made.slots).probability
    kept = jnp.mean(jax.vmap(losses.expected_num_slots)(probability))
    return error + price * kept, {"error": error, "kept": kept}


@eqx.filter_jit
def evaluate(model, scenes):
    """Counts and FG-ARI; without a key nothing is drawn."""
    made = jax.vmap(model)(scenes.image)
    kept = jax.vmap(model.keep_slots)(made.slots).mask
    found = jnp.sum(kept, axis=1).astype(int) - 1
    true = jnp.sum(scenes.objects.present, axis=1)
    ari = partial(metrics.adjusted_rand_index, num_true=MOST + 1, num_predicted=7)
    ari = partial(ari, ignore_background=True)
    scores = jax.vmap(ari)(scenes.segmentation, jnp.argmax(made.masks, axis=1))
    return true, found, metrics.mean(scores)


def draw(true, found, path):
    counts = [
        [np.sum((true == t) & (found == f)) for t in range(MOST + 1)] for f in range(7)
    ]
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, origin="lower", cmap="Blues")
    for f, row in enumerate(counts):
        for t, number in enumerate(row):
            if number:
                colour = "white" if number > 40 else "black"
                axes.text(t, f, str(number), ha="center", va="center", color=colour)
    axes.plot([FEWEST, MOST], [FEWEST, MOST], linewidth=0.5, color="gray")
    axes.set(xlabel="true number of blocks", ylabel="slots kept, less one")
    axes.set(xlim=(FEWEST - 0.5, MOST + 0.5))
    figure.savefig(path, dpi=120)


def main(
    steps: int = 5000,
    seed: int = 0,
    price: float = 5e-3,
    output: Path = Path("runs/count_objects"),
) -> dict:
    check_run(steps, seed)
    if not price >= 0:
        refuse(f"--price must be 0 or more, got {price}.")
    make_folder(output)
    model_key, data_key, run_key = jr.split(jr.key(seed), 3)
    optim = optimiser(steps, 3e-3)
    model = eqx.filter_jit(build)(model_key)
    state = training.TrainState.create(model, optim, key=run_key)
    step = training.make_step(loss, optim)

    @jax.jit
    def batch_at(step):
        scenes = paint(jr.fold_in(data_key, step), BATCH_SIZE)
        return scenes.image, jnp.where(step < steps // 2, 0, price)

    scenes = jax.jit(paint, static_argnums=1)(jr.key(2**31 - 1), HELD_OUT)
    for now in training.run(step, state, batch_at, num_steps=steps, report_every=250):
        true, found, fg_ari = jax.device_get(evaluate(now.state.model, scenes))
        accuracy = float(np.mean(true == found))
        within_one = float(np.mean(np.abs(true - found) <= 1))
        print(
            f"step {now.step:4d}  loss {now.loss:.4f}  kept {now.info.aux['kept']:.2f}"
            f"  FG-ARI {fg_ari:.3f}  count right {accuracy:.3f}",
            flush=True,
        )
    result = {"steps": steps, "seed": seed, "price": price, "fg_ari": float(fg_ari)}
    result |= {"count_accuracy": accuracy, "within_one": within_one}
    (output / "count_objects.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(true, found, output / "count_objects.png")
    return result


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    tyro.cli(main)
