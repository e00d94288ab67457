"""The loss between sets, with its matching, against SciPy's on the host.

    pip install -e ".[dev]" && python -m tests.benchmarks.matching

512 examples of 10 predictions and 10 targets, 19 numbers each: the value and its
gradient. The official route computes all pairwise costs in one compiled program, brings
them to the host, solves one assignment after the other with SciPy, and compiles the
rest; ours is one program. In turns in one process; the ratio of the medians counts.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.optimize import linear_sum_assignment

from eqx_slots import losses


BATCH, ELEMENTS, SIZE = 512, 10, 19


def ours(predicted, targets):
    made = jax.vmap(losses.matched_set_loss)(predicted, targets)
    return jnp.mean(made.loss)


def pairwise(predicted, targets):
    """Costs of all pairs: batch, target, prediction."""
    each = jax.vmap(jax.vmap(losses.huber, (0, None)), (None, 0))
    return jax.vmap(each)(predicted, targets)


def chosen(predicted, targets, order):
    costs = pairwise(predicted, targets)
    return jnp.mean(jnp.sum(jnp.take_along_axis(costs, order[..., None], 2), (1, 2)))


def main(turns: int = 30) -> dict[str, float]:
    predicted, targets = jr.uniform(jr.key(0), (2, BATCH, ELEMENTS, SIZE))
    on_device = jax.jit(jax.value_and_grad(ours))
    costs, rest = jax.jit(pairwise), jax.jit(jax.value_and_grad(chosen))

    def on_host(predicted, targets):
        table = np.asarray(costs(predicted, targets))
        order = np.stack([linear_sum_assignment(cost)[1] for cost in table])
        return rest(predicted, targets, order)

    routes = {"eqx_slots": on_device, "pairwise costs, then SciPy": on_host}
    results = [route(predicted, targets) for route in routes.values()]
    for one, other in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    times = {name: [] for name in routes}
    for _ in range(turns):
        for name, route in routes.items():
            start = time.perf_counter()
            jax.block_until_ready(route(predicted, targets))
            times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("| | ms | |\n| --- | --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {value / medians['eqx_slots']:.2f}x |")
    return medians


if __name__ == "__main__":
    main()
