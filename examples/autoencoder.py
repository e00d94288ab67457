"""Find objects without labels: train a slot autoencoder and look at its slots.

    python examples/autoencoder.py [--scenes blocks|tetrominoes|sprites|solids]
                                   [--preset small|blog|tetrominoes|...]
                                   [--records KIND FILE]
                                   [--objects FEWEST MOST] [--image-size SIDE]
                                   [--background gray|black|...] [--block-size ...]
                                   [--num-slots N] [--sparsity W] [--steps N]
                                   [--seed S] [--seeds N] [--resume] [--output DIR]

With the defaults: five to seven minutes on two CPU cores; docs/results.md has all
seeds. Ctrl-C stops early and still writes what there is into DIR, and `--resume` goes
on from there: `metrics.json` (figures on 320 scenes never trained on), `options.json`,
`history.jsonl`, `slots.png` (input, reconstruction, segmentation, each slot's RGB times
its mask), `training.png`, `iterations.gif` (the attention, round by round) and
`model.safetensors`, for `eqx_slots.serialisation.load`. What the diagnostics find is
printed at the end, what is wrong marked by `!`. `--seeds 8` makes eight runs and a
table of them, `seeds.md`; `--help` has all options.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from files import curves, said, tell, write_result, wrong
from follow import follow, read_ahead, spread
from kinds import Arguments
from options import make_folder
from pictures import attention_sheet, slot_sheet
from recipe import batch_for, loss, optimiser, reconstruct
from scenes import in_range, paint, read, scenes_at
from scores import FIGURES, figures
from seeds import over_seeds

from eqx_slots import diagnostics, serialisation, training
from eqx_slots.models import start_from_images


HELD_OUT = 320
# Of `jax.jit`, for what runs once: to compile that well takes longer than it saves.
ONCE: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 0}}


def demands(arguments):
    """What a seed should reach. FG-ARI is undefined where objects are always alone."""
    alone = arguments.most == 1
    least = arguments.recipe.demands
    return {name: least[name] for name in least if not (alone and name == "fg_ari")}


def text(row):
    """What is shown of a run on its way."""
    scores = (f"{FIGURES[name]} {said(row[name])}" for name in ("fg_ari", "soft_ari"))
    loss, speed = f"loss {row['loss']:.5f}", f"{row['steps_per_second']:.1f} steps/s"
    return "  ".join([loss, *scores, speed])


@eqx.filter_jit
def evaluate(model, held_out, key, black):
    return figures(reconstruct(model, held_out.image, key), held_out, black)


def examine(model, held_out, key, rgb_range):
    """What the diagnostics find on some of the scenes."""
    some = jax.tree.map(lambda x: x[:64], held_out)
    made = eqx.filter_jit(reconstruct)(model, some.image, key)
    num_true = 1 + some.objects.present.shape[1]
    options = {"segmentation": some.segmentation, "num_true": num_true}
    return diagnostics.diagnose(some.image, made, rgb_range=rgb_range, **options)


def advise(model, held_out, key, rgb_range):
    """What goes wrong, in sentences."""
    return wrong(examine(model, held_out, key, rgb_range))


def train(arguments, held_out, eval_key, source=None):
    """Run to the end or to Ctrl-C; gives the model, the history and why it ended."""
    model_key, data_key, run_key = jr.split(jr.key(arguments.seed), 3)
    recipe, steps, size = arguments.recipe, arguments.steps, arguments.batch_size
    model = eqx.filter_jit(recipe.make, **ONCE)(**arguments.built_with, key=model_key)

    def batch_of(scenes, step):
        scenes = in_range(scenes, arguments.black)
        return batch_for(scenes, step, steps, arguments.sparsity, **recipe.changes)

    if recipe.is_small:
        muon = optimiser(steps, arguments.rate, warmup=50)
        optim = optax.chain(muon, training.scale_by_progress())  # small blocks need it
    else:
        optim = training.adam(training.paper_schedule(warmup_steps=recipe.warmup))
    priced = partial(loss, **arguments.price)
    if source is None:
        painted = lambda scenes_at, step: batch_of(scenes_at(step), step)
        scenes = scenes_at(data_key, size, arguments)
        batch_at = jax.tree_util.Partial(painted, scenes)
        step, batches = spread(arguments, priced, optim, batch_at)
    else:
        step, batches = read_ahead(arguments, priced, optim, source, batch_of)
    if recipe.is_small:
        images = batches(jnp.zeros((), jnp.int32)).scenes.image
        model = start_from_images(model, jax.device_get(images))
    state = training.TrainState.create(
        model, optim, use_ema=recipe.is_small, key=run_key
    )
    return follow(
        arguments,
        step,
        state,
        batches,
        lambda model: evaluate(model, held_out, eval_key, arguments.black),
        text,
        lambda model: advise(model, held_out, eval_key, (arguments.black, 1.0)),
    )


def draw(arguments, model, held_out, key):
    """What the slots paint, and where they look."""
    see = eqx.filter_jit(reconstruct)
    images, black = held_out.image[:8], arguments.black
    made = see(model, images, key)
    slot_sheet(images, made, black).save(arguments.output / "slots.png")
    rounds = [see(model, images[:4], key, num_iters=count) for count in (1, 2, 3)]
    frames = [attention_sheet(images[:4], made, black) for made in rounds]
    options = {"append_images": frames[1:], "duration": 900, "loop": 0}
    frames[0].save(arguments.output / "iterations.gif", save_all=True, **options)


def main(arguments: Arguments) -> dict:
    folder = make_folder(arguments.output)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    if arguments.records is None:
        paint_all = lambda key: paint(key, HELD_OUT, arguments)
        source, held_out = None, jax.jit(paint_all, **ONCE)(held_out_key)
    else:
        source, held_out = read(arguments, HELD_OUT)
    model, history, stopped = train(arguments, held_out, eval_key, source)

    last = {name: history[-1][name] for name in FIGURES}
    result = write_result(arguments, last, history, stopped)
    shown = ("fg_ari", "ari", "soft_ari")
    curves(folder / "training.png", history, {name: FIGURES[name] for name in shown})
    path, make = folder / "model.safetensors", arguments.recipe.make
    serialisation.save(path, model, make=make, arguments=arguments.built_with)
    draw(arguments, model, held_out, eval_key)
    tell(examine(model, held_out, eval_key, (arguments.black, 1.0)))
    print(f"Look at {folder / 'slots.png'}")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    over_seeds(main, arguments, demands(arguments))
