"""Predict the set of objects in a picture: place, size and colour of every block.

    python examples/set_prediction.py [--scenes blocks|solids] [--objects FEWEST MOST]
                                      [--background gray|black] [--pool N]
                                      [--records FOLDER] [--steps N] [--seed S]
                                      [--seeds N] [--output DIR] [--resume]
                                      [--checkpoint-every N]

Trained with labels on scenes of one to six blocks. With the defaults: six minutes on
two CPU cores, then an average precision of 1.00 at distances 0.5 and 0.25, in
units where the image is 6 wide; docs/results.md has all seeds. Of solids, in the manner
of CLEVR, it is place, size, material, shape and colour, and takes half an hour of one
core. With `--records` it is CLEVR itself: the folder CLEVR_v1.0, its pictures at
64 x 64. Ctrl-C stops early and still writes what there is into DIR, and `--resume` goes
on from there: `metrics.json` (average precision and the share of scenes with the right
count, on 320 scenes never trained on), `history.jsonl`, `sets.png` (what is predicted,
over the scenes), `attention.png` (where each slot looks), `training.png` and
`model.safetensors`. `--seeds 5` makes five runs and a table of them, `seeds.md`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from files import curves, write_result
from follow import follow, read_ahead, spread
from options import check_objects, check_positive, make_folder, refuse, Run
from pictures import sheet
from recipe import optimiser
from seeds import over_seeds
from sets import draw, KINDS, loss_on, predict, read, targets_of

from eqx_slots import data, metrics, serialisation, training


BATCH_SIZE, HELD_OUT = 32, 320
AP = ("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")


@dataclass
class Arguments(Run):
    """Train a slot set predictor on painted scenes."""

    scenes: Literal["blocks", "solids"] = "blocks"
    """Blocks, or solids in the manner of CLEVR."""
    background: Literal["gray", "black"] = "gray"
    """Of blocks."""
    objects: tuple[int, int] | None = None
    """Fewest and most in a scene; if not said: 1 and 6 blocks, 3 and 6 solids."""
    pool: int = 20_000
    """So many scenes of solids are painted, once."""
    records: Path | None = None
    """The folder of CLEVR v1.0 in place of painted solids, with up to ten objects."""
    steps: int | None = None
    """If not said: 3,000 for blocks, 6,000 for solids."""
    output: Path = Path("runs/set_prediction")

    def __post_init__(self):
        if self.records is not None and self.scenes != "solids":
            refuse("--records are for --scenes solids.")
        self.steps = self.sets.steps if self.steps is None else self.steps
        super().__post_init__()
        self.objects = self.sets.objects if self.objects is None else self.objects
        check_objects(self.objects, 10 if self.scenes == "solids" else None)
        check_positive(pool=self.pool)
        if BATCH_SIZE % self.devices:
            refuse(f"--devices {self.devices} does not divide the {BATCH_SIZE} scenes.")
        if self.scenes == "solids":
            if self.background != "gray":
                refuse("--background is no option of --scenes solids.")
            if self.pool < BATCH_SIZE:
                refuse(f"--pool must be {BATCH_SIZE} at least, got {self.pool}.")

    @property
    def sets(self):
        """What is predicted of these scenes."""
        return KINDS[self.scenes if self.records is None else "clevr"]

    @property
    def batch_size(self):
        return BATCH_SIZE

    @property
    def num_slots(self):
        """Two to spare."""
        return (self.objects or self.sets.objects)[1] + 2

    @property
    def painter(self):
        """Paints one scene from a key."""
        of_blocks = {"background": self.background} if self.scenes == "blocks" else {}
        size = (self.sets.side,) * 2
        options = {"num_objects": self.objects, "image_size": size}
        return partial(self.sets.scene, **options, **of_blocks)


def as_seen(scenes, arguments):
    """Images in [-1, 1], and the truth with a row for each slot."""
    targets = targets_of(arguments.sets, scenes, arguments.num_slots)
    return 2 * scenes.image - 1, targets


def paint(key, number, arguments):
    scenes = jax.vmap(arguments.painter)(jr.split(key, number))
    return as_seen(scenes, arguments)


def batches(key, arguments):
    """By the number of the step: painted for it, or where that is slow from a pool."""
    if arguments.scenes == "solids":
        painter, size = arguments.painter, arguments.pool
        pool = data.pool(painter, key, size, batch_size=BATCH_SIZE)
        seen = lambda pool, step: as_seen(pool(step), arguments)
        return jax.tree_util.Partial(seen, pool)
    return lambda step: paint(jr.fold_in(key, step), BATCH_SIZE, arguments)


@eqx.filter_jit
def evaluate(model, held_out, key, **options):
    """AP at each distance, and how often the count of objects is right."""
    (images, targets), properties = held_out, model.properties
    elements = predict(model, images, key, **options).elements
    scores = metrics.average_precision(elements, targets, properties=properties).value
    count = lambda rows: jnp.sum(properties.decode(rows)["present"] > 0.5, axis=-1)
    right = jnp.mean(count(elements) == count(targets))
    return dict(zip(AP, scores)) | {"count_accuracy": right}


def text(row):
    scores = "  ".join(f"{name} {row[name]:.3f}" for name in ("ap_inf", "ap_0.25"))
    return f"loss {row['loss']:.4f}  {scores}  {row['steps_per_second']:.1f} steps/s"


def train(arguments, build, held_out, eval_key, source=None):
    model_key, data_key, run_key = jr.split(jr.key(arguments.seed), 3)
    optim, loss = optimiser(arguments.steps, 3e-3), loss_on(arguments.sets)
    num_slots = arguments.num_slots
    arguments.sets.properties.check(held_out[1], num_slots=num_slots)
    model = eqx.filter_jit(build)(num_slots=num_slots, key=model_key)
    if source is None:
        step, batch_at = spread(arguments, loss, optim, batches(data_key, arguments))
    else:
        seen = jax.jit(lambda scenes, step: as_seen(scenes, arguments))
        step, batch_at = read_ahead(arguments, loss, optim, source, seen)
    state = training.TrainState.create(model, optim, key=run_key)
    judge = lambda model: evaluate(model, held_out, eval_key)
    return follow(arguments, step, state, batch_at, judge, text)


def main(arguments: Arguments) -> dict:
    folder = make_folder(arguments.output)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    if arguments.records is None:
        paint_all = lambda key: paint(key, HELD_OUT, arguments)
        source, held_out = None, jax.jit(paint_all)(held_out_key)
    else:
        source, scenes = read(arguments, HELD_OUT)
        held_out = as_seen(scenes, arguments)
    make = arguments.sets.make
    model, history, stopped = train(arguments, make, held_out, eval_key, source)

    figures = {name: history[-1][name] for name in (*AP, "count_accuracy")}
    result = write_result(arguments, figures, history, stopped)
    path, built = folder / "model.safetensors", {"num_slots": arguments.num_slots}
    serialisation.save(path, model, make=make, arguments=built)
    images = held_out[0][:8]
    made = eqx.filter_jit(predict)(model, images, eval_key)
    rows = draw(folder, arguments.sets, (np.asarray(images) + 1) / 2, made)
    sheet(rows).save(folder / "attention.png")
    curves(folder / "training.png", history, dict(zip(AP, AP)))
    print(f"Look at {folder / 'sets.png'}")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    over_seeds(main, arguments, arguments.sets.demands)
