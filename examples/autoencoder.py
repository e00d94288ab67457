"""Find coloured blocks without labels: train a slot autoencoder and look at its slots.

    python examples/autoencoder.py [--preset blocks|blog] [--background gray|black|...]
                                   [--objects FEWEST MOST] [--block-size LEAST MOST]
                                   [--image-size 32|64] [--num-slots N] [--sparsity W]
                                   [--steps N] [--seed S] [--seeds N] [--resume]
                                   [--output DIR]

With the defaults: five minutes on two CPU cores; docs/results.md has the scores of all
seeds. Ctrl-C stops early and still writes what there is into DIR, and `--resume` goes
on from there: `metrics.json` (figures on 320 scenes never trained on), `options.json`,
`history.jsonl`, `slots.png` (input, reconstruction, segmentation, each slot's RGB times
its mask), `training.png`, `iterations.gif` (the attention, round by round) and
`model.safetensors`, for `eqx_slots.serialisation.load`. What the diagnostics find is
printed at the end, what is wrong marked by `!`. `--seeds 8` makes eight runs and a
table of them, `seeds.md`; `--help` has all options.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from files import curves, said, write_result
from follow import follow, spread
from options import check_positive, make_folder, refuse
from pictures import attention_sheet, slot_sheet
from recipe import Batch, loss, optimiser, reconstruct, sparsity_at
from scenes import paint, Scenes
from scores import FIGURES, figures
from seeds import over_seeds

from eqx_slots import diagnostics, serialisation, training
from eqx_slots.models import presets, start_from_images


HELD_OUT = 320
DEMANDS = {"fg_ari": 0.96, "ari": 0.97, "soft_ari": 0.95}
MAKE = {"blocks": presets.blocks, "blog": presets.blog}
# Slots beyond one for each block, and the weight of masks that are shared out.
DEFAULTS = {"blocks": (3, 1e-2), "blog": (1, 0.0)}
# Of `jax.jit`, for what runs once: to compile that well takes longer than it saves.
ONCE: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 0}}
# The colour that a model calls black: linear RGB is trained in [-1, 1], as in the
# official code, and sigmoid RGB can only paint [0, 1].
BLACK = {"blocks": -1.0, "blog": 0.0}


@dataclass
class Arguments(Scenes):
    """Train a slot autoencoder on coloured blocks."""

    preset: Literal["blocks", "blog"] = "blocks"
    """`blog` is the textbook's model and recipe."""
    num_slots: int | None = None
    """If not said: three more than the most blocks, or with `--preset blog` one."""
    sparsity: float | None = None
    """Weight of masks shared out; if not said: 1e-2, or 0 with `--preset blog`."""
    batch_size: int = 32
    rate: float = 6e-3
    """Of Muon, at most; Adam's is a third of it. `--preset blog` has its own."""
    steps: int = 3500
    output: Path = Path("runs/autoencoder")

    def __post_init__(self):
        super().__post_init__()
        spare, sparsity = DEFAULTS[self.preset]
        if self.num_slots is None:
            self.num_slots = self.objects[1] + spare
        self.sparsity = sparsity if self.sparsity is None else self.sparsity
        check_positive(num_slots=self.num_slots, batch_size=self.batch_size)
        check_positive(rate=self.rate)
        if not self.sparsity >= 0:
            refuse(f"--sparsity must be 0 or more, got {self.sparsity}.")
        if self.batch_size % self.devices:
            count = f"--batch-size {self.batch_size} does not divide among"
            refuse(f"{count} --devices {self.devices}.")
        if self.preset == "blog" and (self.image_size, self.channels) != (32, 3):
            refuse("--preset blog is for --image-size 32 alone, and three channels.")

    @property
    def black(self):
        return BLACK[self.preset]

    @property
    def built_with(self):
        """The sizes of the model."""
        sizes = ("image_size", "channels") if self.preset == "blocks" else ()
        return {name: getattr(self, name) for name in ("num_slots", *sizes)}


def demands(arguments):
    """What a seed should reach. FG-ARI is undefined where blocks are always alone."""
    alone = arguments.objects[1] == 1
    return {k: least for k, least in DEMANDS.items() if not (alone and k == "fg_ari")}


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
    findings = examine(model, held_out, key, rgb_range)
    return [f"{one.name}: {one.sentence}" for one in findings if one.is_wrong]


def train(arguments, held_out, eval_key):
    """Run to the end or to Ctrl-C; gives the model, the history and why it ended."""
    model_key, data_key, run_key = jr.split(jr.key(arguments.seed), 3)
    make = eqx.filter_jit(MAKE[arguments.preset], **ONCE)
    model = make(**arguments.built_with, key=model_key)
    steps, size = arguments.steps, arguments.batch_size

    def batch_at(step):
        scenes = paint(jr.fold_in(data_key, step), size, arguments)
        weight = sparsity_at(step, steps, arguments.sparsity)
        return Batch(scenes, jnp.broadcast_to(weight, size))

    is_ours = arguments.preset == "blocks"
    if is_ours:
        muon = optimiser(steps, arguments.rate, warmup=50)
        optim = optax.chain(muon, training.scale_by_progress())  # small blocks need it
    else:
        optim = training.adam(training.paper_schedule(warmup_steps=1000))
    step, batches = spread(arguments, loss, optim, batch_at)
    if is_ours:
        images = batches(jnp.zeros((), jnp.int32)).scenes.image
        model = start_from_images(model, jax.device_get(images))
    state = training.TrainState.create(model, optim, use_ema=is_ours, key=run_key)
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
    rounds = [see(model, images[:4], key, count) for count in (1, 2, 3)]
    frames = [attention_sheet(images[:4], made, black) for made in rounds]
    options = {"append_images": frames[1:], "duration": 900, "loop": 0}
    frames[0].save(arguments.output / "iterations.gif", save_all=True, **options)


def main(arguments: Arguments) -> dict:
    folder = make_folder(arguments.output)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    paint_all = lambda key: paint(key, HELD_OUT, arguments)
    held_out = jax.jit(paint_all, **ONCE)(held_out_key)
    model, history, stopped = train(arguments, held_out, eval_key)

    last = {name: history[-1][name] for name in FIGURES}
    result = write_result(arguments, last, history, stopped)
    shown = ("fg_ari", "ari", "soft_ari")
    curves(folder / "training.png", history, {name: FIGURES[name] for name in shown})
    path, make = folder / "model.safetensors", MAKE[arguments.preset]
    serialisation.save(path, model, make=make, arguments=arguments.built_with)
    draw(arguments, model, held_out, eval_key)
    for one in examine(model, held_out, eval_key, (arguments.black, 1.0)):
        mark = "!" if one.is_wrong else " "
        print(f"{mark} {one.name:20} {one.value:5.2f}  {one.sentence}")
    print(f"Look at {folder / 'slots.png'}")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    over_seeds(main, arguments, demands(arguments))
