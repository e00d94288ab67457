"""Options that every run has, and what is said to a mistake in them."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from eqx_slots.data import blocks


# Options that change nothing of what a run computes.
ASIDE = (
    "output",
    "seeds",
    "resume",
    "checkpoint_every",
    "compilation_cache",
    "cache",
    "devices",
)


@dataclass
class Run:
    """Options that every run has."""

    steps: int | None = 6000
    seed: int = 0
    seeds: int = 1
    """So many runs, one after the other, each in a folder of its own: seed, seed + 1,
    ... and a table of all of them."""
    output: Path = Path("runs")
    resume: bool = False
    """Go on from the last checkpoint in the output folder, if there is one of a run
    with the same options."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is one at the end in any case."""
    devices: int = 1
    """Share each batch out over so many devices, see docs/devices.md."""
    compilation_cache: bool = True
    """Keep compiled programs for the next start, see docs/devices.md."""

    def __post_init__(self):
        check_positive(steps=self.steps, seeds=self.seeds, devices=self.devices)
        check_positive(checkpoint_every=self.checkpoint_every)
        check_seed(self.seed)


def refuse(sentence: str) -> NoReturn:
    """End as a program does that was started in the wrong way: status 2."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def check_run(steps, seed):
    """For scripts that have these two options and no `Run`."""
    check_positive(steps=steps)
    check_seed(seed)


def check_positive(**options):
    for name, value in options.items():
        if not value > 0:
            option = name.replace("_", "-")
            refuse(f"--{option} must be more than 0, got {value}.")


def check_batch(batch_size, devices):
    check_positive(batch_size=batch_size)
    if batch_size % devices:
        sizes = f"--batch-size {batch_size} does not divide among --devices {devices}"
        refuse(f"{sizes}.")


def check_weights(**weights):
    for name, weight in weights.items():
        if not weight >= 0:
            option = name.replace("_", "-")
            refuse(f"--{option} must be 0 or more, got {weight}.")


def check_alone(seeds):
    """For what is run to have one model of data of one's own."""
    if seeds > 1:
        refuse(f"--seeds is no option here, got {seeds}: --seed and --output are.")


def check_seed(seed):
    if not 0 <= seed < 2**31 - 1:  # the last one paints the held-out scenes
        refuse(f"--seed must lie in [0, {2**31 - 2}], got {seed}.")


def check_objects(objects, limit=None):
    """There can be as many blocks as there are colours, if no other limit is said."""
    fewest, most = objects
    limit = len(blocks.COLOURS) if limit is None else limit
    if not 1 <= fewest <= most <= limit:
        wanted = f"two numbers from 1 to {limit}, the smaller first"
        refuse(f"--objects must be {wanted}, got {fewest} {most}.")


def make_folder(path):
    """The folder of the output, made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"--output {path} cannot be made: {error.strerror}.")
    if not os.access(path, os.W_OK):
        refuse(f"--output {path} cannot be written to.")
    return path


def identity(arguments):
    """The options that make a run the one that it is, as JSON gives them back."""
    options = json.loads(json.dumps(asdict(arguments), default=str))
    return {name: value for name, value in options.items() if name not in ASIDE}


def check_resumable(arguments, steps):
    """Refuse to go on with another run, or to lose one that has not come to its end.

    `steps` are those of the checkpoints in the output folder.
    """
    path = arguments.output / "options.json"
    if not steps or not path.exists():
        return
    there, wanted = json.loads(path.read_text()), identity(arguments)
    keep = f"{arguments.output} holds a run that has made {steps[-1]} steps"
    ways = "another --output leaves it alone, deleting the folder begins anew."
    if arguments.resume and there != wanted:
        names = [name for name in there | wanted if there.get(name) != wanted.get(name)]
        option = lambda name: f"--{name.replace('_', '-')}"
        of = lambda run: " ".join(f"{option(name)} {run.get(name)}" for name in names)
        refuse(f"{keep} with {of(there)}, not {of(wanted)}: {ways}")
    if not arguments.resume and steps[-1] < there["steps"]:
        keep += f" of {there['steps']}"
        refuse(f"{keep}: --resume goes on from there, {ways}")
