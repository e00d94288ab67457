"""Why slot autoencoders paint black on black, and what cures it: one change at a time.

    python examples/black_background.py [--steps N] [--seeds N] [--recipes NAME ...]
                                        [--output DIR]

Trains small slot autoencoders on blocks over exactly black, from the textbook's recipe
(sigmoid RGB, images in [0, 1], five Gaussian slots, gradients through all rounds, Adam)
to that of `autoencoder.py`, and asks of each seed whether it left the black picture,
when, and how much of the error a saturated sigmoid holds. Writes the history of each
run (`runs.json`; no run is made twice), `table.md` and `black.png`. Two minutes a run.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import tyro
from autoencoder import BATCH_SIZE, loss, reconstruct
from matplotlib import colormaps
from matplotlib.figure import Figure
from shared import optimiser

from eqx_slots import diagnostics, metrics, nn, training
from eqx_slots.data import blocks
from eqx_slots.models import presets, start_from_colour


HELD_OUT, EVERY = 64, 50
LEFT = 0.9  # of the mean image's error: below it, the picture depends on the scene


class Recipe(NamedTuple):
    """What is changed; the defaults are the textbook's."""

    background: str = "black"
    is_linear: bool = False  # RGB, on images in [-1, 1]; else sigmoid, in [0, 1]
    num_slots: int = 5
    is_learned: bool = False  # initial slots, with gradients through the last round
    is_muon: bool = False
    rate: float = 4e-4  # of Adam
    starts_black: bool = False  # paints it before anything is learned

    @property
    def black(self):
        return -1.0 if self.is_linear else 0.0


TEXTBOOK, OURS = Recipe(), Recipe("black", True, 7, True, True)
RECIPES = {
    "textbook": TEXTBOOK,
    "textbook on gray": TEXTBOOK._replace(background="gray"),
    "seven slots": TEXTBOOK._replace(num_slots=7),
    "learned slots, last round": TEXTBOOK._replace(is_learned=True),
    "linear RGB": TEXTBOOK._replace(is_linear=True),
    "five times the rate": TEXTBOOK._replace(rate=2e-3),
    "black to begin with": TEXTBOOK._replace(starts_black=True),
    "Muon": TEXTBOOK._replace(is_muon=True),
    "ours": OURS,
    "ours, sigmoid RGB": OURS._replace(is_linear=False),
    "ours, Adam": OURS._replace(is_muon=False),
    "ours, black to begin with": OURS._replace(starts_black=True),
    "the same, Adam": OURS._replace(starts_black=True, is_muon=False),
}


@dataclass
class Arguments:
    """Which recipes leave the black picture."""

    steps: int = 1500
    seeds: int = 4
    recipes: tuple[str, ...] = tuple(RECIPES)
    output: Path = Path("runs/black_background")


def paint(key, number, recipe):
    scene = partial(blocks.scene, background=recipe.background)
    scenes = jax.vmap(scene)(jr.split(key, number))
    black = recipe.black
    return scenes._replace(image=black + (1 - black) * scenes.image)


def build(recipe, key):
    """The example's small model, with the recipe's slots and RGB."""
    model = presets.blocks(num_slots=recipe.num_slots, key=key)
    if not recipe.is_linear:
        rgb = lambda m: m.decoder.rgb_activation
        model = eqx.tree_at(rgb, model, jax.nn.sigmoid)
    if not recipe.is_learned:
        layer = nn.SlotAttention(32, 64, num_slots=recipe.num_slots, key=key)
        model = eqx.tree_at(lambda m: m.slot_attention, model, layer)
    if recipe.starts_black:
        model = start_from_colour(model, jnp.full(3, recipe.black))
    return model


@eqx.filter_jit
def measure(model, scenes, key, recipe):
    made = reconstruct(model, scenes.image, key)
    error = diagnostics.reconstruction_error(scenes.image, made)
    held = diagnostics.saturated_error(scenes.image, made, rgb_range=(recipe.black, 1))
    slope = jnp.where(recipe.is_linear, 1, 4 * made.rgb * (1 - made.rgb))  # 1: steepest
    on_blocks = made.masks[:, :, None] * (scenes.segmentation > 0)[:, None, None]
    slope = jnp.average(slope, weights=jnp.broadcast_to(on_blocks, slope.shape))
    score = partial(
        metrics.adjusted_rand_index,
        num_true=1 + scenes.objects.present.shape[1],
        num_predicted=recipe.num_slots,
        ignore_background=True,
    )
    predicted = jnp.argmax(made.masks, axis=1)
    fg_ari = metrics.mean(jax.vmap(score)(scenes.segmentation, predicted))
    return {"error": error, "held": held, "slope": slope, "fg_ari": fg_ari}


def train(recipe, steps, seed):
    """What was measured every so many steps."""
    model_key, data_key, run_key, eval_key = jr.split(jr.key(seed), 4)
    warm_up = training.paper_schedule(recipe.rate, warmup_steps=200)
    optim = optimiser(steps) if recipe.is_muon else training.adam(warm_up)
    model = eqx.filter_jit(build)(recipe, model_key)
    state = training.TrainState.create(model, optim, key=run_key)
    batch_at = jax.jit(lambda i: paint(jr.fold_in(data_key, i), BATCH_SIZE, recipe))
    held_out = jax.jit(lambda key: paint(key, HELD_OUT, recipe))(jr.key(2**31 - 1))
    step, history = training.make_step(loss, optim), []
    reports = training.run(step, state, batch_at, num_steps=steps, report_every=EVERY)
    for now in reports:
        figures = measure(now.state.model, held_out, eval_key, recipe)
        history.append({"step": now.step} | jax.tree.map(float, figures))
    return history


def left_at(history):
    """The first step from which on the picture is no longer black, if there is one."""
    black = [row["step"] for row in history if row["error"] > LEFT]
    after = (row["step"] for row in history if row["step"] > max(black, default=-1))
    return next(after, None)


def table(runs):
    head = "| recipe | left black | at step | error | of it held | slope | FG-ARI |"
    lines = [head, "| --- " * 7 + "|"]
    for name, histories in by_recipe(runs).items():
        steps = [str(left_at(history) or "never") for history in histories]
        left = sum(step != "never" for step in steps)
        cells = [name, f"{left} of {len(steps)}", " ".join(steps)]
        for key in ("error", "held", "slope", "fg_ari"):
            cells.append(" ".join(f"{history[-1][key]:.2f}" for history in histories))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs, path):
    figure, colour = Figure((11, 3.5), layout="constrained"), colormaps["tab20"]
    for axes, key in zip(figure.subplots(1, 2), ("error", "slope")):
        for count, (name, histories) in enumerate(by_recipe(runs).items()):
            for history in histories:
                points = [(row["step"], row[key]) for row in history]
                axes.plot(*zip(*points), color=colour(count), linewidth=1, label=name)
                name = None  # one line of the legend for all seeds
    figure.axes[0].set(xlabel="step", ylabel="error / the mean image's", ylim=(0, 1.5))
    figure.axes[1].set(xlabel="step", ylabel="slope of RGB on blocks", yscale="log")
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside right center")
    figure.savefig(path, dpi=120)


def by_recipe(runs):
    names = dict.fromkeys(run["recipe"] for run in runs)
    return {n: [r["history"] for r in runs if r["recipe"] == n] for n in names}


def main(arguments: Arguments):
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "runs.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    for seed in range(arguments.seeds):
        for name in arguments.recipes:
            one = {"recipe": name, "seed": seed, "steps": arguments.steps}
            if any(one.items() <= run.items() for run in runs):
                continue
            history = train(RECIPES[name], arguments.steps, seed)
            runs.append(one | {"history": history})
            path.write_text(json.dumps(runs) + "\n")
            print(f"{name}, seed {seed}: left black at {left_at(history)}", flush=True)
    print(table(runs))
    (arguments.output / "table.md").write_text(table(runs) + "\n")
    draw(runs, arguments.output / "black.png")
    return runs


if __name__ == "__main__":
    training.use_compilation_cache()
    main(tyro.cli(Arguments))
