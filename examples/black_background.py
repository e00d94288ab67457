"""Why slot autoencoders paint black on black, and what cures it: one change at a time.

    python examples/black_background.py [--steps N] [--seeds SEED ...]
                                        [--recipes NAME ...] [--output DIR]

Trains slot autoencoders on blocks over exactly black by the recipes of
`black_recipes.py`, and asks of each seed whether it left the black picture, when, how
much of the error a saturated sigmoid holds, and what gradient is left. Writes each
run's history into a file of its own, `table.md` and `black.png`; a run that is there is
not made again. On one core 1,500 steps of the small model take two minutes, of the
tutorial's nine.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from black_recipes import build, optimise, paint, RECIPES
from matplotlib import colormaps
from matplotlib.figure import Figure
from options import check_positive, check_seed, make_folder, refuse
from recipe import picture_loss as loss, reconstruct

from eqx_slots import diagnostics, metrics, training


BATCH_SIZE, HELD_OUT, EVERY = 32, 64, 50
LEFT = 0.9  # of the mean image's error: below it, the picture depends on the scene
MEASURED = {  # and the titles of their columns
    "error": "error",
    "held": "of it held",
    "slope": "slope",
    "gradient": "gradient",
    "fg_ari": "FG-ARI",
}


@dataclass
class Arguments:
    """Which recipes leave the black picture."""

    steps: int = 1500
    seeds: tuple[int, ...] = (0, 1, 2)
    recipes: tuple[str, ...] = tuple(RECIPES)
    output: Path = Path("runs/black_background")

    def __post_init__(self):
        check_positive(steps=self.steps)
        for seed in self.seeds:
            check_seed(seed)
        for name in set(self.recipes) - set(RECIPES):
            refuse(f"--recipes has no {name!r}, only: {', '.join(RECIPES)}.")


@eqx.filter_jit
def measure(model, scenes, key, recipe):
    made = reconstruct(model, scenes.image, key)
    error = diagnostics.reconstruction_error(scenes.image, made)
    held = diagnostics.saturated_error(scenes.image, made, rgb_range=(recipe.black, 1))
    slope = jnp.where(recipe.is_linear, 1, 4 * made.rgb * (1 - made.rgb))  # 1: steepest
    on_blocks = made.masks[:, :, None] * (scenes.segmentation > 0)[:, None, None]
    slope = jnp.average(slope, weights=jnp.broadcast_to(on_blocks, slope.shape))
    gradient, _ = eqx.filter_grad(loss, has_aux=True)(model, scenes, key)
    score = partial(
        metrics.adjusted_rand_index,
        num_true=1 + scenes.objects.present.shape[1],
        num_predicted=recipe.num_slots,
        ignore_background=True,
    )
    predicted = jnp.argmax(made.masks, axis=1)
    fg_ari = metrics.mean(jax.vmap(score)(scenes.segmentation, predicted))
    values = (error, held, slope, optax.tree.norm(gradient), fg_ari)
    return dict(zip(MEASURED, values))


def train(recipe, steps, seed):
    """What was measured every so many steps."""
    model_key, data_key, run_key, eval_key = jr.split(jr.key(seed), 4)
    optim = optimise(recipe, steps)
    model = eqx.filter_jit(build)(recipe, model_key)
    state = training.TrainState.create(model, optim, key=run_key)
    batch_at = jax.jit(lambda i: paint(jr.fold_in(data_key, i), BATCH_SIZE, recipe))
    held_out = jax.jit(lambda key: paint(key, HELD_OUT, recipe))(jr.key(2**31 - 1))
    step, history = training.make_step(loss, optim), []
    reports = training.run(step, state, batch_at, num_steps=steps, report_every=EVERY)
    for now in reports:
        figures = measure(now.state.model, held_out, eval_key, recipe)
        history.append({"step": now.step} | jax.tree.map(float, figures))
    return history, now.stopped


def left_at(history):
    """The first step from which on the picture is no longer black, if there is one."""
    black = [row["step"] for row in history if row["error"] > LEFT]
    after = (row["step"] for row in history if row["step"] > max(black, default=-1))
    return next(after, None)


def table(runs):
    """A line for each recipe; numbers of several seeds stand as least to largest."""
    titles = ("recipe", "left black", "at step", *MEASURED.values())
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for name, histories in by_recipe(runs).items():
        steps = [left_at(history) for history in histories]
        left = [step for step in steps if step is not None]
        cells = [name, f"{len(left)} of {len(steps)}", between(left, str) or "never"]
        for key in MEASURED:
            form = short if key in ("slope", "gradient") else rounded
            cells.append(between([history[-1][key] for history in histories], form))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(values, form):
    ends = (form(end(values)) for end in (min, max) if values)
    return " to ".join(dict.fromkeys(ends))


def rounded(value):
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def short(value):
    """Small numbers by their order of magnitude, for what spans many of them."""
    return f"{value:.0e}" if 0 < value < 0.005 else f"{value:.2f}" if value else "0"


def draw(runs, path):
    figure, colour = Figure((12, 4.5), layout="constrained"), colormaps["tab20"]
    panels = zip(figure.subplots(1, 3), ("error", "slope", "gradient"))
    for axes, key in panels:
        for count, (name, histories) in enumerate(by_recipe(runs).items()):
            for history in histories:
                points = [(row["step"], row[key]) for row in history]
                axes.plot(*zip(*points), color=colour(count), linewidth=1, label=name)
                name = None  # one line of the legend for all seeds
        axes.set(xlabel="step", yscale="log")
    figure.axes[0].set(title="error / the mean image's", yscale="linear", ylim=(0, 1.5))
    figure.axes[1].set(title="slope of RGB on blocks / steepest", ylim=(1e-8, 2))
    figure.axes[2].set(title="norm of the gradient", ylim=(1e-8, 9))
    handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def by_recipe(runs):
    names = dict.fromkeys(run["recipe"] for run in runs)
    return {n: [r["history"] for r in runs if r["recipe"] == n] for n in names}


def main(arguments: Arguments):
    folder, runs = make_folder(arguments.output), []
    for name in arguments.recipes:
        for seed in arguments.seeds:
            one = {"recipe": name, "seed": seed, "steps": arguments.steps}
            path = folder / f"{name}, seed {seed}, {arguments.steps} steps.json"
            if not path.exists():
                history, stopped = train(RECIPES[name], arguments.steps, seed)
                if stopped == "interrupted":
                    return runs
                path.write_text(json.dumps(one | {"history": history}) + "\n")
            runs.append(json.loads(path.read_text()))
            left = left_at(runs[-1]["history"])
            print(f"{name}, seed {seed}: left black at {left}", flush=True)
    print(table(runs))
    (folder / "table.md").write_text(table(runs) + "\n")
    draw(runs, folder / "black.png")
    return runs


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    main(tyro.cli(Arguments))
