import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._misc import (
    array_name,
    check_positive,
    described,
    differences,
    digest_of,
    named_arrays,
    needs_extra,
    sync_folder,
)
from ._devices import in_any_process
from ._manifest import (
    check_files,
    CheckpointError,
    read_manifest,
    versions,
    write_manifest,
)
from ._step import TrainState


class Checkpoints:
    """The last few states of a run, in a folder: one folder a step.

    Arrays are written by Orbax (`pip install "eqx-slots[checkpoints]"`). Beside them
    stands a manifest with the names, dtypes and shapes of the arrays, a SHA-256 digest
    of them and one of each file. A checkpoint is either there, whole and on the disk,
    or not there at all; and what has changed since it was saved is not restored.

    Only arrays are saved. Functions and settings are those of the state that
    `restore` is given. [`eqx_slots.training.run`][] saves by itself, if it is given
    `checkpoints=` and `checkpoint_every=`.

    **Example:**

    ```python
    import tempfile

    import equinox as eqx
    import jax.random as jr
    from eqx_slots import training

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-3)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = training.Checkpoints(folder, keep=3)
        checkpoints.save(state)
        same = checkpoints.restore(state)
        print(checkpoints.steps(), eqx.tree_equal(same, state))  # [0] True
    ```
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3):
        """**Arguments:**

        - `folder`: Where to keep them; it is made when the first one is saved.
        - `keep`: How many to keep; older ones are deleted once a new one is on the
            disk. (Keyword only argument.)
        """
        check_positive(keep=keep)
        if "://" in str(folder):
            raise ValueError(
                f"`folder` must be one that this machine can rename files in, got"
                f" {str(folder)!r}; save to a disk, and copy from there."
            )
        with needs_extra("checkpoints", "`Checkpoints`"):
            import orbax.checkpoint as ocp
        self.folder: Path = Path(folder).absolute()
        self.keep: int = keep
        self._orbax = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        self._args = ocp.args
        self._as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, the last one last."""
        advice = "Give a folder that is yours to read and to write to."
        with self._explained("Checkpoints could not be listed", advice):
            names = os.listdir(self.folder) if self.folder.exists() else []
        return sorted(
            int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)
        )

    def save(self, state: TrainState) -> None:
        """Save a state, and delete what is then too old to be kept.

        **Arguments:**

        - `state`: Any state of a run. Where several processes train together, each has
            to call this, and each needs the same `folder`.

        A [`eqx_slots.training.CheckpointError`][] says so if that fails, or if there is
        one of this step or a later one already; what was saved before is untouched.
        """
        step = int(state.step)
        if later := [past for past in self.steps() if past >= step]:
            raise CheckpointError(
                f"Step {step} could not be saved: {self.folder} must hold none but"
                f" earlier steps, found {later}, of this run or another;"
                f" `clear(after={step - 1})` deletes them."
            )
        advice = "Make room on the disk, or see that the folder is yours to write to."
        with self._explained(f"Step {step} could not be saved", advice):
            self._write(state, step)
        if jax.process_index() == 0:
            with self._explained("What is old could not be deleted", advice):
                for old in self.steps()[: -self.keep]:
                    _delete(self.folder / str(old))

    def restore(self, like: TrainState, *, step: int | None = None) -> TrainState:
        """Read a state back, every bit as it was saved.

        **Arguments:**

        - `like`: A state of the same model and optimiser, as `TrainState.create` makes
            it: arrays, not their shapes alone. Those that are saved come back on the
            devices, and shared out over them, as these are.
        - `step`: Which one; `None` is the last. (Keyword only argument.)

        **Returns:**

        The state. A checkpoint that is damaged, foreign or of another model or
        optimiser is a [`eqx_slots.training.CheckpointError`][] that says so, and names
        the last one before it that can be restored.
        """
        _check_arrays(like)
        steps = self.steps()
        chosen = max(steps, default=None) if step is None else step
        if chosen is None or chosen not in steps:
            wanted = "a step" if step is None else f"step {step}"
            raise CheckpointError(
                f"{self.folder} must hold a checkpoint of {wanted}, found {steps}: look"
                " for another folder, or begin from the start."
            )
        try:
            return self._read(like, chosen)
        except CheckpointError as error:
            earlier = [past for past in steps if past < chosen]
            advice = self._way_out(like, chosen, earlier)
            raise CheckpointError(f"{error} {advice}") from error

    def clear(self, *, after: int = -1) -> None:
        """Delete all checkpoints, or those of later steps than one.

        **Arguments:**

        - `after`: The last step to be left alone. (Keyword only argument.)
        """
        advice = "See that the folder is yours to write to."
        with self._explained("Checkpoints could not be deleted", advice):
            for step in self.steps():
                if step > after:
                    _delete(self.folder / str(step))

    @contextmanager
    def _explained(self, failure: str, advice: str) -> Generator[None, None, None]:
        try:
            yield
        except Exception as error:  # Orbax, and what it is built on, raise all kinds
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            raise CheckpointError(
                f"{failure} in {self.folder}: {reason}. {advice}"
            ) from error

    def _write(self, state: TrainState, step: int) -> None:
        """Under another name, until all of it is on the disk."""
        partial = self.folder / f"{step}.partial"
        stored = {name: _plain(x) for name, x in named_arrays(state).items()}
        # By every process: one that cannot must not leave the others waiting.
        values = {name: np.asarray(x) for name, x in stored.items()}
        # Orbax has no file for an array without entries.
        written = {name: stored[name] for name, x in values.items() if x.size}

        def commit() -> None:
            leaves = described(named_arrays(state))
            digest = digest_of(leaves, values)
            write_manifest(partial, step=step, leaves=leaves, sha256=digest)
            os.replace(partial, self.folder / str(step))
            sync_folder(self.folder)

        try:
            _by_the_first(lambda: self._prepare(values), state)
            self._orbax.save(partial / "arrays", args=self._args.PyTreeSave(written))
            _by_the_first(commit, state)
        finally:
            if jax.process_index() == 0:  # still there if one of these has failed
                shutil.rmtree(partial, ignore_errors=True)

    def _prepare(self, values: dict[str, np.ndarray]) -> None:
        """Make the folder, and see to it that there is room in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(self.folder):
            if re.fullmatch(r"[0-9]+\.partial", name):  # of a process that was killed
                shutil.rmtree(self.folder / name)
        # Orbax writes part of it twice.
        needed = 2 * sum(array.nbytes for array in values.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:  # Orbax would find out too, with pages of traces
            raise OSError(f"up to {needed:,} bytes are needed, {free:,} are free")

    def _read(self, like: TrainState, step: int) -> TrainState:
        folder = self.folder / str(step)
        manifest = read_manifest(folder)
        leaves = manifest["leaves"]
        if differing := differences(leaves, described(named_arrays(like))):
            raise CheckpointError(
                f"{folder} is of another model, optimiser or `use_ema` than `like`:"
                f" {differing}. It was saved with {manifest['versions']}, this is"
                f" {versions()}."
            )
        check_files(folder, manifest)
        empty = {
            name: _plain(x) for name, x in named_arrays(like).items() if not x.size
        }
        written = dict.fromkeys(leaves.keys() - empty.keys(), self._as_numpy)
        args = self._args.PyTreeRestore(restore_args=written)
        advice = "It is damaged, or another version of Orbax wrote it."
        with self._explained(f"Step {step} could not be read", advice):
            arrays = self._orbax.restore(folder / "arrays", args=args)
        arrays |= {name: np.asarray(x) for name, x in empty.items()}
        if (digest := digest_of(leaves, arrays)) != manifest["leaves_sha256"]:
            raise CheckpointError(
                f"{folder} came back changed: the SHA-256 digest of its arrays should"
                f" be {manifest['leaves_sha256']}, found {digest}."
            )
        return jax.tree_util.tree_map_with_path(
            lambda path, x: (
                _placed(x, arrays[array_name(path)]) if eqx.is_array(x) else x
            ),
            like,
        )

    def _way_out(self, like: TrainState, step: int, earlier: list[int]) -> str:
        for past in reversed(earlier):
            try:
                self._read(like, past)
            except CheckpointError:
                continue
            return (
                f"Step {past} can be restored: delete {self.folder / str(step)} and"
                f" restore again, or `restore(like, step={past})`."
            )
        others = (
            f"None of the earlier ones, {earlier}, can" if earlier else "No other can"
        )
        return (
            f"{others} be restored: give `like` the model and the optimiser that"
            " were saved, or begin from the start (`clear()`)."
        )


def _by_the_first(work: Callable[[], None], state: TrainState) -> None:
    """What one process does for all: they wait for it, and fail where it does."""
    failure = None
    if jax.process_index() == 0:
        try:
            work()
        except Exception as error:  # of any kind: raised below, where nobody waits
            failure = error
    if in_any_process(failure is not None, state):
        raise failure or OSError("process 0 could not write to the folder")


def _check_arrays(like: TrainState) -> None:
    for name, leaf in named_arrays(like).items():
        if not eqx.is_array(leaf):
            raise ValueError(
                f"`like` must hold arrays, which say where those that are saved belong,"
                f" got {leaf} for `{name}`; build the state itself, without"
                " `eqx.filter_eval_shape`."
            )


def _delete(folder: Path) -> None:
    # Renamed first: what is half deleted must not look like a checkpoint.
    doomed = folder.with_name(f"{folder.name}.partial")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _plain(array: Any) -> Any:
    """The array, or the numbers that a random key is made of."""
    return jr.key_data(array) if _is_key(array) else array


def _placed(like: Any, values: np.ndarray) -> Any:
    """Values where, and as what, another array is."""
    if isinstance(like, np.ndarray):
        return values
    # Copied: a step takes over the memory of its state.
    array = jnp.array(values)
    # What is bound to no device stays so, and goes along to wherever a batch is.
    if like.committed:
        array = jax.device_put(array, like.sharding)
    if _is_key(like):
        array = jr.wrap_key_data(array, impl=jr.key_impl(like))
    if array.dtype != like.dtype:
        raise CheckpointError(
            f"`like` has {like.dtype} but JAX makes that {array.dtype} now: set"
            " `jax_enable_x64` as it was when `like` was made."
        )
    return array
