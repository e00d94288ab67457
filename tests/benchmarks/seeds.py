"""Seeds of the default example trained in one step, against one after the other.

    python -m tests.benchmarks.seeds

`equinox.filter_vmap` over the keys of eight seeds, and the same step for each of them;
in turns, the median for a step and a seed counts.
"""

import statistics
import time

import equinox as eqx
import jax
import jax.random as jr

from eqx_slots import training

from .example import example, last_batch


SEEDS, TURNS = 8, 7


def main():
    """Milliseconds of a step and seed, for each of the two ways."""
    arguments = example.Arguments()
    optim = example.optimiser(arguments.steps, arguments.rate)
    batch = last_batch(arguments)
    step = training.make_step(example.loss, optim)

    def begin(key):
        model = arguments.recipe.make(**arguments.built_with, key=key)
        return training.TrainState.create(model, optim, key=key)

    def one_by_one(state):
        for _ in range(SEEDS):
            state, _ = step(batch, state)
        return state

    over_states = {"in_axes": (eqx.if_array(0),)}
    mapped = eqx.filter_jit(eqx.filter_vmap(lambda s: step(batch, s)[0], **over_states))
    keys = jr.split(jr.key(0), SEEDS)
    runs = {
        "one after the other": (one_by_one, eqx.filter_jit(begin)(keys[0])),
        "in one step": (mapped, eqx.filter_jit(eqx.filter_vmap(begin))(keys)),
    }
    times = {name: [] for name in runs}
    for turn in range(1 + TURNS):  # the first compiles
        for name, (train, state) in runs.items():
            start = time.perf_counter()
            state = jax.block_until_ready(train(state))
            runs[name] = train, state
            if turn > 0:
                times[name].append(1e3 * (time.perf_counter() - start) / SEEDS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, ms in medians.items():
        print(f"{name:20} {ms:6.1f} ms a step and seed", flush=True)
    return medians


if __name__ == "__main__":
    main()
