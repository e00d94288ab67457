"""What a run writes: rows of JSON, its figures, its curves."""

import json
import math
import os
import warnings
from dataclasses import asdict

from matplotlib.figure import Figure


def write(path, text):
    """All of it or, on a disk that is full, nothing but a warning: the run goes on."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text and text + "\n")
        os.replace(partial, path)
    except OSError as error:
        message = f"{path} could not be written: {error}. The run goes on."
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def write_rows(path, rows):
    """A line for each row."""
    write(path, "\n".join(json.dumps(finite(row)) for row in rows))


def finite(row):
    """JSON has no NaN and no infinity."""
    is_number = lambda value: not isinstance(value, float) or math.isfinite(value)
    return {name: value if is_number(value) else None for name, value in row.items()}


def read_rows(path):
    rows = map(json.loads, path.read_text().splitlines())
    number = lambda value: math.nan if value is None else value
    return [{name: number(value) for name, value in row.items()} for row in rows]


def said(value, digits=3):
    """A figure in words: a score that no scene allows, such as the FG-ARI of a single
    object, is not a number."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "undefined"


def write_result(arguments, figures, history, stopped):
    """`metrics.json`: the figures, and the options that led to them."""
    options = asdict(arguments) | {"output": str(arguments.output), "stopped": stopped}
    last = history[-1]
    done = {name: last.get(name, 0) for name in ("seconds", "skipped")}
    result = finite(figures) | options | {"steps": last["step"]} | done
    written = json.dumps(result, indent=2, default=str)
    write(arguments.output / "metrics.json", written)
    skipped = f", {done['skipped']} of them skipped" if done["skipped"] else ""
    print(f"{stopped} after {last['step']} steps{skipped}, {done['seconds']:.0f} s")
    print("  ".join(f"{name} {said(value, 4)}" for name, value in figures.items()))
    return json.loads(written)


def wrong(findings):
    """What the diagnostics find wrong, in sentences."""
    return [f"{one.name}: {one.sentence}" for one in findings if one.is_wrong]


def tell(findings):
    """All that they find, what is wrong marked by `!`."""
    for one in findings:
        mark = "!" if one.is_wrong else " "
        print(f"{mark} {one.name:20} {one.value:5.2f}  {one.sentence}")


def curves(path, history, scores):
    """The loss over the steps, and beside it the scores (name: label)."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy([row["step"] for row in history], [row["loss"] for row in history])
    left.set(xlabel="step", ylabel="loss")
    for name, label in scores.items():
        points = [(row["step"], row[name]) for row in history if name in row]
        right.plot(*zip(*points), label=label)
    right.set(xlabel="step", ylabel="on held-out scenes", ylim=(-0.05, 1.05))
    right.legend()
    figure.savefig(path, dpi=120)
