"""Put a trained model into the package, for `models.pretrained`.

    python -m tests.weights blocks runs/autoencoder

Takes what `examples/autoencoder.py`, or `set_prediction.py`, has left in a folder,
stores the arrays in float16, loads them back and measures these on the scenes that all
runs hold out. The two files go into `eqx_slots/models/weights/`, the scores into
`docs/records/pretrained.json`, or `pretrained_sets.json`, from which `python -m
docs.tables` writes the guide's tables. Prints each beside that of the run.
"""

import io
import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro

from docs import tables
from eqx_slots import serialisation
from eqx_slots.models._pretrained import digest, restored

from .test_examples import load


FOLDER = Path(__file__).parents[1] / "eqx_slots" / "models" / "weights"
DIGITS = 5  # of what is written down


def halved(model) -> bytes:
    """The arrays, one after the other."""

    def save(file, leaf):
        if eqx.is_array(leaf):
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            array = np.asarray(leaf, np.float16 if floating else None)
            assert np.all(np.isfinite(array)), "float16 cannot hold this"
            np.save(file, array)

    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model, filter_spec=save)
    return file.getvalue()


def command_of(said) -> str:
    """The shortest line for the options of a run; parsed again, it says the same."""
    name = "autoencoder" if "preset" in said else "set_prediction"
    make, identity = load(name).Arguments, load("options").identity
    chosen = {key: said[key] for key in ("scenes", "preset") if key in said}
    plain, usual = identity(make()), identity(make(**chosen))
    words = ["python", f"examples/{name}.py"]
    for option, value in said.items():
        if value == (plain if option in chosen else usual)[option]:
            continue
        words.append(f"--{option.replace('_', '-')}")
        values = value if isinstance(value, list) else [value]
        words += [] if value is True else map(str, values)
    command = " ".join(words)
    assert identity(parsed(command)[1]) == said, command
    return command


def parsed(command):
    """The example of a command, and its options."""
    _, script, *words = command.split()
    example = load(Path(script).stem)
    return example, tyro.cli(example.Arguments, args=words)


def facts(arguments) -> dict:
    """What builds the model of a run, and what it sees."""
    sets = getattr(arguments, "sets", None)
    if sets is not None:
        make, sizes = sets.make, {"num_slots": arguments.num_slots}
        side, channels, black = sets.side, 3, -1.0
    else:
        make, sizes = arguments.recipe.make, arguments.built_with
        side, channels = arguments.image_size, arguments.channels
        black = arguments.black
    card = {"make": make.__name__, "arguments": sizes, "image_size": [side, side]}
    return card | {"channels": channels, "image_range": [black, 1.0]}


def scored(model, example, arguments, key, number):
    """Scores on so many scenes, and of pictures that are painted what these are like.

    With the last key of all, the scenes are those that the example holds out.
    """
    scenes_key, eval_key = jr.split(key)
    paint = lambda key: example.paint(key, number, arguments)
    scenes = jax.jit(paint)(scenes_key)
    if not hasattr(example, "reconstruct"):
        return rounded(example.evaluate(model, scenes, eval_key)), {}
    black, own_kind = arguments.black, load("own_kind")
    scores = example.evaluate(model, scenes, eval_key, black)
    made = eqx.filter_jit(example.reconstruct)(model, scenes.image, eval_key)
    figures = own_kind.figures_of(scenes.image, made, black)
    return rounded(scores), rounded(own_kind.quantiles_of(figures))


def rounded(figures) -> dict:
    """As JSON has them, with no more digits than say something."""
    numbers = {name: np.asarray(x, np.float64) for name, x in figures.items()}
    return {name: np.round(x, DIGITS).tolist() for name, x in numbers.items()}


def main(name: str, run: Path, folder: Path = FOLDER) -> dict:
    """Write the files of a model; what they say of it comes back."""
    row = json.loads((run / "metrics.json").read_text())
    if row["stopped"] != "finished":
        raise SystemExit(f"{run} was {row['stopped']} after {row['steps']} steps.")
    command = command_of(json.loads((run / "options.json").read_text()))
    example, arguments = parsed(command)
    leaves = halved(serialisation.load(run / "model.safetensors"))
    card = facts(arguments) | {"command": command, "seed": arguments.seed}
    model, last = restored(card, leaves), jr.key(2**31 - 1)
    found = scored(model, example, arguments, last, example.HELD_OUT)
    card |= dict(zip(("scores", "quantiles"), found))
    card = json.loads(json.dumps(card))  # as it will be read
    card["sha256"] = digest(card, leaves)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.eqx").write_bytes(leaves)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    for score, value in card["scores"].items():
        print(f"{score:18} {value:9.5f}  of the run {row[score]:9.5f}")
    print(f"{name}: {len(leaves):,} bytes, {command}")
    return card


def rows(score: str) -> list[dict]:
    """What the documentation shows of all models that have such a score."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        card = json.loads(path.read_text())
        named = {"name": f"`{path.stem}`", "command": f"`{card['command']}`"}
        if score in card["scores"]:
            found.append(named | card["scores"])
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    tables.record("pretrained", rows("fg_ari"))
    tables.record("pretrained_sets", rows("ap_inf"))
