"""Training on several devices: the batch is shared out, the state is on all of them."""

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Devices in a row, to share a batch out over.

    For [`eqx_slots.training.make_step`][] and [`eqx_slots.training.shard_batches`][].
    A row of one device trains as it would without a mesh.

    **Arguments:**

    - `devices`: Which ones; `None` means all, of all processes.

    **Returns:**

    A `jax.sharding.Mesh` with one axis, `"batch"`, of type `AxisType.Auto`: the
    compiler decides what is sent between devices. `jax.make_mesh` makes those with
    more axes, of which the first shares out the batch. No devices are a `ValueError`.

    **Example:**

    ```python
    import jax
    from eqx_slots import training

    mesh = training.data_mesh()
    print(mesh.axis_names, mesh.size == jax.device_count())  # ('batch',) True
    ```
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 0:
        raise ValueError(
            "`devices` is empty; give at least one, for example jax.devices()[:1], or"
            " None for all."
        )
    types = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("batch",), types, devices=devices)


def shard_batches(batch_at: Callable[[Any], Any], mesh: Mesh) -> Callable[[Any], Any]:
    """Compile `batch_at` so that each device makes its own part of the batch.

    For batches that are computed, such as painted scenes. The numbers are those of
    one device, and where `jax.vmap` makes the examples nothing is sent between them.

    **Arguments:**

    - `batch_at`: The batch of a step, from the number of the step: what
        [`eqx_slots.training.run`][] is given. It has to be traceable by `jax.jit`. The
        arrays of a pytree, such as a [`eqx_slots.data.Pool`][] or a
        `jax.tree_util.Partial` of one, are put on each device once.
    - `mesh`: The devices, as [`eqx_slots.training.data_mesh`][] gives them.

    **Returns:**

    The same function, compiled. The leading axis of every array is shared out over the
    first axis of the mesh; a `ValueError` says so if it cannot be divided.

    **Example:**

    ```python
    import jax
    import jax.random as jr
    from eqx_slots import training

    def batch_at(step):
        return jr.normal(jr.fold_in(jr.key(0), step), (16, 3))

    mesh = training.data_mesh(jax.devices()[:1])
    batch_at = training.shard_batches(batch_at, mesh)
    print(batch_at(0).shape)  # (16, 3)
    ```
    """
    check_mesh(mesh)

    arrays, rest = eqx.partition(batch_at, eqx.is_array)  # of a pool, its pictures
    arrays = jax.tree.map(lambda x: _replicated(x, mesh), arrays)

    @jax.jit
    def made(arrays: Any, count: Any) -> Any:
        return _shared_out(eqx.combine(arrays, rest)(count), mesh)

    return lambda count: made(arrays, _replicated(jnp.asarray(count), mesh))


def join_processes() -> None:
    """Join the other processes of this run, if the environment names any.

    To be called first, before anything of JAX is used. It does nothing unless
    `JAX_COORDINATOR_ADDRESS` is set: host and port of process 0, the same for all.
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, which counts from 0, say the rest; where
    JAX knows the cluster (Slurm, Open MPI, TPU) it finds both. All is handed to
    `jax.distributed.initialize`. A `ValueError` refuses what is no whole number, and
    either of the two without an address.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if address is not None:
        number, index = (_whole(name) for name in names)
        jax.distributed.initialize(address, number, index)
    elif told := [name for name in names if name in os.environ]:
        raise ValueError(
            f"The environment has {' and '.join(told)}, so `JAX_COORDINATOR_ADDRESS`"
            " must be set too, to the host and port of process 0, such as"
            " 10.0.0.1:1234; got none. Unset the others to train alone."
        )


def _whole(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise ValueError(
            f"The environment's `{name}` must be a whole number, got {text!r}; leave it"
            " out where JAX knows the cluster."
        )
    return None if text is None else int(text)


def in_any_process(flag: bool, state: Any) -> bool:
    """Whether a flag is up in one of the processes that share a state.

    A process that stopped alone would leave the others waiting for it for ever.
    """
    if state.step.is_fully_addressable:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def spread(step: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """The same step on the devices of a mesh; how is up to the compiler."""
    check_mesh(mesh)
    whole = lambda tree: _map_arrays(lambda leaf: _replicated(leaf, mesh), tree)

    def spread_step(batch: Any, state: Any) -> Any:
        state, info = step(_shared_out(batch, mesh), state)
        # Left to the compiler, the next step might begin from another placement.
        return whole(state), info

    return spread_step


def place(batch: Any, state: Any, mesh: Mesh) -> tuple[Any, Any]:
    """Outside jit: to the devices what is not there yet, so that one program serves."""
    specs = _map_arrays(lambda leaf: along_batch(leaf, mesh), batch)

    def shared(leaf: Any, spec: Any) -> Any:
        if not eqx.is_array(leaf) or _is_on(leaf, mesh):
            return leaf
        if _of_several_processes(mesh):
            raise ValueError(
                f"A leaf of the batch of shape {leaf.shape} is in this process alone,"
                " and `mesh` has devices of several; make batches by"
                " training.shard_batches, or of each process's part by"
                " jax.make_array_from_process_local_data."
            )
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    batch = jax.tree.map(shared, batch, specs)
    if _is_on(state.step, mesh):  # as every step but the first finds it
        return batch, state
    if _of_several_processes(mesh):
        _check_same([leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)])
    return batch, _map_arrays(lambda leaf: _replicated(leaf, mesh), state)


def check_mesh(mesh: Mesh) -> None:
    """Refuse axes of the type that `jax.make_mesh` gives, under which models fail."""
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"The axes of `mesh` must be of type AxisType.Auto, got {mesh.axis_types};"
            " use training.data_mesh(), or jax.make_mesh(..., axis_types="
            f"(jax.sharding.AxisType.Auto,) * {len(mesh.axis_types)})."
        )


def _shared_out(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: the leading axis of every array over the first axis of the mesh."""

    def shared(leaf: Any) -> Any:
        spec = along_batch(leaf, mesh)
        # What else is shared out stays so, such as the inputs of each set.
        others = [PartitionSpec.UNCONSTRAINED] * (jnp.ndim(leaf) - len(spec))
        sharding = NamedSharding(mesh, PartitionSpec(*spec, *others))
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return _map_arrays(shared, batch)


def along_batch(leaf: Any, mesh: Mesh) -> PartitionSpec:
    """How an array with the batch in front is shared out over the mesh."""
    if jnp.ndim(leaf) == 0:
        return PartitionSpec()
    axis = mesh.axis_names[0]
    size, num = leaf.shape[0], mesh.shape[axis]
    if size % num:
        raise ValueError(
            f"A batch is shared out over the {num} devices along {axis!r}, the first"
            f" axis of `mesh`, so the leading axis of its arrays must be a multiple of"
            f" {num}, got an array of shape {leaf.shape}; make the batch size"
            f" {size + -size % num}, or take fewer devices:"
            " training.data_mesh(jax.devices()[:n])."
        )
    return PartitionSpec(axis)


def _replicated(leaf: Any, mesh: Mesh) -> Any:
    """One copy for each device, made by the process that owns the device."""
    whole = NamedSharding(mesh, PartitionSpec())
    if isinstance(leaf, Tracer):
        return jax.lax.with_sharding_constraint(leaf, whole)
    if _is_on(leaf, mesh) and leaf.is_fully_replicated:
        return leaf
    copies = [jax.device_put(leaf, device) for device in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(leaf.shape, whole, copies)


def _is_on(leaf: Any, mesh: Mesh) -> bool:
    """Whether an array was placed on exactly the devices of the mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return False
    return sharding.device_set == set(mesh.devices.flat)


def _of_several_processes(mesh: Mesh) -> bool:
    return len({device.process_index for device in mesh.devices.flat}) > 1


def _check_same(leaves: list[Any]) -> None:
    """Refuse a state that differs from process to process: no step would mend it."""
    digest = 0
    for leaf in leaves:
        keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = np.asarray(jr.key_data(leaf) if keys else leaf)
        digest = zlib.crc32(numbers.tobytes(), digest)
    digests = multihost_utils.process_allgather(np.asarray(digest, np.uint32))
    if np.any(digests != digests[0]):
        raise ValueError(
            "The first state must be the same in every process, got states that differ;"
            " make model and key from the same seed everywhere. Keys for the examples"
            " of a batch need not differ by process: a batch is drawn as a whole."
        )


def _map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    return jax.tree.map(lambda x: function(x) if eqx.is_array(x) else x, tree)
