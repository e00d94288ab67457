"""The run of an example: its devices, its progress bar, its history on the disk."""

import json

import jax
import rich.progress
from files import read_rows, write, write_rows
from options import check_resumable, identity, refuse

from eqx_slots import training


REPORTED = ("step", "seconds", "loss", "steps_per_second")


def devices_of(arguments):
    """As many devices as the arguments say."""
    if arguments.devices > jax.device_count():
        found = f"JAX found {jax.device_count()}: {jax.devices()}"
        refuse(f"--devices {arguments.devices}, but {found}")
    return training.data_mesh(jax.devices()[: arguments.devices])


def spread(arguments, loss, optim, batch_at):
    """The step and its batches, on as many devices as the arguments say."""
    mesh = devices_of(arguments)
    step = training.make_step(loss, optim, ema_decay=0.995, mesh=mesh)
    return step, training.shard_batches(batch_at, mesh)


def read_ahead(arguments, loss, optim, source, batch_at):
    """The same of scenes that are read: `batch_at(scenes, step)`, not under `jit`."""
    mesh = devices_of(arguments)
    options = {"batch_size": arguments.batch_size, "seed": arguments.seed}
    read_at = training.host_batches(source, mesh, **options)
    step = training.make_step(loss, optim, ema_decay=0.995, mesh=mesh)
    return step, lambda step: batch_at(read_at(step), step)


def judged(state):
    """What is scored and kept: the moving average of the model, if the run has one."""
    return state.model if state.ema is None else state.ema


def follow(arguments, step, state, batch_at, evaluate, text, advise=None, every=250):
    """Train to the end or to Ctrl-C behind a progress bar, saving checkpoints.

    `evaluate(model)` gives figures by name, asked for now and then, and `text(row)` is
    what the bar shows of the latest. In the second half of training, when what is
    normal early on should be over, `advise(model)` says what is wrong, in sentences.
    Gives the model, the history and why it ended.
    """
    checkpoints = training.Checkpoints(arguments.output / "checkpoints")
    record, history = arguments.output / "history.jsonl", []
    check_resumable(arguments, checkpoints.steps())
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
        figures = evaluate(judged(state))
        row |= {"step": int(state.step)}
        row |= {name: float(value) for name, value in figures.items()}
        history = [past for past in history if past["step"] < row["step"]] + [row]
        write_rows(record, history)
        return judged(state), history, "finished"

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
                figures = evaluate(judged(report.state))
                row |= {name: float(value) for name, value in figures.items()}
            history.append(row)
            write_rows(record, history)
            latest |= row
            shown = text(latest)
            bar.update(task, completed=report.step, description=shown)
            if evaluated and not bar.console.is_terminal:
                print(f"step {report.step}  {shown}", flush=True)
            if advise and evaluated and 2 * report.step >= arguments.steps:
                before, advice = advice, advise(judged(report.state))
                for sentence in advice:
                    if sentence not in before:
                        bar.console.print(f"step {report.step}: {sentence}")
    return judged(report.state), history, report.stopped
