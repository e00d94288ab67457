"""The example's model trained on several devices, or on those of several processes.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.devices [FOLDER]

`test_devices.py` runs it in processes of its own: the number of devices is fixed at
the first use of JAX. Prints what it found as JSON. With `JAX_COORDINATOR_ADDRESS`,
`JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` set it is one process of several, which save
into the folder.
"""

import json
import logging
import re
import signal
import sys
from contextlib import contextmanager
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqx_slots import losses, SlotAttention, training
from eqx_slots.data import blocks
from eqx_slots.models import presets

from .helpers import built
from .sharded import numbers_sent


BATCH_SIZE, STEPS = 16, 5


def paint(count, size=BATCH_SIZE):
    scene = partial(blocks.scene, num_objects=(2, 4))
    keys = jr.split(jr.fold_in(jr.key(2), count), size)
    return 2 * jax.vmap(scene)(keys).image - 1


def loss(model, images, key):
    one = lambda image, key: model(image, key=key).image
    made = jax.vmap(one)(images, jr.split(key, len(images)))
    return losses.mean_squared_error(made, images), None


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


@contextmanager
def compilations():
    """A list that grows by the name of what is compiled."""
    names = []

    class Listener(logging.Handler):
        def emit(self, record):
            names.extend(re.findall(r"Finished XLA .* of (.*) in", record.getMessage()))

    logger, listener = logging.getLogger("jax"), Listener()
    logger.addHandler(listener)
    with jax.log_compiles():
        yield names
    logger.removeHandler(listener)


def begin(optim):
    model = built(presets.blocks, scale=0.1)
    return training.TrainState.create(model, optim, use_ema=True, key=jr.key(1))


def train(mesh, batch_at):
    """Losses of the first steps, by the loop that everybody uses."""
    optim = training.adam(1e-3)
    step = training.make_step(loss, optim, mesh=mesh)
    options = {"num_steps": STEPS, "report_every": 1}
    values = []
    with compilations() as names:
        for report in training.run(step, begin(optim), batch_at, **options):
            values.append(report.loss)
    # Every process has a copy of what is whole on every device.
    assert all(np.all(np.isfinite(leaf)) for leaf in arrays(report.state.ema))
    return {"losses": values, "compiled": names}


def compiled(mesh, size):
    """The program of a step, for batches that come shared out."""
    optim = training.adam(1e-3)
    step = training.make_step(loss, optim, mesh=mesh)
    dynamic, static = eqx.partition(begin(optim), eqx.is_array)

    def once(images, dynamic):
        state, info = step(images, eqx.combine(dynamic, static))
        return eqx.filter(state, eqx.is_array), info

    def on(leaf, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    images = on(jax.eval_shape(partial(paint, size=size), 0), "batch")
    program = jax.jit(once)
    return program.lower(images, jax.tree.map(on, dynamic)).compile()


def memory(program):
    found = program.memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def layer_alone(mesh):
    """A layer to train on sets of 1,024 inputs, and the shape of a batch of them."""
    optim = training.adam(1e-3)
    layer = built(partial(SlotAttention, 16, 16, num_slots=5))

    def gather(layer, sets, key):
        one = lambda inputs, key: layer(inputs, key=key).slots
        slots = jax.vmap(one)(sets, jr.split(key, len(sets)))
        return jnp.mean(slots**2), None

    state = training.TrainState.create(layer, optim, key=jr.key(1))
    return training.make_step(gather, optim, mesh=mesh), state, (4, 1024, 16)


def of_sets_and_inputs(rows):
    """Sets shared out over rows of devices, the inputs of each within its row."""
    axes = ("batch", "inputs")
    grid = (rows, jax.device_count() // rows)
    mesh = jax.make_mesh(grid, axes, axis_types=2 * (AxisType.Auto,))
    return mesh, NamedSharding(mesh, PartitionSpec(*axes))


def sent_with_inputs_shared_out():
    """By a step whose batch comes with its sets on two rows, its inputs on four."""
    mesh, where = of_sets_and_inputs(2)
    step, state, shape = layer_alone(mesh)
    dynamic, static = eqx.partition(state, eqx.is_array)
    once = lambda sets, dynamic: step(sets, eqx.combine(dynamic, static))[1]
    sets = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
    return numbers_sent(jax.jit(once).lower(sets, dynamic).compile().as_text())


def train_on_inputs(mesh=None, where=None):
    """Losses of the first steps on sets whose inputs lie on several devices."""
    step, state, shape = layer_alone(mesh)
    draw = lambda count: jr.normal(jr.fold_in(jr.key(2), count), shape)
    batch_at = jax.jit(draw, out_shardings=where)
    options = {"num_steps": STEPS, "report_every": 1}
    return [now.loss for now in training.run(step, state, batch_at, **options)]


def state_is_whole(mesh):
    """Even of parameters that the compiler would rather share out with the batch."""
    optim = training.adam(1e-3)
    model = eqx.nn.Embedding(BATCH_SIZE, 3, key=jr.key(0))  # a vector for each example
    scale = lambda model, batch, key: (jnp.mean((model.weight * batch) ** 2), None)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    batch = jr.normal(jr.key(2), (BATCH_SIZE, 3))
    state, _ = training.make_step(scale, optim, mesh=mesh)(batch, state)
    return all(leaf.is_fully_replicated for leaf in arrays(state))


def sent_as_a_part(mesh):
    """By a step inside of a program that is given everything on one device."""
    step, state, _ = line(mesh, 0)
    dynamic, static = eqx.partition(state, eqx.is_array)
    once = lambda batch, dynamic: step(batch, eqx.combine(dynamic, static))[1]
    program = jax.jit(once).lower(jr.normal(jr.key(2), (BATCH_SIZE, 3)), dynamic)
    return numbers_sent(program.compile().as_text())


def several_devices():
    mesh, pair = training.data_mesh(), training.data_mesh(jax.devices()[:2])
    shared_out = compiled(mesh, BATCH_SIZE)
    part = compiled(pair, 2 * BATCH_SIZE // len(jax.devices()))
    jax.config.update("jax_disable_most_optimizations", True)
    return {
        "on one device": train(None, jax.jit(paint)),
        "inputs on one device": train_on_inputs(),
        "trained": train(mesh, training.shard_batches(paint, mesh)),
        "sent": numbers_sent(shared_out.as_text()),
        "sent with inputs shared out": sent_with_inputs_shared_out(),
        "parameters": sum(leaf.size for leaf in arrays(begin(training.adam(1)).model)),
        "sent as a part": sent_as_a_part(mesh),
        "state is whole": state_is_whole(mesh),
        "memory": memory(shared_out),
        "memory of one of a pair": memory(part),
    }


def several_processes(folder):
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = training.data_mesh()
    return {
        "trained on inputs": train_on_inputs(*of_sets_and_inputs(1)),
        "weights": saved_and_restored(mesh, folder),
        "trained": train(mesh, training.shard_batches(paint, mesh)),
        "stopped": interrupted(mesh),
        "other seed": other_seed(mesh),
    }


def line(mesh, seed):
    """A model that compiles at once."""
    optim = training.adam(1e-3)
    model = eqx.nn.Linear(3, 2, key=jr.key(seed))
    fit = lambda model, batch, key: (jnp.mean(jax.vmap(model)(batch) ** 2), None)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    batch_at = lambda count: jr.normal(jr.fold_in(jr.key(2), count), (BATCH_SIZE, 3))
    step = training.make_step(fit, optim, mesh=mesh)
    return step, state, training.shard_batches(batch_at, mesh)


def saved_and_restored(mesh, folder):
    """Weights of a run in one go, and of one that was left and gone on with."""
    checkpoints, ends = training.Checkpoints(folder), []
    for parts in ((6,), (3, 6)):
        if jax.process_index() == 0:
            checkpoints.clear()
        multihost_utils.sync_global_devices("cleared")
        for num_steps in parts:
            is_left = bool(checkpoints.steps())
            step, state, batch_at = line(mesh, seed=int(is_left))
            if is_left:
                state = checkpoints.restore(state)
            options = {"num_steps": num_steps, "checkpoints": checkpoints}
            *_, last = training.run(step, state, batch_at, **options)
        ends.append(np.asarray(last.state.model.weight).tolist())
    return ends


def interrupted(mesh):
    """A signal to the last process alone, at the third step."""
    for report in training.run(*line(mesh, 0), num_steps=50, report_every=1):
        if report.step == 3 and jax.process_index() == jax.process_count() - 1:
            signal.raise_signal(signal.SIGTERM)
    return report.stopped, report.step


def other_seed(mesh):
    step, state, batch_at = line(mesh, jax.process_index())
    try:
        step(batch_at(0), state)
    except ValueError as error:
        return str(error)


def main():
    training.join_processes()
    alone = jax.process_count() == 1
    report = several_devices() if alone else several_processes(sys.argv[1])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
