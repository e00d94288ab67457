"""Batches that are read, not computed: outside of jit, ahead of the step."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding

from .._misc import check_positive, needs_extra
from ._devices import along_batch, check_mesh


# Grain's own, 16 and 500, are for single examples on remote disks; these are whole
# batches, of which one has to be ready when the step before it is done.
_THREADS = 2
_AHEAD = 4


def host_batches(
    source: Any,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int | None = 0,
    num_workers: int = 0,
) -> Callable[[Any], Any]:
    """Batches of examples that lie somewhere, by the number of the step.

    For files and other sources with random access; they are read ahead of the step by
    Grain (`pip install "eqx-slots[data]"`). What a step gets depends on its number,
    `seed` and `batch_size` alone, not on devices, processes or workers: a run that goes
    on from a checkpoint needs nothing else to go on bit for bit. Each example comes
    once in an epoch of `len(source) // batch_size` steps, in another order in each; the
    rest, less than a batch, sits this epoch out.

    **Arguments:**

    - `source`: Anything with `len(source)` and `source[i]`, which gives an example: a
        pytree of arrays or numbers, of the same shapes each, such as the
        [`eqx_slots.data.Scene`][] of [`eqx_slots.data.records`][]. It is read by
        several threads.
    - `mesh`: The devices, as [`eqx_slots.training.data_mesh`][] gives them. The leading
        axis of every array is shared out over the first axis of the mesh; each process
        reads the examples of its own devices.
    - `batch_size`: How many examples, of all processes together. (Keyword only
        argument, as all that follow.)
    - `seed`: Of the order; `None` is the source's own, the same in every epoch.
    - `num_workers`: Processes that read, where Python is what takes the time; the
        source is pickled for them. With 0, threads of this process do. Workers ignore
        Ctrl-C, and end with this process or with the function that is returned.

    **Returns:**

    `batch_at` for [`eqx_slots.training.run`][]. It is not for `jax.jit`: of a step
    that is no concrete number it makes a `ValueError`, as of a source that is smaller
    than a batch, or whose examples are not arrays of equal shapes. Steps are asked for
    one after the other; any other than the next one costs the batches read ahead.

    **Example:**

    ```python
    import jax
    import numpy as np
    from eqx_slots import training

    source = [{"x": np.full(3, i, np.float32)} for i in range(10)]
    mesh = training.data_mesh(jax.devices()[:1])
    batch_at = training.host_batches(source, mesh, batch_size=4, seed=None)
    print(batch_at(1)["x"][:, 0])  # [4. 5. 6. 7.]
    ```
    """
    check_mesh(mesh)
    check_positive(batch_size=batch_size)
    _check_source(source, batch_size)
    if num_workers < 0:
        raise ValueError(f"`num_workers` must be 0 or more, got {num_workers}.")
    sharding = NamedSharding(mesh, along_batch(np.zeros(batch_size), mesh))
    with needs_extra("data", "`host_batches`"):
        import grain

    order: Any = grain.MapDataset.range(len(source))
    order = order if seed is None else order.seed(seed).shuffle()
    order = order.batch(batch_size, drop_remainder=True).repeat()
    rows = _own_rows(sharding, batch_size)
    batches = order.map(partial(_read, source, rows))
    read = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)

    def iterate(first: int) -> Any:
        ahead = batches[first:].to_iter_dataset(read)
        if num_workers:
            _read_flags()
            ahead = ahead.mp_prefetch(workers, _begin_worker)
        return iter(ahead)

    return _Batches(iterate, sharding, batch_size)


class _Batches:
    """An iterator for as long as steps come one after the other."""

    def __init__(
        self, iterate: Callable[[int], Any], sharding: NamedSharding, batch_size: int
    ):
        self._iterate, self._sharding = iterate, sharding
        self._batch_size = batch_size
        self._ahead: Any = None
        self._next: int | None = None
        self._last: tuple[int, Any] = (-1, None)

    def __call__(self, step: Any) -> Any:
        if isinstance(step, Tracer):
            raise ValueError(
                "`step` must be a number, got one that JAX is tracing: files are read"
                " outside of what is compiled. Call `batch_at` without `jax.jit` and"
                " `training.shard_batches`; what it gives is on the devices already."
            )
        number = int(step)
        if number < 0:
            raise ValueError(f"`step` must be 0 or more, got {number}.")
        if number == self._last[0]:  # the first is asked for before training, too
            return self._last[1]
        if number != self._next:
            if self._ahead is not None:
                self._ahead.close()
            self._ahead = self._iterate(number)
        self._next = None  # if reading fails, the iterator is no longer of any use
        batch = jax.tree.map(self._placed, next(self._ahead))
        self._next, self._last = number + 1, (number, batch)
        return batch

    def _placed(self, rows: np.ndarray) -> jax.Array:
        shape = (self._batch_size, *rows.shape[1:])
        return jax.make_array_from_process_local_data(self._sharding, rows, shape)


def _own_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Which examples of a batch the devices of this process hold."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[part] for part in parts if part]))


def _read(source: Any, rows: np.ndarray, batch: np.ndarray) -> Any:
    examples = [source[int(index)] for index in batch[rows]]
    try:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
    except ValueError as error:
        raise ValueError(
            "The examples of `source` must have the same arrays of the same shapes, got"
            f" others among the examples {batch[rows].tolist()}: {error}."
        ) from error


def _check_source(source: Any, batch_size: int) -> None:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise ValueError(
            "`source` must have `len(source)` and `source[i]`, got"
            f" {type(source).__name__}; of what can only be iterated over, make a list."
        )
    if len(source) < batch_size:
        raise ValueError(
            f"`source` must have a batch of examples at least, got {len(source)} for"
            f" `batch_size`={batch_size}."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(source[0]):
        if np.asarray(leaf).dtype.kind in "OUSMm":
            name = jax.tree_util.keystr(path)
            raise ValueError(
                "The examples of `source` must be pytrees of arrays and numbers, got"
                f" {type(leaf).__name__} at source[0]{name}; leave it out."
            )


def _read_flags() -> None:
    """Grain 0.2.18 asks for a flag that only a program of Abseil's has read (#1355)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(index: int, count: int) -> None:
    """In a process that reads: Ctrl-C is for the one that trains."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Grain's workers wait for ever for a process that was killed."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
