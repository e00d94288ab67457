import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array

from .._misc import check_positive
from ._checkpoint import Checkpoints
from ._devices import in_any_process
from ._manifest import CheckpointError
from ._step import StepInfo, TrainState


class Progress(NamedTuple):
    """Where a run stands.

    **Fields:**

    - `state`: The [`eqx_slots.training.TrainState`][], good until the next report.
    - `info`: The [`eqx_slots.training.StepInfo`][] of the last step.
    - `step`: How many steps the run has made.
    - `loss`: The mean over the steps since the last report, skipped ones left out; NaN
        if all were.
    - `seconds`: How long this call has run.
    - `steps_per_second`: Since the last report, the caller's own work left out.
    - `stopped`: `None` while the run goes on; the last report says why it ended:
        `"finished"`, `"interrupted"` (Ctrl-C or SIGTERM) or `"diverged"`.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import training

    def loss(model, batch, key):
        return jnp.mean(jax.vmap(model)(batch) ** 2), None

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-2)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(loss, optim)
    for report in training.run(step, state, lambda _: jnp.ones((8, 3)), num_steps=9):
        trained = report.state.model
    print(report.step, report.stopped, report.loss > 0)  # 9 finished True
    ```
    """

    state: TrainState
    info: StepInfo
    step: int
    loss: float
    seconds: float
    steps_per_second: float
    stopped: Literal["finished", "interrupted", "diverged"] | None


def run(
    step: Callable[[Any, TrainState], tuple[TrainState, StepInfo]],
    state: TrainState,
    batch_at: Callable[[Any], Any],
    *,
    num_steps: int,
    report_every: int = 50,
    max_skipped: int = 20,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
) -> Iterator[Progress]:
    """Train, and report every so often: `for progress in run(...): ...`.

    Ctrl-C and SIGTERM end the run after the step that they fall in, so the last report
    always holds a whole state; a second Ctrl-C is the ordinary one. Where several
    processes share a state, each makes the same reports, and a signal to one of them
    ends the run of all after the same step. However a run ends, its state is saved
    before the last report, if there are `checkpoints`; leaving the loop by a `break`,
    or an error outside of a step, is no end. A state that cannot be saved is a warning
    and the run goes on.

    **Arguments:**

    - `step`: As [`eqx_slots.training.make_step`][] makes it.
    - `state`: Where to begin; its memory is reused, so use only the states of the
        reports, and each only until the next one.
    - `batch_at`: The batch of a step, from the number of the step, a JAX integer.
        Drawing it from `fold_in(key, step)` makes a run depend on nothing else.
    - `num_steps`: The step to stop at, counted from the beginning of the run and not
        of this call. (Keyword only argument, as all that follow.)
    - `report_every`: Steps between two reports. The first step reports too.
    - `max_skipped`: So many skipped steps in a row end the run as `"diverged"`, with a
        warning. The state is then that of the last step that was taken.
    - `checkpoints`: Where to save the state at the end, if anywhere.
    - `checkpoint_every`: Steps after which to save it as well.

    **Returns:**

    An iterator of [`eqx_slots.training.Progress`][]. A `ValueError` says so if there
    is nothing to do, or if the checkpoints are those of another run.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import training

    def loss(model, batch, key):
        return jnp.mean((jax.vmap(model)(batch) - batch) ** 2), None

    def batch_at(step):
        return jr.normal(jr.fold_in(jr.key(2), step), (8, 3))

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-2)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(loss, optim)
    reports = training.run(step, state, batch_at, num_steps=20, report_every=10)
    print([report.step for report in reports])  # [1, 10, 20]
    ```
    """
    check_positive(
        num_steps=num_steps, report_every=report_every, max_skipped=max_skipped
    )
    begin = int(state.step)
    _check_checkpoints(begin, checkpoints, checkpoint_every)
    if begin >= num_steps:
        raise ValueError(
            f"The state has made {begin} steps already, so there is nothing to do up to"
            f" num_steps={num_steps}."
        )

    # Without a number of steps between two: at the end alone.
    save = partial(_save, checkpoints, checkpoint_every or num_steps)
    return _reports(step, state, batch_at, num_steps, report_every, max_skipped, save)


def _check_checkpoints(
    begin: int, checkpoints: Checkpoints | None, checkpoint_every: int | None
) -> None:
    if checkpoint_every is not None:
        check_positive(checkpoint_every=checkpoint_every)
        if checkpoints is None:
            raise ValueError(
                f"`checkpoint_every`={checkpoint_every} needs a place to save to: pass"
                " `checkpoints=Checkpoints(folder)` as well."
            )
    later = [s for s in checkpoints.steps() if s > begin] if checkpoints else []
    if checkpoints and later:
        raise ValueError(
            f"{checkpoints.folder} has checkpoints of steps {later}, but the state has"
            f" made {begin}: `state = checkpoints.restore(state)` goes on from the last"
            f" of them, `checkpoints.clear(after={begin})` deletes them."
        )


def _save(
    checkpoints: Checkpoints | None,
    every: int,
    state: TrainState,
    count: int,
    stopped: str | None,
) -> None:
    if checkpoints is None or not (stopped or count % every == 0):
        return
    try:
        checkpoints.save(state)
    except CheckpointError as error:
        warnings.warn(f"{error} The run goes on.", RuntimeWarning, stacklevel=3)


def _reports(
    step: Callable[[Any, TrainState], tuple[TrainState, StepInfo]],
    state: TrainState,
    batch_at: Callable[[Any], Any],
    num_steps: int,
    report_every: int,
    max_skipped: int,
    save: Callable[[TrainState, int, str | None], None],
) -> Iterator[Progress]:
    start = last_time = time.perf_counter()
    count = last_step = begin = int(state.step)
    losses, stopped = [], None
    with _interruptible() as interrupted:
        while stopped is None:
            state, info = step(batch_at(state.step), state)
            count += 1
            losses.append((info.loss, info.skipped))
            # The device may still be computing. Waiting for it here keeps batches from
            # piling up and costs nothing: the next step needs this one's state.
            jax.block_until_ready(state)
            if int(state.skipped) >= max_skipped:
                stopped = "diverged"
                _warn_of_divergence(count, max_skipped, info)
            elif count == num_steps:
                stopped = "finished"
            elif in_any_process(interrupted(), state):
                stopped = "interrupted"
            save(state, count, stopped)
            if stopped or count % report_every == 0 or count == begin + 1:
                now = time.perf_counter()
                yield Progress(
                    state=state,
                    info=info,
                    step=count,
                    loss=_mean_of_taken(losses),
                    seconds=now - start,
                    steps_per_second=(count - last_step) / (now - last_time),
                    stopped=stopped,
                )
                # What the caller does in between is not the speed of a step.
                last_time, last_step, losses = time.perf_counter(), count, []


def _warn_of_divergence(count: int, max_skipped: int, info: StepInfo) -> None:
    warnings.warn(
        f"The run ended after step {count}: the last {max_skipped} steps were skipped,"
        " their loss, gradient or update not finite or the gradient too large (in the"
        f" last, loss {float(info.loss):g}, norm of the gradient"
        f" {float(info.grad_norm):g}). The state is that of the step before them; a"
        " lower learning rate, or clipping with `max_norm`, may keep it there.",
        RuntimeWarning,
        stacklevel=3,
    )


def _mean_of_taken(losses: list[tuple[Array, Array]]) -> float:
    values = [float(loss) for loss, is_skipped in losses if not is_skipped]
    return sum(values) / len(values) if values else float("nan")


@contextmanager
def _interruptible() -> Generator[Callable[[], bool], None, None]:
    """Turn Ctrl-C and SIGTERM into a flag; only the main thread gets signals."""
    caught: list[int] = []

    def handle(number: int, frame: Any) -> None:
        del frame
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)
