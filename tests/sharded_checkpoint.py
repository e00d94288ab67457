r"""A checkpoint of one device, restored on eight and saved from there.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.sharded_checkpoint F

`test_resume.py` runs it in a process of its own: the number of devices is fixed at the
first use of JAX. Restores from the folder F/one, saves to F/eight, and prints for each
array how many devices it is on and the shape of what each has.
"""

import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqx_slots._misc import named_arrays
from eqx_slots.training import Checkpoints, TrainState


def begin(seed: int) -> TrainState:
    model = eqx.nn.MLP(3, 2, 8, 1, key=jr.key(seed))
    return TrainState.create(model, optax.adam(0.1), use_ema=True, key=jr.key(seed))


def spread(state: TrainState) -> TrainState:
    """Arrays of eight rows shared out over eight devices, all others on each."""
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))

    def put(leaf):
        spec = PartitionSpec("devices" if leaf.shape[:1] == (8,) else None)
        spec = PartitionSpec() if leaf.ndim == 0 else spec
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    arrays, static = eqx.partition(state, eqx.is_array)
    return eqx.combine(jax.tree.map(put, arrays), static)


def main(folder: Path) -> None:
    like = spread(begin(1))
    state = Checkpoints(folder / "one").restore(like)
    Checkpoints(folder / "eight").save(state)
    report = {}
    wanted = named_arrays(like)
    for name, array in named_arrays(state).items():
        assert array.sharding == wanted[name].sharding, name
        part = array.sharding.shard_shape(array.shape)
        report[name] = [len(array.sharding.device_set), list(part)]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
