"""Find coloured blocks without labels: train a slot autoencoder and look at its slots.

    python examples/autoencoder.py [--preset blocks|blog] [--background gray|black]
                                   [--objects FEWEST MOST] [--image-size 32|64]
                                   [--steps N] [--seed S] [--seeds N] [--resume]
                                   [--output DIR]

With the defaults: six minutes on two CPU cores, then an FG-ARI of 0.95 to 0.99 (all of
eight seeds, see docs/results.md). Ctrl-C stops early and still writes what there is
into DIR, and `--resume` goes on from there: `metrics.json` (figures on 320 scenes never
trained on), `options.json`, `history.jsonl`, `slots.png` (input, reconstruction,
segmentation, each slot's RGB times its mask), `training.png`, `iterations.gif` (the
attention, round by round) and `model.safetensors`, for `eqx_slots.serialisation.load`.
What the diagnostics find is printed at the end, what is wrong marked by `!`. `--seeds
8` makes eight runs and a table of them, `seeds.md`; `--help` has all options.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import tyro
from PIL import Image
from shared import curves, follow, optimiser, over_seeds, Run, spread, write_result

from eqx_slots import diagnostics, losses, metrics, serialisation, training, viz
from eqx_slots.data import blocks
from eqx_slots.models import presets, start_from_colour


BATCH_SIZE, HELD_OUT = 32, 320
DEMANDS = {"fg_ari": 0.95}
FIGURES = ("fg_ari", "ari", "mbo", "mse", "mse_of_mean_image")
TEXT = "loss {loss:.5f}  FG-ARI {fg_ari:.3f}  {steps_per_second:.1f} steps/s"
MAKE = {"blocks": presets.blocks, "blog": presets.blog}
# The colour that a model calls black: linear RGB is trained in [-1, 1], as in the
# official code, and sigmoid RGB can only paint [0, 1].
BLACK = {"blocks": -1.0, "blog": 0.0}


@dataclass
class Arguments(Run):
    """Train a slot autoencoder on coloured blocks."""

    preset: Literal["blocks", "blog"] = "blocks"
    background: Literal["gray", "black"] = "gray"
    objects: tuple[int, int] = (2, 4)
    """Fewest and most blocks in a scene."""
    image_size: Literal[32, 64] = 32
    """Side of the pictures; the blocks grow with them."""
    output: Path = Path("runs/autoencoder")


def paint(key, number, arguments):
    """A batch of scenes in the model's range, painted anew from the key each time."""
    options = {"background": arguments.background, "num_objects": arguments.objects}
    size, scale = arguments.image_size, arguments.image_size // 32
    options |= {"image_size": (size, size), "block_size": (5 * scale, 10 * scale)}
    scenes = jax.vmap(partial(blocks.scene, **options))(jr.split(key, number))
    black = BLACK[arguments.preset]
    return scenes._replace(image=black + (1 - black) * scenes.image)


def built_with(arguments):
    """A slot for the background, and with the recipe that works two to spare."""
    if arguments.preset == "blocks":
        sizes = {"image_size": arguments.image_size}
        return sizes | {"num_slots": arguments.objects[1] + 3}
    if arguments.image_size != 32:
        raise SystemExit("--preset blog is for --image-size 32 alone.")
    return {"num_slots": arguments.objects[1] + 1}


def reconstruct(model, images, key, num_iters=None):
    one = lambda image, key: model(image, num_iters=num_iters, key=key)
    return jax.vmap(one)(images, jr.split(key, len(images)))


def loss(model, batch, key):
    """Nothing but the error of the picture: labels play no part in training."""
    made = reconstruct(model, batch.image, key)
    return losses.mean_squared_error(made.image, batch.image), None


@eqx.filter_jit
def evaluate(model, held_out, key, black):
    """Figures on scenes with known truth; a pixel belongs to its largest mask."""
    made = reconstruct(model, held_out.image, key)
    predicted = jnp.argmax(made.masks, axis=1)

    def score(metric, **options):
        sizes = {
            "num_true": 1 + held_out.objects.present.shape[1],
            "num_predicted": made.masks.shape[1],
        }
        one = partial(metric, **sizes, **options)
        return metrics.mean(jax.vmap(one)(held_out.segmentation, predicted))

    def error(images):  # as if the images were in [0, 1]
        return jnp.mean((images - held_out.image) ** 2) / (1 - black) ** 2

    fg_ari = score(metrics.adjusted_rand_index, ignore_background=True)
    ari = score(metrics.adjusted_rand_index)
    mbo = score(metrics.mean_best_overlap)
    mean_image = jnp.mean(held_out.image, axis=0, keepdims=True)
    values = (fg_ari, ari, mbo, error(made.image), error(mean_image))
    return dict(zip(FIGURES, values))


def examine(model, held_out, key, rgb_range):
    """What the diagnostics find on some of the scenes."""
    images, segmentation, objects = jax.tree.map(lambda x: x[:64], held_out)
    made = eqx.filter_jit(reconstruct)(model, images, key)
    num_true = 1 + objects.present.shape[1]
    options = {"segmentation": segmentation, "num_true": num_true}
    return diagnostics.diagnose(images, made, rgb_range=rgb_range, **options)


def advise(model, held_out, key, rgb_range):
    """What goes wrong, in sentences."""
    findings = examine(model, held_out, key, rgb_range)
    return [f"{one.name}: {one.sentence}" for one in findings if one.is_wrong]


def train(arguments, held_out, eval_key):
    """Run to the end or to Ctrl-C; gives the model, the history and why it ended."""
    model_key, data_key, run_key = jr.split(jr.key(arguments.seed), 3)
    if arguments.preset == "blog":
        optim = training.adam(training.paper_schedule(warmup_steps=1000))
    else:
        optim = optimiser(arguments.steps)
    make = eqx.filter_jit(MAKE[arguments.preset])
    model = make(**built_with(arguments), key=model_key)
    batch_at = lambda step: paint(jr.fold_in(data_key, step), BATCH_SIZE, arguments)
    if arguments.preset == "blocks":
        colour = jnp.median(jax.jit(batch_at)(0).image, axis=(0, 2, 3))
        model = start_from_colour(model, colour)  # the background comes for free
    state = training.TrainState.create(model, optim, key=run_key)
    step, batch_at = spread(arguments, loss, optim, batch_at)
    black = BLACK[arguments.preset]
    return follow(
        arguments,
        step,
        state,
        batch_at,
        lambda model: evaluate(model, held_out, eval_key, black),
        lambda row: TEXT.format(**row),
        lambda model: advise(model, held_out, eval_key, (black, 1.0)),
    )


def draw(arguments, model, held_out, key):
    """What the slots paint, and where they look."""
    black, images = BLACK[arguments.preset], held_out.image[:8]
    visible = lambda image: (image - black) / (1 - black)
    made = eqx.filter_jit(reconstruct)(model, images, key)
    painted = zip(visible(images), visible(made.image), visible(made.rgb), made.masks)
    rows = [[viz.enlarge(p, 3) for p in viz.slot_row(*four)] for four in painted]
    Image.fromarray(viz.grid(rows)).save(arguments.output / "slots.png")

    frames = []
    for num_iters in (1, 2, 3):
        made = eqx.filter_jit(reconstruct)(model, images, key, num_iters)
        rows = map(viz.attention_row, visible(images[:4]), made.attention[:4])
        rows = [[viz.enlarge(picture, 3) for picture in row] for row in rows]
        frames.append(Image.fromarray(viz.grid(rows)))
    options = {"append_images": frames[1:], "duration": 900, "loop": 0}
    frames[0].save(arguments.output / "iterations.gif", save_all=True, **options)


def main(arguments: Arguments) -> dict:
    folder, built = arguments.output, built_with(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    held_out = jax.jit(lambda key: paint(key, HELD_OUT, arguments))(held_out_key)
    model, history, stopped = train(arguments, held_out, eval_key)

    figures = {name: history[-1][name] for name in FIGURES}
    result = write_result(arguments, figures, history, stopped)
    curves(folder / "training.png", history, {"fg_ari": "FG-ARI", "ari": "ARI"})
    path, make = folder / "model.safetensors", MAKE[arguments.preset]
    serialisation.save(path, model, make=make, arguments=built)
    draw(arguments, model, held_out, eval_key)
    for one in examine(model, held_out, eval_key, (BLACK[arguments.preset], 1.0)):
        mark = "!" if one.is_wrong else " "
        print(f"{mark} {one.name:20} {one.value:5.2f}  {one.sentence}")
    print(f"Look at {folder / 'slots.png'}")
    return result


if __name__ == "__main__":
    over_seeds(main, tyro.cli(Arguments), DEMANDS)
