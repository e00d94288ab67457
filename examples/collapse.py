"""Why very small blocks are lost: what a model keeps of them, step by step.

    python examples/collapse.py [--steps N] [--every N] [--only RUN ...] [--output DIR]

Three blocks of 2 x 2 pixels on gray, the model of `autoencoder.py`, one thing changed
from run to run: what it sees and paints at first, and what steps it takes. A minute a
run on one CPU core. DIR gets `collapse.json` and `collapse.png`: the error as a share
of that of the plain background, the norms of gradient and step, the units that are
dead, and how many of the six colours the encoder still tells from the background.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax
import tyro
from autoencoder import Arguments, paint
from options import check_positive, make_folder, refuse
from recipe import optimiser, reconstruct

from eqx_slots import training
from eqx_slots.data import blocks
from eqx_slots.models import presets, Standardization, start_from_images


SCENES = Arguments(objects=(3, 3), block_size=(2, 2))
BATCH_SIZE, NUM_STEPS = 32, 4000  # of the schedule; these runs stop long before
COLUMNS = {
    "error": "error / plain background",
    "gradient": "norm of the gradient",
    "step": "norm of the step / weights",
    "dead_encoder": "dead units, encoder",
    "dead_decoder": "dead units, decoder",
    "colours": "colours seen",
}


class Run(NamedTuple):
    """What a model begins with, and how it steps."""

    standardized: bool = False
    zero: bool = False  # the last layer of the decoder
    waits: bool = False  # for the loss to move
    optim: Callable = lambda: optimiser(NUM_STEPS, 6e-3, warmup=50)


RUNS = {
    "Muon": Run(),
    "Adam, 4e-4": Run(optim=lambda: training.adam(4e-4)),
    "SGD, 0.1": Run(optim=lambda: optax.sgd(0.1)),
    "last layer from zero": Run(zero=True),
    "standardized": Run(standardized=True),
    "both": Run(standardized=True, zero=True),
    "both, waiting": Run(standardized=True, zero=True, waits=True),
    "both, Adam, 4e-4": Run(True, True, optim=lambda: training.adam(4e-4)),
}


def begin(run, images):
    make = partial(presets.blocks, grad_iters=1)  # as it was when it died
    model = eqx.filter_jit(make)(num_slots=6, key=jr.key(100))
    started = start_from_images(model, images)
    if not run.standardized:
        plain = Standardization(jnp.zeros(3), jnp.ones(()))
        started = eqx.tree_at(lambda m: m.standardization, started, plain)
    if not run.zero:
        last = lambda m: m.decoder.convs[-1]
        started = eqx.tree_at(last, started, last(model))
    return started


def loss(model, images, key):
    """The error, as the model sees it, over what it is of the background alone."""
    made = reconstruct(model, images, key)
    plain = jnp.mean((images - jnp.median(images)) ** 2)
    error = jnp.mean((made.image - images) ** 2)
    scale = jax.lax.stop_gradient(model.standardization.scale)
    return error / scale**2, error / plain


def is_dead(activations):
    """The share of channels, the last axis, that are nowhere positive."""
    axes = tuple(range(activations.ndim - 1))
    return jnp.mean(jnp.max(activations, axis=axes) <= 1e-6)


def hidden(model, images):
    """What the units of the encoder's convolutions and of the decoder's first do."""

    def one(image):
        features, layers = model.standardization(image), []
        for conv in model.encoder.convs:
            features = model.encoder.activation(conv(features))
            layers.append(jnp.moveaxis(features, 0, -1))
        return layers, model(image).slots

    def paint_hidden(slot):
        grid = jnp.broadcast_to(slot[:, None, None], (64, 8, 8))
        made = model.decoder.convs[0](model.decoder.positions(grid))
        return jnp.moveaxis(made, 0, -1)

    layers, slots = jax.vmap(one)(images)
    return layers, jax.vmap(jax.vmap(paint_hidden))(slots)


def colours_seen(model):
    """How many colours a block may have and still change what the encoder says."""
    colours = 2 * jnp.array(list(blocks.COLOURS.values())) - 1
    blank = jnp.zeros((3, 32, 32))
    of = lambda colour: blank.at[:, 15:17, 15:17].set(colour[:, None, None])
    encode = lambda image: model.encoder(model.standardization(image))
    plain = encode(blank)
    change = jnp.max(
        jnp.abs(jax.vmap(lambda c: encode(of(c)))(colours) - plain[None]), (1, 2)
    )
    return jnp.sum(change > 0.1 * jnp.std(plain))


@eqx.filter_jit
def measure(model, images):
    layers, painted = hidden(model, images)
    return {
        "dead_encoder": jnp.mean(jnp.stack([is_dead(layer) for layer in layers])),
        "dead_decoder": is_dead(painted),
        "colours": colours_seen(model),
    }


def train(run, steps, every):
    """A row of numbers every so many steps."""
    images_at = jax.jit(
        lambda step: paint(jr.fold_in(jr.key(101), step), BATCH_SIZE, SCENES).image
    )
    optim = run.optim()
    if run.waits:
        optim = optax.chain(optim, training.scale_by_progress())
    model = begin(run, images_at(0))
    state = training.TrainState.create(model, optim, key=jr.key(102))
    step = training.make_step(loss, optim)
    weights = lambda model: eqx.filter(model, eqx.is_inexact_array)
    for count in range(steps + 1):
        is_logged = count % every == 0
        before = jax.tree.map(jnp.array, weights(state.model)) if is_logged else None
        seen = measure(state.model, images_at(count)) if is_logged else {}
        state, info = step(images_at(count), state)
        if is_logged:
            moved = optax.tree.sub(weights(state.model), before)
            length = optax.tree.norm(moved) / optax.tree.norm(before)
            row = {"error": info.aux, "gradient": info.grad_norm, "step": length}
            yield {"at": count} | {k: float(x) for k, x in (row | seen).items()}


def draw(path, runs):
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (name, title) in zip(axes.flat, COLUMNS.items()):
        for run, rows in runs.items():
            axis.plot([r["at"] for r in rows], [r[name] for r in rows], label=run)
        axis.set(title=title, xlabel="step")
        if name in ("gradient", "step"):
            axis.set_yscale("log")
        if name == "error":
            axis.set_ylim(0.75, 1.25)
    axes[1, 2].legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=110)


def main(
    only: tuple[str, ...] = (),
    steps: int = 800,
    every: int = 25,
    output: Path = Path("runs/collapse"),
):
    check_positive(steps=steps, every=every)
    unknown = [name for name in only if name not in RUNS]
    if unknown:
        refuse(f"--only {unknown[0]!r} is none of {', '.join(map(repr, RUNS))}.")
    folder, made = make_folder(output), {}
    for name in only or RUNS:
        made[name] = list(train(RUNS[name], steps, every))
        last = made[name][-1]
        shown = "  ".join(f"{COLUMNS[key]} {last[key]:.3g}" for key in COLUMNS)
        print(f"{name}, step {last['at']}: {shown}", flush=True)
        (folder / "collapse.json").write_text(json.dumps(made, indent=1) + "\n")
    draw(folder / "collapse.png", made)
    print(f"Look at {folder / 'collapse.png'}")
    return made


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    tyro.cli(main)
