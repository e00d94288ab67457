"""Find objects in videos of your own and follow them, without labels.

    python examples/own_videos.py FOLDER [--num-frames N] [--image-size H W]
                                  [--fit crop|stretch|pad] [--num-slots N]
                                  [--steps N] [--batch-size N] [--devices N]
                                  [--resume] [--output DIR]

FOLDER has a folder of frames for each video, or animated GIFs. They are cut into clips;
the first nine of ten by name are trained on, by the model and the loss of `video.py`.
DIR gets `video.gif` (held-out clips: input, reconstruction, who owns each pixel, what
each slot paints; the last frames were not seen, but predicted), `model.safetensors`,
`metrics.json`, `history.jsonl` and `training.png`. There are no labels, and so no
scores: the error is that of the last frames, as a share of that of their mean. What the
diagnostics find is printed, what is wrong marked by `!`. Ctrl-C stops early and writes
all the same.
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
from clip_scores import draw, watch
from clips import Clips, for_each, frames_of
from files import curves, said, tell, write_result, wrong
from follow import follow, read_ahead
from options import (
    check_alone,
    check_batch,
    check_positive,
    check_weights,
    make_folder,
    refuse,
    Run,
)
from recipe import early_gradient_at, optimiser, sparsity_at
from seeds import over_seeds
from video import loss

from eqx_slots import diagnostics, serialisation, training
from eqx_slots.data import pictures
from eqx_slots.models import presets, Reconstruction, start_from_images


HELD_OUT = 64  # clips at most, and at most a tenth


@dataclass
class Arguments(Run):
    """Train a slot model on a folder of videos."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("videos")
    num_frames: int = 6
    """Of a clip."""
    image_size: tuple[int, int] = (32, 32)
    """Height and width that the model sees."""
    fit: Literal["crop", "stretch", "pad"] = "crop"
    """How frames of another shape get that size."""
    channels: Literal[1, 3] = 3
    num_slots: int = 7
    """One for each object that there can be, one for the background, some to spare."""
    batch_size: int = 8
    """Clips in a batch."""
    rate: float = 6e-3
    """Of Muon, at most; Adam's is a third of it."""
    sparsity: float = 1e-2
    """Weight of masks that are shared out."""
    ahead: float = 0.5
    """Weight of the error of frames that were predicted."""
    output: Path = Path("runs/own_videos")

    def __post_init__(self):
        super().__post_init__()
        check_alone(self.seeds)
        check_positive(num_slots=self.num_slots, rate=self.rate)
        check_batch(self.batch_size, self.devices)
        check_weights(sparsity=self.sparsity, ahead=self.ahead)
        if self.num_frames < 2:
            refuse(f"--num-frames must be 2 or more, got {self.num_frames}.")

    @property
    def built_with(self):
        sizes = {"num_slots": self.num_slots, "image_size": list(self.image_size)}
        return sizes | {"channels": self.channels}


def read(arguments):
    """Clips to train on, and others; of both there is one video at most."""
    names = ("num_frames", "image_size", "fit", "channels")
    options = {name: getattr(arguments, name) for name in names}
    shown = lambda count: print(f"{count} frames read", end="\r")
    try:
        source = pictures.clips(arguments.folder, **options, progress=shown)
    except ValueError as error:
        refuse(str(error))
    for note in source.frames.notes:
        print(note)
    first = len(source) - max(2, min(HELD_OUT, len(source) // 10))
    if first < arguments.batch_size:
        few = f"{arguments.folder} has {len(source)} clips"
        refuse(f"{few}, too few for --batch-size {arguments.batch_size}.")
    return source.take(slice(first)), source.take(slice(first, None))


def as_seen(images, *numbers):
    """Clips in the model's range, [-1, 1], of which nothing else is known."""
    return Clips(2 * images - 1, None, None, None, *for_each(images, *numbers))


@eqx.filter_jit
def last_frames(model, clips):
    """The last of each clip, and what the model makes of them."""
    made = watch(model, clips)
    parts = (made.images, made.rgb, made.masks, made.slots, made.attention)
    return clips.images[:, -1], Reconstruction(*(x[:, -1] for x in parts))


def train(arguments, source, judge, advise):
    model_key, run_key = jr.split(jr.key(arguments.seed))
    make = eqx.filter_jit(presets.block_videos)
    model = make(**arguments.built_with, key=model_key)

    def batch_at(clips, step):
        step, steps = int(step), arguments.steps
        sparsity = sparsity_at(step, steps, arguments.sparsity)
        return as_seen(clips.images, sparsity, early_gradient_at(step, steps))

    muon = optimiser(arguments.steps, arguments.rate, warmup=50)
    optim = optax.chain(muon, training.scale_by_progress())
    error = partial(loss, ahead=arguments.ahead)
    step, batches = read_ahead(arguments, error, optim, source, batch_at)
    model = start_from_images(model, jax.device_get(frames_of(batches(0))))
    state = training.TrainState.create(model, optim, use_ema=True, key=run_key)
    text = lambda row: f"loss {row['loss']:.5f}  error {said(row['error'])}"
    return follow(arguments, step, state, batches, judge, text, advise, every=500)


def main(arguments):
    folder = make_folder(arguments.output)
    source, others = read(arguments)
    print(f"{len(source)} clips to train on, {len(others)} held out")
    held_out = as_seen(jnp.stack([clip.images for clip in others]), 0, 1)
    examine = lambda model: diagnostics.diagnose(
        *last_frames(model, held_out), rgb_range=(-1, 1)
    )
    judge = lambda model: {
        "error": diagnostics.reconstruction_error(*last_frames(model, held_out))
    }
    advise = lambda model: wrong(examine(model))
    model, history, stopped = train(arguments, source, judge, advise)
    last = {"error": history[-1]["error"]}
    result = write_result(arguments, last, history, stopped)
    curves(folder / "training.png", history, {"error": "error"})
    path, built = folder / "model.safetensors", arguments.built_with
    serialisation.save(path, model, make=presets.block_videos, arguments=built)
    draw(folder / "video.gif", model, jax.tree.map(lambda x: x[:4], held_out))
    tell(examine(model))
    print(f"Look at {folder / 'video.gif'}")
    return result


if __name__ == "__main__":
    over_seeds(main, tyro.cli(Arguments), {})
