"""Find objects in pictures of your own: from a folder to a model and its masks.

    python examples/own_pictures.py FOLDER [--image-size H W] [--num-slots N]
                                    [--fit crop|stretch|pad] [--masks FOLDER]
                                    [--steps N] [--batch-size N] [--devices N]
                                    [--resume] [--output DIR]

Looks at some of the pictures, proposes what is not said, with reasons, and trains on
nine of ten. DIR gets `model.safetensors`, for `segment.py`, with `model.json` beside it
(what its own pictures look like), `overlay.png` (held-out pictures, what the model
makes of them, who owns which pixel, each slot), `metrics.json`, `history.jsonl` and
`training.png`. What the diagnostics find is printed, what is wrong marked by `!`. With
`--masks`, label maps that only scores look at, there are scores. Ctrl-C stops early
and writes all the same. 64 x 64 takes half an hour on two CPU cores.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from files import curves, said, tell, write_result, wrong
from follow import devices_of, follow
from options import (
    check_alone,
    check_batch,
    check_positive,
    check_weights,
    make_folder,
    Run,
)
from own_kind import figures_of, quantiles_of, save_kind
from pictures import slot_sheet
from proposal import proposed, read
from recipe import batch_for, loss, optimiser, reconstruct
from seeds import over_seeds

from eqx_slots import diagnostics, metrics, serialisation, training
from eqx_slots.models import presets, start_from_images


BLACK = -1.0  # pictures are trained in [-1, 1]
LEAST = 64  # pictures that quantiles are of
SHOWN = ("error", "soft_fg_ari", "soft_ari")


@dataclass
class Arguments(Run):
    """Train a slot autoencoder on a folder of pictures."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("pictures")
    image_size: tuple[int, int] | None = None
    """Height and width that the model sees; if not said, it is proposed."""
    fit: Literal["crop", "stretch", "pad"] = "crop"
    """How pictures of another shape get that size."""
    channels: Literal[1, 3] | None = None
    """If not said: 1 if all pictures are gray."""
    masks: Path | None = None
    """Label maps by the same names, as PNGs, for scores."""
    num_slots: int | None = None
    """If not said, it is proposed."""
    steps: int | None = 6000
    batch_size: int = 32
    rate: float = 6e-3
    sparsity: float = 1e-2
    output: Path = Path("runs/own_pictures")

    def __post_init__(self):
        super().__post_init__()
        check_alone(self.seeds)
        check_positive(rate=self.rate)
        check_batch(self.batch_size, self.devices)
        check_weights(sparsity=self.sparsity)

    @property
    def built_with(self):
        sizes = {"num_slots": self.num_slots, "image_size": list(self.image_size or ())}
        return sizes | {"channels": self.channels, "kernel_size": 5, "grad_iters": None}


def in_range(image):
    return BLACK + (1 - BLACK) * image


@eqx.filter_jit
def evaluate(model, images, segmentation, num_true, key):
    """The error as a share of the mean picture's, and scores where there are masks."""
    made = reconstruct(model, images, key)
    figures = {"error": diagnostics.reconstruction_error(images, made)}
    if segmentation is not None:
        both = {"ari": False, "fg_ari": True}
        for name, alone in both.items():
            options = {"num_true": num_true, "ignore_background": alone}
            score = partial(metrics.soft_adjusted_rand_index, **options)
            values = jax.vmap(score)(segmentation, made.masks)
            figures[f"soft_{name}"] = metrics.mean(values)
    return figures


def text(row):
    scores = "  ".join(f"{x} {said(row[x])}" for x in row if x in SHOWN)
    return f"loss {row['loss']:.5f}  {scores}  {row['steps_per_second']:.1f} steps/s"


def train(arguments, source, judge, advise):
    model_key, run_key = jr.split(jr.key(arguments.seed))
    mesh, size, steps = devices_of(arguments), arguments.batch_size, arguments.steps
    options = {"batch_size": size, "seed": arguments.seed}
    read_at = training.host_batches(source, mesh, **options)

    def batch_at(step):
        scenes = read_at(step)
        scenes = scenes._replace(image=in_range(scenes.image))
        return batch_for(scenes, int(step), steps, arguments.sparsity)

    model = presets.blocks(**arguments.built_with, key=model_key)
    first = jax.device_get(batch_at(0).scenes.image)
    model = start_from_images(model, first)
    muon = optimiser(steps, arguments.rate, warmup=50)
    optim = optax.chain(muon, training.scale_by_progress())
    step = training.make_step(loss, optim, ema_decay=0.995, mesh=mesh)
    state = training.TrainState.create(model, optim, use_ema=True, key=run_key)
    return follow(arguments, step, state, batch_at, judge, text, advise)


def main(arguments):
    folder = make_folder(arguments.output)
    arguments = proposed(arguments)
    source, others = read(arguments)
    print(f"{len(source)} pictures to train on, {len(others)} held out")
    images = jnp.stack([in_range(one.image) for one in others])
    truth, num_true = None, None
    if arguments.masks is not None:
        truth = jnp.stack([jnp.asarray(one.segmentation) for one in others])
        num_true = 1 + int(truth.max())
    key = jr.key(2**31 - 1)

    def examine(model):
        made = eqx.filter_jit(reconstruct)(model, images[:64], key)
        return diagnostics.diagnose(images[:64], made, rgb_range=(BLACK, 1.0))

    advise = lambda model: wrong(examine(model))
    judge = lambda model: evaluate(model, images, truth, num_true, key)
    model, history, stopped = train(arguments, source, judge, advise)
    last = {name: history[-1][name] for name in SHOWN if name in history[-1]}
    result = write_result(arguments, last, history, stopped)
    curves(folder / "training.png", history, {name: name for name in last})
    path = folder / "model.safetensors"
    options = {"make": presets.blocks, "arguments": arguments.built_with}
    serialisation.save(path, model, **options)
    # Quantiles want some dozens; where so few are held out, of the others too.
    own = [*others, *source.take(slice(max(0, LEAST - len(others))))]
    own = jnp.stack([in_range(one.image) for one in own])
    made = eqx.filter_jit(reconstruct)(model, own, key)
    kind = {
        name: getattr(arguments, name) for name in ("image_size", "fit", "channels")
    }
    kind["quantiles"] = quantiles_of(figures_of(own, made, BLACK))
    save_kind(path.with_suffix(".json"), **kind, black=BLACK)
    some = jax.tree.map(lambda x: x[:8], made)
    slot_sheet(own[:8], some, BLACK).save(folder / "overlay.png")
    tell(examine(model))
    print(f"Look at {folder / 'overlay.png'}; segment.py --model {path} does the rest.")
    return result


if __name__ == "__main__":
    over_seeds(main, tyro.cli(Arguments), {})
