"""Sets larger than any in training: more objects, more slots, more rounds.

    python examples/more_objects.py [--steps N] [--seed S] [--output DIR] [--resume]
                                    [--checkpoint-every N]

Trains the set predictor on scenes of one to four blocks, with six slots drawn from one
Gaussian, so that there can be any number of them; then shows it scenes of up to six
blocks, with as many and more slots and rounds. Writes `more_objects.json` and
`more_objects.png` (average precision over the rounds).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax.random as jr
import set_prediction
import tyro
from matplotlib.figure import Figure
from options import make_folder, refuse
from set_prediction import evaluate, paint, train

from eqx_slots import nn, training
from eqx_slots.models import presets


HELD_OUT = 320
OBJECTS = {"1 to 4": (1, 4), "5": (5, 5), "6": (6, 6)}
SLOTS, ROUNDS = (6, 8, 10), (1, 2, 3, 4, 5, 7)


@dataclass
class Arguments(set_prediction.Arguments):
    """Train a slot set predictor on few blocks, test it on more."""

    objects: tuple[int, int] | None = OBJECTS["1 to 4"]
    steps: int | None = 4000
    output: Path = Path("runs/more_objects")


def build(*, num_slots, key):
    """The example's model, but with slots that can be drawn in any number."""
    model_key, init_key = jr.split(key)
    model = presets.block_sets(num_slots=num_slots, key=model_key)
    where = lambda m: m.slot_attention.slot_init
    return eqx.tree_at(where, model, nn.GaussianSlots(64, key=init_key))


def draw(rows, path):
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(OBJECTS), sharey=True)
    for axes, objects in zip(panels, OBJECTS):
        for slots in SLOTS:
            mine = [r for r in rows if (r["objects"], r["slots"]) == (objects, slots)]
            rounds = [row["rounds"] for row in mine]
            label = f"{slots} slots"
            axes.plot(rounds, [row["ap_0.5"] for row in mine], marker="o", label=label)
        axes.axvline(3, color="gray", linewidth=0.5)
        axes.set(title=f"{objects} blocks", xlabel="rounds at test", ylim=(0, 1.02))
    panels[0].set(ylabel="AP at distance 0.5")
    panels[-1].legend()
    figure.savefig(path, dpi=120)


def main(arguments: Arguments) -> list[dict]:
    usual = (1, OBJECTS["1 to 4"], "blocks")
    if (arguments.seeds, arguments.objects, arguments.scenes) != usual:
        refuse("It trains one seed, on one to four blocks: no such options.")
    output = make_folder(arguments.output)
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))  # the same for all seeds
    sets = {
        name: paint(held_out_key, HELD_OUT, replace(arguments, objects=two))
        for name, two in OBJECTS.items()
    }
    model, history, stopped = train(arguments, build, sets["1 to 4"], eval_key)
    rows = []
    for objects, held_out in sets.items():
        for slots in SLOTS:
            for rounds in ROUNDS:
                options = {"num_slots": slots, "num_iters": rounds}
                figures = evaluate(model, held_out, eval_key, **options)
                row = {"objects": objects, "slots": slots, "rounds": rounds}
                row |= {name: float(value) for name, value in figures.items()}
                rows.append(row)
                print(row)
    result = {"steps": history[-1]["step"], "stopped": stopped}
    result |= {"seed": arguments.seed, "rows": rows}
    (output / "more_objects.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(rows, output / "more_objects.png")
    return rows


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    training.keep_memory()
    if arguments.compilation_cache:
        training.use_compilation_cache()
    main(arguments)
