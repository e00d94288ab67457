"""Put a trained model into the package, for `models.pretrained`.

    python -m tests.weights blocks runs/autoencoder

Takes what `examples/autoencoder.py` has left in a folder, stores the arrays in float16,
loads them back and measures these on the run's held-out scenes. The two files go into
`eqx_slots/models/weights/`, the scores into `docs/records/pretrained.json`, from which
`python -m docs.tables` writes the guide's table. Prints each beside that of the run.
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


def command_of(options, identity, make) -> str:
    """The shortest line that makes such a run; parsed again, it has to be the same."""
    chosen = {name: options[name] for name in ("scenes", "preset")}
    plain, usual = identity(make()), identity(make(**chosen))
    words = ["python", "examples/autoencoder.py"]
    for name, value in options.items():
        if value == (plain if name in chosen else usual)[name]:
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}"]
        words += [] if value is True else map(str, values)
    command = " ".join(words)
    assert identity(parsed(command, make)) == options, command
    return command


def parsed(command, make):
    """The options that a command says."""
    return tyro.cli(make, args=command.split()[2:])


def measured(model, autoencoder, arguments):
    """Scores on the scenes that all runs hold out, and what these are like."""
    own_kind, black = load("own_kind"), arguments.black
    held_out_key, eval_key = jr.split(jr.key(2**31 - 1))
    paint = lambda key: autoencoder.paint(key, autoencoder.HELD_OUT, arguments)
    held_out = jax.jit(paint)(held_out_key)
    scores = autoencoder.evaluate(model, held_out, eval_key, black)
    images = held_out.image
    made = eqx.filter_jit(autoencoder.reconstruct)(model, images, eval_key)
    quantiles = own_kind.quantiles_of(own_kind.figures_of(images, made, black))
    quantiles = {name: np.round(it, DIGITS).tolist() for name, it in quantiles.items()}
    return {name: round(float(x), DIGITS) for name, x in scores.items()}, quantiles


def main(name: str, run: Path, folder: Path = FOLDER) -> dict:
    """Write the files of a model; what they say of it comes back."""
    autoencoder, options = load("autoencoder"), load("options")
    row = json.loads((run / "metrics.json").read_text())
    if row["stopped"] != "finished":
        raise SystemExit(f"{run} was {row['stopped']} after {row['steps']} steps.")
    said = json.loads((run / "options.json").read_text())
    command = command_of(said, options.identity, autoencoder.Arguments)
    arguments = parsed(command, autoencoder.Arguments)
    leaves = halved(serialisation.load(run / "model.safetensors"))
    card = {"make": arguments.recipe.make.__name__, "arguments": arguments.built_with}
    card |= {"command": command, "seed": arguments.seed}
    model = restored(card, leaves)
    scores, quantiles = measured(model, autoencoder, arguments)
    card |= {"scores": scores, "image_size": [arguments.image_size] * 2}
    card |= {"channels": arguments.channels, "image_range": [arguments.black, 1.0]}
    card |= {"quantiles": quantiles}
    card = json.loads(json.dumps(card))  # as it will be read
    card["sha256"] = digest(card, leaves)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.eqx").write_bytes(leaves)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    for score, value in scores.items():
        print(f"{score:18} {value:9.5f}  of the run {row[score]:9.5f}")
    print(f"{name}: {len(leaves):,} bytes, {command}")
    return card


def rows() -> list[dict]:
    """What the documentation shows of all models."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        card = json.loads(path.read_text())
        named = {"name": f"`{path.stem}`", "command": f"`{card['command']}`"}
        found.append(named | card["scores"])
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    tables.record("pretrained", rows())
