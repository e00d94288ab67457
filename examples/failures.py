"""Ways to fail, on purpose: short runs, a picture of each and what it is known by.

    python examples/failures.py [--only RUN] [--output DIR]

Runs of `autoencoder.py`, left too early or with one thing wrong, 4,900 steps in all:
minutes on two CPU cores. DIR gets a picture of each failure, a row for each of the
three scenes of 64 that show it best (input, reconstruction, the slot that owns each
pixel, then what each slot paints), and `failures.json`, what `eqx_slots.diagnostics`
measures.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from autoencoder import Arguments, paint
from einops import rearrange
from options import make_folder
from pictures import sheet
from recipe import optimiser, picture_loss as loss, reconstruct

from eqx_slots import diagnostics, training, viz


BATCH_SIZE, HELD_OUT, ROWS = 32, 64, 3


class ByColumns(eqx.Module):
    """An encoder that lists the places of its grid column by column."""

    encoder: Callable

    def __call__(self, image):
        features = self.encoder(image)
        rows = math.isqrt(len(features))
        return rearrange(features, "(h w) channels -> (w h) channels", h=rows)


class Run(NamedTuple):
    """Settings, and the picture to make after so many steps."""

    stops: dict[int, str]
    arguments: Arguments = Arguments()
    num_slots: int = 7
    optim: optax.GradientTransformation = optimiser(6000, 3e-3)
    encoder: Callable = lambda encoder: encoder


RUNS = {
    # The default example without its sparsity, left too early.
    "early": Run({100: "mean", 500: "patches", 1000: "layers", 1500: "twice"}),
    "few_slots": Run({1000: "merged"}, num_slots=3),
    "black": Run(
        {300: "black"},
        Arguments(preset="blog", background="black"),
        num_slots=5,
        optim=training.adam(1e-3),
    ),
    "diverged": Run({100: "diverged"}, optim=optax.sgd(30.0)),
    "one_slot": Run({1000: "alone"}, num_slots=1),
    "columns": Run({1000: "elsewhere"}, encoder=ByColumns),
}
# How much a scene shows of a failure; of one that is not here all scenes show as much.
SHOWN = {
    "twice": lambda images, made, labels: diagnostics.undecided_objects(
        images, made, segmentation=labels
    ),
    "layers": lambda images, made, labels: diagnostics.undecided_background(
        images, made, segmentation=labels
    ),
    "merged": lambda images, made, labels: diagnostics.merged_objects(
        made, labels, num_true=5
    ),
}


def train(run):
    """The model at each of the stops, or where training ends before."""
    model_key, data_key, run_key = jr.split(jr.key(0), 3)
    recipe = run.arguments.recipe
    sizes = {"num_slots": run.num_slots, **recipe.sizes}
    model = eqx.filter_jit(recipe.make)(**sizes, key=model_key)
    model = eqx.tree_at(lambda m: m.encoder, model, run.encoder(model.encoder))
    state = training.TrainState.create(model, run.optim, key=run_key)
    step = training.make_step(loss, run.optim)
    batch_at = jax.jit(
        lambda count: paint(jr.fold_in(data_key, count), BATCH_SIZE, run.arguments)
    )
    last, every = max(run.stops), math.gcd(*run.stops)
    options = {"num_steps": last, "report_every": every}
    for now in training.run(step, state, batch_at, **options):
        print(f"step {now.step}  loss {now.loss:.4f}", flush=True)
        if now.stopped == "interrupted":
            raise KeyboardInterrupt
        if now.step in run.stops or now.stopped:
            yield now, run.stops.get(now.step, run.stops[last])


def best_shown(name, images, made, labels):
    """Of the scenes those with the largest number of their own, or the first."""
    chosen = np.arange(ROWS)
    if name in SHOWN:
        # Each by itself, but twice: the diagnostics want two images or more.
        twice = lambda x: jnp.repeat(x[:, None], 2, axis=1)
        alone = jax.tree.map(twice, (images, made, labels))
        shown = jax.jit(jax.vmap(SHOWN[name]))(*alone)
        chosen = np.argsort(-np.nan_to_num(shown), stable=True)[:ROWS]
    return jax.device_get(jax.tree.map(lambda x: x[chosen], (images, made)))


def draw(path, images, made, black):
    visible = lambda image: (image - black) / (1 - black)
    painted = zip(visible(images), visible(made.image), visible(made.rgb), made.masks)
    rows = [viz.slot_row(*four) for four in painted]
    if path.stem == "elsewhere":  # where slots look has to be seen
        looked = map(viz.attention_row, visible(images), made.attention)
        rows = [row for two in zip(rows, looked) for row in two]
        rows = [row[:1] + row[-made.masks.shape[1] :] for row in rows]
    sheet(rows).save(path, optimize=True)


def fail(run, output):
    """One run; a row of numbers for each of its pictures."""
    scenes_key, slots_key = jr.split(jr.key(2**31 - 1))
    scenes = jax.jit(lambda key: paint(key, HELD_OUT, run.arguments))(scenes_key)
    images, labels = scenes.image, scenes.segmentation
    black = run.arguments.black
    options = {"segmentation": labels, "num_true": 5, "rgb_range": (black, 1.0)}
    finite = lambda value: value if math.isfinite(value) else None
    rows = []
    for now, name in train(run):
        made = eqx.filter_jit(reconstruct)(now.state.model, images, slots_key)
        findings = diagnostics.diagnose(images, made, **options)
        numbers = {one.name: finite(one.value) for one in findings}
        print(name)
        for one in findings:
            if one.is_wrong:
                print(f"  {one.name} {one.value:.2f}: {one.sentence}")
        few_images, few_made = best_shown(name, images, made, labels)
        draw(output / f"{name}.png", few_images, few_made, black)
        wrong = ", ".join(f"`{one.name}`" for one in findings if one.is_wrong)
        rows.append({"picture": name, "step": now.step} | numbers | {"named": wrong})
    return rows


def main(
    only: Literal[
        "early",
        "few_slots",
        "black",
        "diverged",
        "one_slot",
        "columns",
    ]
    | None = None,
    output: Path = Path("runs/failures"),
):
    make_folder(output)
    runs = RUNS if only is None else {only: RUNS[only]}
    rows = [row for run in runs.values() for row in fail(run, output)]
    (output / "failures.json").write_text(json.dumps(rows, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    tyro.cli(main)
