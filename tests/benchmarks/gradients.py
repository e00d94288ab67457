"""Gradients through the rounds: what each way costs, and how close it comes.

    python -m tests.benchmarks.gradients

A layer is trained on clusters of points, as in `examples/cluster_points.py`. Then sets
never seen are iterated in float64 until the slots move by less than 1e-6 of their size;
there the exact gradient of the fixed point is known, by solving the implicit linear
system. Prints, for gradients through the last n rounds and through all of thirty, the
cosine to it (over all weights and inputs), and the time and temporary memory of forward
and backward through ten rounds of a layer of the paper's size: 32 sets of 1024 inputs
in float32.
"""

import statistics
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from eqx_slots import nn, training


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import cluster_points


SETS, TOL = 32, 1e-6
WAYS = {
    "the last round": 1,
    "the last 2": 2,
    "the last 3": 3,
    "the last 5": 5,
    "all rounds": None,
}


def trained_layer(steps=400):
    """A layer that clusters points, and sets that it has never seen."""
    model_key, data_key, run_key, test_key = jr.split(jr.key(0), 4)
    rate = optax.cosine_decay_schedule(1e-2, steps)
    optim = training.muon(rate, adam_learning_rate=2e-3)
    model = cluster_points.Clusterer(model_key)
    state = training.TrainState.create(model, optim, key=run_key)
    step = training.make_step(cluster_points.loss, optim)
    batch_at = lambda count: jr.fold_in(data_key, count)
    *_, last = training.run(step, state, batch_at, num_steps=steps)
    model = last.state.model
    points, _ = jax.vmap(cluster_points.blobs)(jr.split(test_key, SETS))
    return model.slot_attention, jax.jit(jax.vmap(jax.vmap(model.embed)))(points)


def set_grad_iters(layer, grad_iters):
    """The same weights in a layer that differs in one static number."""
    options = {"mlp_size": layer.mlp.width_size, "num_slots": layer.num_slots}
    sizes = (layer.input_size, layer.slot_size)
    other = eqx.filter_eval_shape(
        lambda key: nn.SlotAttention(*sizes, **options, grad_iters=grad_iters, key=key),
        jr.key(0),
    )
    other = eqx.tree_at(lambda m: m.slot_init, other, layer.slot_init)
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(layer))


def vector(layer, inputs):
    """What is differentiated by, as one long vector: weights of the layer, inputs."""
    weights = eqx.tree_at(lambda m: m.slot_init, layer, None)  # of no use at the end
    leaves = jax.tree.leaves((eqx.filter(weights, eqx.is_inexact_array), inputs))
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def gradient(call, layer, inputs):
    params, static = eqx.partition(layer, eqx.is_inexact_array)
    total = lambda params, inputs: call(eqx.combine(params, static), inputs)
    grads = jax.grad(total, argnums=(0, 1))(params, inputs)
    return vector(eqx.combine(grads[0], static), grads[1])


@eqx.filter_jit
def settled(layer, inputs, slots):
    """A fixed point, how far it still moves, and after how many rounds."""
    made = layer.converge(inputs, slots=slots, tol=TOL / 100, max_iters=5000)
    return made.state.slots, made.residual, made.num_iters


@eqx.filter_jit
def exact(layer, inputs, fixed, weights):
    """Of `<weights, slots>` at the fixed point, by the implicit function theorem."""
    step = lambda s: layer.step(s.reshape(fixed.shape), inputs).slots.ravel()
    jacobian = jax.jacrev(step)(fixed.ravel())
    matrix = jnp.eye(fixed.size, dtype=fixed.dtype) - jacobian.T
    adjoint = jnp.linalg.solve(matrix, weights.ravel()).reshape(fixed.shape)
    call = lambda layer, inputs: jnp.sum(layer.step(fixed, inputs).slots * adjoint)
    return gradient(call, layer, inputs)


@eqx.filter_jit
def through(layer, inputs, slots, num_iters, weights):
    """Of the same number, through the rounds of a layer that starts at `slots`."""
    call = lambda layer, inputs: jnp.sum(
        layer(inputs, slots=slots, num_iters=num_iters).slots * weights
    )
    return gradient(call, layer, inputs)


def cosines(layer, sets):
    """For each way its cosines on the sets that settle, and how many those are."""
    found = {name: [] for name in WAYS}
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(
            lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, tree
        )
        layer, rounds = wide(layer), []
        ways = {name: set_grad_iters(layer, n) for name, n in WAYS.items()}
        for index in range(SETS):
            inputs, start = wide(sets[index]), layer.slot_init(layer.num_slots)
            fixed, residual, num_iters = settled(ways["the last round"], inputs, start)
            if not float(residual) < TOL:
                continue
            rounds.append(int(num_iters))
            weights = jr.normal(jr.key(index), fixed.shape, jnp.float64)
            want = exact(ways["the last round"], inputs, fixed, weights)
            for name, n in WAYS.items():
                # All of the rounds there were would not fit: thirty from the start.
                begin, count = (fixed, n) if n else (start, 30)
                got = through(ways[name], inputs, begin, count, weights)
                cosine = jnp.vdot(got, want)
                cosine /= jnp.linalg.norm(got) * jnp.linalg.norm(want)
                found[name].append(float(cosine))
    return found, rounds


def cost(grad_iters):
    """Milliseconds and MB of temporaries, forward and backward through ten rounds."""
    layer = nn.SlotAttention(
        64, 64, num_slots=7, num_iters=10, grad_iters=grad_iters, key=jr.key(0)
    )
    sets = jr.normal(jr.key(1), (32, 1024, 64))
    slots = jr.normal(jr.key(2), (32, 7, 64))

    def total(params, static, sets):
        layer = eqx.combine(params, static)
        made = jax.vmap(lambda x, s: layer(x, slots=s).slots)(sets, slots)
        return jnp.sum(made**2)

    params, static = eqx.partition(layer, eqx.is_inexact_array)
    grad = jax.jit(jax.grad(total, argnums=(0, 2)), static_argnums=1)
    compiled = grad.lower(params, static, sets).compile()
    times = []
    for _ in range(15):
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, sets))
        times.append(1e3 * (time.perf_counter() - start))
    memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return statistics.median(times), memory


def main():
    found, rounds = cosines(*trained_layer())
    print(f"{len(rounds)} of {SETS} sets settle (residual below {TOL}),", end=" ")
    print(f"after {min(rounds)} to {max(rounds)} rounds")
    print("| gradient through | cosine, mean | least | ms | temporaries, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, n in WAYS.items():
        milliseconds, memory = cost(n)
        print(
            f"| {name} | {statistics.mean(found[name]):.4f} | {min(found[name]):.4f} |"
            f" {milliseconds:.0f} | {memory:.0f} |"
        )


if __name__ == "__main__":
    main()
