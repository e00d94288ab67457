"""What the examples share: options, the run with its progress bar, files and seeds."""

import json
import math
import os
import statistics
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import optax
import rich.progress
from matplotlib.figure import Figure

from eqx_slots import training


REPORTED = ("step", "seconds", "loss", "steps_per_second")
# Options that change nothing of what a run computes.
ASIDE = (
    "output",
    "seeds",
    "resume",
    "checkpoint_every",
    "compilation_cache",
    "devices",
)


@dataclass
class Run:
    """Options that every run has."""

    steps: int = 6000
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


def optimiser(steps):
    """Muon: warm-up, then a cosine to zero at the last step."""
    warmup, total = min(200, steps), steps + 1
    rate = lambda peak: optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total)
    return training.muon(rate(3e-3), adam_learning_rate=rate(1e-3))


def spread(arguments, loss, optim, batch_at):
    """The step and its batches, on as many devices as the arguments say."""
    if not 1 <= arguments.devices <= jax.device_count():
        found = f"JAX found {jax.device_count()}: {jax.devices()}"
        raise SystemExit(f"--devices {arguments.devices}, but {found}")
    mesh = training.data_mesh(jax.devices()[: arguments.devices])
    step = training.make_step(loss, optim, mesh=mesh)
    return step, training.shard_batches(batch_at, mesh)


def follow(arguments, step, state, batch_at, evaluate, text, advise=None, every=250):
    """Train to the end or to Ctrl-C behind a progress bar, saving checkpoints.

    `evaluate(model)` gives figures by name, asked for now and then, and `text(row)` is
    what the bar shows of the latest. In the second half of training, when what is
    normal early on should be over, `advise(model)` says what is wrong, in sentences.
    Gives the model, the history and why it ended.
    """
    checkpoints = training.Checkpoints(arguments.output / "checkpoints")
    record, history = arguments.output / "history.jsonl", []
    check_folder(arguments, checkpoints)
    if arguments.resume and checkpoints.steps():
        state = checkpoints.restore(state)
        rows = read_rows(record) if record.exists() else []
        history = [row for row in rows if row["step"] <= int(state.step)]
    else:
        checkpoints.clear()
    write(arguments.output / "options.json", json.dumps(identity(arguments), indent=2))
    write_rows(record, history)
    if int(state.step) >= arguments.steps:
        # The last row, which a kill may have come before.
        row = {name: history[-1][name] if history else 0.0 for name in REPORTED}
        figures = evaluate(state.model)
        row |= {"step": int(state.step)}
        row |= {name: float(value) for name, value in figures.items()}
        history = [past for past in history if past["step"] < row["step"]] + [row]
        write_rows(record, history)
        return state.model, history, "finished"

    advice = []
    latest = {name: value for row in history for name, value in row.items()}
    past = latest.get("seconds", 0.0)
    bar = rich.progress.Progress(
        "{task.description}",
        rich.progress.BarColumn(),
        "{task.completed}/{task.total}",
        rich.progress.TimeRemainingColumn(),
    )
    options = {
        "num_steps": arguments.steps,
        "checkpoints": checkpoints,
        "checkpoint_every": arguments.checkpoint_every,
    }
    with bar:
        done = int(state.step)
        task = bar.add_task("compiling", total=arguments.steps, completed=done)
        for report in training.run(step, state, batch_at, **options):
            row = {name: getattr(report, name) for name in REPORTED}
            row["seconds"] += past
            row["skipped"] = report.step - int(report.state.taken)
            evaluated = report.step % every == 0 or report.stopped or not history
            if evaluated:
                figures = evaluate(report.state.model)
                row |= {name: float(value) for name, value in figures.items()}
            history.append(row)
            write_rows(record, history)
            latest |= row
            shown = text(latest)
            bar.update(task, completed=report.step, description=shown)
            if evaluated and not bar.console.is_terminal:
                print(f"step {report.step}  {shown}", flush=True)
            if advise and evaluated and 2 * report.step >= arguments.steps:
                before, advice = advice, advise(report.state.model)
                for sentence in advice:
                    if sentence not in before:
                        bar.console.print(f"step {report.step}: {sentence}")
    return report.state.model, history, report.stopped


def check_folder(arguments, checkpoints):
    """Refuse to go on with another run, or to lose one that has not come to its end."""
    path, steps = arguments.output / "options.json", checkpoints.steps()
    if not steps or not path.exists():
        return
    there, wanted = json.loads(path.read_text()), identity(arguments)
    keep = f"{arguments.output} holds a run that has made {steps[-1]} steps"
    ways = "another --output leaves it alone, deleting the folder begins anew."
    if arguments.resume and there != wanted:
        names = [name for name in there | wanted if there.get(name) != wanted.get(name)]
        of = lambda run: " ".join(f"--{name} {run.get(name)}" for name in names)
        raise SystemExit(f"{keep} with {of(there)}, not {of(wanted)}: {ways}")
    if not arguments.resume and steps[-1] < there["steps"]:
        keep += f" of {there['steps']}"
        raise SystemExit(f"{keep}: --resume goes on from there, {ways}")


def identity(arguments):
    """The options that make a run the one that it is, as JSON gives them back."""
    options = json.loads(json.dumps(asdict(arguments), default=str))
    return {name: value for name, value in options.items() if name not in ASIDE}


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


def write_result(arguments, figures, history, stopped):
    """`metrics.json`: the figures, and the options that led to them."""
    options = asdict(arguments) | {"output": str(arguments.output), "stopped": stopped}
    last = history[-1]
    done = {name: last.get(name, 0) for name in ("seconds", "skipped")}
    result = finite(figures) | options | {"steps": last["step"]} | done
    write(arguments.output / "metrics.json", json.dumps(result, indent=2))
    skipped = f", {done['skipped']} of them skipped" if done["skipped"] else ""
    print(f"{stopped} after {last['step']} steps{skipped}, {done['seconds']:.0f} s")
    print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return json.loads(json.dumps(result))


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


def over_seeds(main, arguments, demands):
    """Run once for each seed; one table of all, failed ones and interrupted included.

    `demands` are the least scores (name: value) of a run that counts as a success.
    With `--resume`, seeds that have finished are not run again.
    """
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
        scores = " | ".join(f"{row[name]:.3f}" for name in demands)
        verdict = "" if row["stopped"] == "finished" else f"{row['stopped']} "
        verdict += "" if is_good else "not good enough"
        lines.append(f"| {row['seed']} | {scores} | {row['seconds']:.0f} | {verdict} |")
    columns = [[r[name] for r in rows if r[name] == r[name]] for name in demands]
    for title, of in (("mean", statistics.fmean), ("spread", statistics.pstdev)):
        scores = [f"{of(column) if column else math.nan:.3f}" for column in columns]
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
