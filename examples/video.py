"""Find objects in videos and follow them, without labels.

    python examples/video.py [--scenes blocks|sprites|solids] [--hints none|boxes]
                             [--objects FEWEST MOST] [--occlusion] [--num-frames N]
                             [--steps N] [--seed S] [--seeds N] [--resume]
                             [--devices N] [--output DIR]

Trained on clips of three frames and then of six, scored on clips of six and of
twenty-four. With `--hints boxes` slots begin at the boxes of the objects in the first
frame, as in SAVi; without, they have to find them. Ctrl-C stops early and still writes
what there is into DIR, and `--resume` goes on from there: `metrics.json` (scores over
whole clips, one assignment for all frames: `eqx_slots.metrics.whole_clip`),
`history.jsonl`, `video.gif` (input, reconstruction, who owns each pixel, what each slot
paints; the last six frames were not seen, but predicted), `training.png` and
`model.safetensors`.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from clip_scores import draw, FIGURES, figures, watch
from clips import (
    Arguments,
    as_seen,
    clips_at,
    DEMANDS,
    EARLY,
    frames_of,
    LONG,
    paint,
    short,
    whole,
)
from files import curves, said, tell, write_result, wrong
from follow import devices_of, follow, spread
from options import make_folder
from recipe import early_gradient_at, optimiser, readiness, shared_out, sparsity_at
from seeds import over_seeds

from eqx_slots import diagnostics, losses, serialisation, training
from eqx_slots.models import presets, Reconstruction, start_from_images


HELD_OUT = 128


def loss(model, clips, key, *, ahead, min_frames=2):
    """The error of the frames, that of frames foretold, and a little for masks that are
    shared out, once half of what there is to see is painted: as in `recipe.py`.
    Of clips with less than `min_frames` nothing is foretold: they are for shapes."""
    ahead = ahead if clips.images.shape[1] >= min_frames else 0.0
    early = jnp.mean(clips.early_gradient)  # one number, the same for all
    made = watch(model, clips, early_gradient=early)
    error = losses.mean_squared_error(made.images, clips.images)
    ready = readiness(model, clips.images, error)
    foretold = foretell(model, made, clips, key) if ahead else jnp.zeros(())
    shared = jnp.mean(jax.vmap(jax.vmap(shared_out))(made.masks), axis=1)
    masks = ready * jnp.mean(clips.sparsity * shared)
    scale = jax.lax.stop_gradient(model.standardization.scale)
    total = (error + ahead * ready * foretold) / scale**2 + masks
    return total, {"error": error, "foretold": foretold}


def foretell(model, made, clips, key):
    """The error of one frame of each clip, as it was foretold some frames before."""
    there = clips.there if model.slot_start is not None else None

    def one(predicted, images, there, key):
        from_key, at_key = jr.split(key)
        last = len(images) - 1
        begin = jr.randint(from_key, (), 0, last)  # after this frame nothing is seen
        at = jr.randint(at_key, (), begin + 1, last + 1)

        def move(slots, _):
            return model.predictor(slots, slot_mask=there), slots

        _, slots = jax.lax.scan(move, predicted[begin], length=last)
        foretold = slots[at - begin - 1]
        image = model.paint(foretold[None], slot_mask=there).images[0]
        return losses.mean_squared_error(image, images[at])

    keys = jr.split(key, len(clips.images))
    axes = (0, 0, None if there is None else 0, 0)
    errors = jax.vmap(one, in_axes=axes)(made.predicted, clips.images, there, keys)
    return jnp.mean(errors)


def text(row):
    """What is shown of a run on its way."""
    names = ("fg_ari", "soft_ari", "ahead_1")
    scores = (f"{FIGURES[name]} {said(row[name])}" for name in names)
    loss, speed = f"loss {row['loss']:.5f}", f"{row['steps_per_second']:.1f} steps/s"
    return "  ".join([loss, *scores, speed])


def examine(model, clips):
    """What the diagnostics find in the last frame of some of the clips."""
    some = jax.tree.map(lambda x: x[:64], clips)
    some = some._replace(images=some.images[:, : LONG // 4])
    made = eqx.filter_jit(watch)(model, some)
    parts = (made.images, made.rgb, made.masks, made.slots, made.attention)
    last = Reconstruction(*(x[:, -1] for x in parts))
    truth = some.segmentation[:, LONG // 4 - 1]
    options = {"segmentation": truth, "num_true": 1 + some.boxes.shape[1]}
    return diagnostics.diagnose(some.images[:, -1], last, rgb_range=(-1, 1), **options)


def train(arguments, held_out):
    model_key, data_key, run_key = jr.split(jr.key(arguments.seed), 3)
    steps = arguments.steps
    make = eqx.filter_jit(presets.block_videos)
    model = make(**arguments.built_with, key=model_key)

    def batch_at(part, clips_at, step):
        sparsity = sparsity_at(step, steps, arguments.sparsity)
        return part(as_seen(clips_at(step), sparsity, early_gradient_at(step, steps)))

    muon = optimiser(steps, arguments.rate, warmup=50)
    optim = optax.chain(muon, training.scale_by_progress())
    error = partial(loss, ahead=arguments.ahead, min_frames=arguments.num_frames)
    painted = clips_at(data_key, arguments)
    of = lambda part: jax.tree_util.Partial(partial(batch_at, part), painted)
    step, early = spread(arguments, error, optim, of(short))
    late = training.shard_batches(of(whole), devices_of(arguments))
    batches = lambda step: (early if step < EARLY * steps else late)(step)
    some = jax.device_get(frames_of(batches(jnp.zeros((), jnp.int32))))
    model = start_from_images(model, some)
    state = training.TrainState.create(model, optim, use_ema=True, key=run_key)
    advise = lambda model: wrong(examine(model, held_out))
    judge = lambda model: figures(model, held_out)
    return follow(arguments, step, state, batches, judge, text, advise, every=500)


def main(arguments: Arguments) -> dict:
    folder = make_folder(arguments.output)
    key = jr.key(2**31 - 1)  # the same for all seeds
    paint_all = lambda key: paint(key, HELD_OUT, LONG, arguments)
    held_out = jax.jit(paint_all)(key)
    model, history, stopped = train(arguments, held_out)
    last = {name: history[-1][name] for name in FIGURES}
    result = write_result(arguments, last, history, stopped)
    shown = ("fg_ari", "ari", "soft_ari", "long_ari")
    curves(folder / "training.png", history, {name: FIGURES[name] for name in shown})
    path, built = folder / "model.safetensors", arguments.built_with
    serialisation.save(path, model, make=presets.block_videos, arguments=built)
    draw(folder / "video.gif", model, jax.tree.map(lambda x: x[:4], held_out))
    tell(examine(model, held_out))
    print(f"Look at {folder / 'video.gif'}")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    over_seeds(main, arguments, DEMANDS[arguments.scenes, arguments.hints])
