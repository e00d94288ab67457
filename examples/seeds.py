"""One example run over several seeds, and the table of all of them."""

import json
import math
import statistics
from dataclasses import replace

from files import said, write
from matplotlib.figure import Figure
from options import identity

from eqx_slots import training


def over_seeds(main, arguments, demands):
    """Run once for each seed; one table of all, failed ones and interrupted included.

    `demands` are the least scores (name: value) of a run that counts as a success.
    With `--resume`, seeds that have finished are not run again.
    """
    training.keep_memory()
    if arguments.compilation_cache:
        training.use_compilation_cache()
    if arguments.seeds == 1:
        return main(arguments)
    folder, rows = arguments.output, []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        one = replace(arguments, seed=seed, seeds=1, output=folder / f"seed_{seed}")
        row = finished(one) if one.resume else None
        if row is None:
            row = main(one)
        rows.append(row)
        table = seed_table(rows, demands)
        write(folder / "seeds.json", json.dumps(rows, indent=2))
        write(folder / "seeds.md", table)
        if row["stopped"] == "interrupted":
            break
    print(table)
    seed_plot(folder / "seeds.png", rows, demands)
    return rows


def finished(arguments):
    """What a run with the same options has written, if it came to its end."""
    path = arguments.output / "metrics.json"
    row = json.loads(path.read_text()) if path.exists() else {}
    wanted = identity(arguments) | {"stopped": "finished"}
    return row if wanted.items() <= row.items() else None


def seed_table(rows, demands):
    """A line for each seed, their mean and spread, and how many were good enough."""
    lines = [f"| seed | {' | '.join(demands)} | seconds | |"]
    lines.append("| --- " * (len(demands) + 3) + "|")
    # A score that is no number is not good enough, and no part of the mean.
    rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
    good = [all(row[name] >= least for name, least in demands.items()) for row in rows]
    for row, is_good in zip(rows, good):
        scores = " | ".join(said(row[name]) for name in demands)
        verdict = "" if row["stopped"] == "finished" else f"{row['stopped']} "
        verdict += "" if is_good else "not good enough"
        lines.append(f"| {row['seed']} | {scores} | {row['seconds']:.0f} | {verdict} |")
    columns = [[r[name] for r in rows if r[name] == r[name]] for name in demands]
    for title, of in (("mean", statistics.fmean), ("spread", statistics.pstdev)):
        scores = [said(of(column) if column else math.nan) for column in columns]
        lines.append(f"| {title} | {' | '.join(scores)} | | |")
    wanted = ", ".join(f"{name} {least}" for name, least in demands.items())
    lines.append(f"\n{sum(good)} of {len(rows)} seeds reached {wanted}.")
    return "\n".join(lines)


def seed_plot(path, rows, demands):
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for name, least in demands.items():
        points = axes.plot([row["seed"] for row in rows], [row[name] for row in rows])
        points[0].set(marker="o", linestyle="none", label=name)
        axes.axhline(least, color=points[0].get_color(), linewidth=0.5)
    axes.set(xlabel="seed", xticks=[row["seed"] for row in rows], ylim=(-0.05, 1.05))
    axes.legend()
    figure.savefig(path, dpi=120)
