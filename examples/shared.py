"""What the examples share: options, the run with its progress bar, files and curves."""

import json

import optax
import rich.progress
from matplotlib.figure import Figure

from eqx_slots import training


REPORTED = ("step", "seconds", "loss", "steps_per_second")


def optimiser(steps):
    """Muon: warm-up, then a cosine to zero at the last step."""
    warmup, total = min(200, steps), steps + 1
    rate = lambda peak: optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total)
    return training.muon(rate(3e-3), adam_learning_rate=rate(1e-3))


def follow(step, state, batch_at, evaluate, *, num_steps, text, every=250):
    """Train to the end or to Ctrl-C behind a progress bar.

    `evaluate(model)` gives figures by name, asked for now and then; `text(row)` is what
    the bar shows of the latest. Gives the model, the history and why the run ended.
    """
    history, latest = [], {}
    bar = rich.progress.Progress(
        "{task.description}",
        rich.progress.BarColumn(),
        "{task.completed}/{task.total}",
        rich.progress.TimeRemainingColumn(),
    )
    with bar:
        task = bar.add_task("compiling", total=num_steps)
        for report in training.run(step, state, batch_at, num_steps=num_steps):
            row = {name: getattr(report, name) for name in REPORTED}
            evaluated = report.step % every == 0 or report.stopped or not history
            if evaluated:
                figures = evaluate(report.state.model)
                row |= {name: float(value) for name, value in figures.items()}
            history.append(row)
            latest |= row
            shown = text(latest)
            bar.update(task, completed=report.step, description=shown)
            if evaluated and not bar.console.is_terminal:
                print(f"step {report.step}  {shown}", flush=True)
    return report.state.model, history, report.stopped


def write(folder, result, history):
    """`metrics.json` and `history.jsonl`."""
    (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [json.dumps(row).replace("NaN", "null") + "\n" for row in history]
    (folder / "history.jsonl").write_text("".join(lines))


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
