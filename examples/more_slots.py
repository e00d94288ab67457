"""More slots at test than in training: what each reduction makes of them.

    python examples/more_slots.py [--steps N] [--seed S] [--output DIR]

Trains one slot autoencoder for each reduction on scenes of two to four blocks, with
seven slots, then shows it scenes of as many and of more blocks with seven slots and
more. Writes `more_slots.json` and `more_slots.png` (FG-ARI and ARI over the number of
slots). The weighted mean is also tried as a scaled mean, on the same weights. A quarter
of an hour on two CPU cores.
"""

import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import tyro
from matplotlib.figure import Figure
from options import check_run, make_folder
from recipe import optimiser, picture_loss as loss

from eqx_slots import metrics, nn, training
from eqx_slots.data import blocks
from eqx_slots.models import presets


BATCH_SIZE, HELD_OUT = 32, 160
TRAINED_SLOTS, SLOTS = 7, (7, 9, 11, 15)
OBJECTS = {"2 to 4": (2, 4), "5 and 6": (5, 6)}
REDUCTIONS = {
    "weighted mean": nn.WeightedMean(),
    "weighted sum": nn.WeightedSum(),
    "layer norm of sum": nn.LayerNormSum(64),
}


def paint(key, number, num_objects):
    scene = partial(blocks.scene, num_objects=num_objects)
    scenes = jax.vmap(scene)(jr.split(key, number))
    return scenes._replace(image=2 * scenes.image - 1)


def build(reduction, key):
    """The example's model, but with slots that can be drawn in any number."""
    model_key, init_key = jr.split(key)
    parts = (nn.GaussianSlots(64, key=init_key), reduction)
    where = lambda m: (m.slot_attention.slot_init, m.slot_attention.reduction)
    return eqx.tree_at(where, presets.blocks(grad_iters=1, key=model_key), parts)


def train(name, reduction, steps, key):
    model_key, data_key, run_key = jr.split(key, 3)
    optim = optimiser(steps, 3e-3)
    model = eqx.filter_jit(build)(reduction, model_key)
    state = training.TrainState.create(model, optim, key=run_key)
    batch_at = jax.jit(
        lambda step: paint(jr.fold_in(data_key, step), BATCH_SIZE, OBJECTS["2 to 4"])
    )
    step = training.make_step(loss, optim)
    for now in training.run(step, state, batch_at, num_steps=steps, report_every=250):
        print(f"{name}: step {now.step:4d}  loss {now.loss:.4f}", flush=True)
    return now.state.model


@eqx.filter_jit
def evaluate(model, scenes, num_slots, key):
    one = lambda image, key: model(image, num_slots=num_slots, key=key).masks
    masks = jax.vmap(one)(scenes.image, jr.split(key, len(scenes.image)))
    predicted = jnp.argmax(masks, axis=1)
    options = {"num_true": 7, "num_predicted": num_slots}
    ari = partial(metrics.adjusted_rand_index, **options)
    fg_ari = partial(ari, ignore_background=True)
    mean = lambda score: metrics.mean(jax.vmap(score)(scenes.segmentation, predicted))
    return {"fg_ari": mean(fg_ari), "ari": mean(ari)}


def draw(rows, path):
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (score, objects) in zip(
        figure.subplots(2, 2, sharex=True, sharey=True).flat,
        [(score, objects) for score in ("fg_ari", "ari") for objects in OBJECTS],
    ):
        for name in dict.fromkeys(row["reduction"] for row in rows):
            mine = [
                r for r in rows if (r["reduction"], r["objects"]) == (name, objects)
            ]
            axes.plot(SLOTS, [row[score] for row in mine], marker="o", label=name)
        title = f"{score.upper().replace('_', '-')}, {objects} blocks"
        axes.set(title=title, xlabel="slots at test", xticks=SLOTS, ylim=(0, 1.02))
    axes.legend()
    figure.savefig(path, dpi=120)


def main(steps: int = 3000, seed: int = 0, output: Path = Path("runs/more_slots")):
    check_run(steps, seed)
    make_folder(output)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    sets = {name: paint(held_out_key, HELD_OUT, two) for name, two in OBJECTS.items()}
    trained = {
        name: train(name, reduction, steps, jr.key(seed))
        for name, reduction in REDUCTIONS.items()
    }
    trained["scaled mean (trained as mean)"] = eqx.tree_at(
        lambda m: m.slot_attention.reduction,
        trained["weighted mean"],
        nn.ScaledMean(TRAINED_SLOTS),
    )
    rows = []
    for name, model in trained.items():
        for objects, scenes in sets.items():
            for num_slots in SLOTS:
                scores = evaluate(model, scenes, num_slots, eval_key)
                row = {"reduction": name, "objects": objects, "slots": num_slots}
                row |= {score: float(value) for score, value in scores.items()}
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()))
    result = {"steps": steps, "seed": seed, "rows": rows}
    (output / "more_slots.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, output / "more_slots.png")
    return rows


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    tyro.cli(main)
