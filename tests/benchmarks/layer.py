"""The layer against its peers, side by side in one run: times and memory.

    pip install -e ".[dev,benchmarks]" && python -m tests.benchmarks.layer

The official algorithm in Keras (TensorFlow, as a graph and through XLA), the PyTorch
package `slot-attention` (eager and compiled), SAVi's algorithm and the textbook's in
JAX. First all have to compute the same slots and gradients from the same weights, then
they take turns; the median of many turns counts, and of those the ratios. Both ways is
forward and backward. Memory is what the process holds at most during those, more than
before them, with the gradients that it gives back. The floor is what the same
arithmetic would take at the speed of the machine's own matrix product and copy.
With `--record` the tables of docs/performance.md get these figures.
"""

import importlib
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from docs import tables

from .turns import (
    milliseconds,
    NOTHING_KEPT,
    page_faults,
    peak_megabytes,
    serve,
    Worker,
)


PEERS = {
    "eqx_slots": "jax_layers",
    "textbook": "jax_layers",
    "savi": "jax_layers",
    "tensorflow": "tensorflow_layer",
    "tensorflow_xla": "tensorflow_layer",
    "torch": "torch_layer",
    "torch_compiled": "torch_layer",
}
NAMES = {
    "eqx_slots": "eqx_slots",
    "textbook": "textbook, JAX",
    "savi": "SAVi's algorithm, JAX",
    "tensorflow": "official algorithm, TensorFlow graph",
    "tensorflow_xla": "official algorithm, TensorFlow XLA",
    "torch": "lucidrains, PyTorch",
    "torch_compiled": "lucidrains, PyTorch compiled",
}
COLUMNS = (
    "name",
    "forward_ms",
    "forward_ms/first",
    "both_ms",
    "both_ms/first",
    "memory_mb",
    "page_faults",
)
SIZE, ROUNDS, TURNS = 64, 3, 21
MEASURED = {
    "small": (32, 1024, 5),
    "medium": (16, 4096, 7),
    "large": (4, 16384, 7),
}
CASES = {"check": (2, 100, 5)} | MEASURED


def arrays(case):
    """Inputs that are neither centred nor of unit size, and initial slots."""
    sets, inputs, slots = CASES[case]
    rng = np.random.default_rng(list(CASES).index(case))
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return 0.5 + 2 * draw(sets, inputs, SIZE), draw(sets, slots, SIZE)


def worker(name, folder):
    module = importlib.import_module(f"{__package__}.peers.{PEERS[name]}")
    peers = {}

    def prepared(case):
        peers[case] = peer = module.build(name, *arrays(case))
        for _ in range(3):
            peer.forward(), peer.gradient()

    def memory(case):
        peer = module.build(name, *arrays(case))
        peer.gradient()
        return peak_megabytes(peer.gradient)

    def checked():
        peer = module.build(name, *arrays("check"))
        made = (peer.forward(), peer.gradient()[0])
        slots, d_inputs = (np.asarray(x) for x in made)
        path = Path(folder, f"{name}.npz")
        np.savez(path, slots=slots, d_inputs=d_inputs, **peer.weights)

    serve(
        {
            "check": checked,
            "prepare": prepared,
            "forward": lambda case: milliseconds(peers[case].forward),
            "gradient": lambda case: milliseconds(peers[case].gradient),
            "memory": memory,
            "faults": lambda case: page_faults(peers[case].gradient),
            "forget": lambda case: peers.pop(case) and None,
        }
    )


def largest_errors(folder):
    """Of slots and of the inputs' gradient, ours against each peer's by its weights."""
    import equinox as eqx
    import jax

    from eqx_slots import interop

    from .peers.jax_layers import layer_of, ours

    inputs, slots = arrays("check")
    makers = {name: lambda _: layer_of(slots.shape[1]) for name in ("textbook", "savi")}
    google = lambda weights: interop.google_layer(weights, num_slots=slots.shape[1])
    lucidrains = lambda weights: interop.lucidrains(weights, num_slots=slots.shape[1])
    makers |= {"tensorflow": google, "tensorflow_xla": google}
    makers |= {"torch": lucidrains, "torch_compiled": lucidrains}

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def squares(inputs, layer):
        made = jax.vmap(ours, in_axes=(None, 0, 0))(layer, inputs, slots)
        return (made**2).sum(), made

    for name, make in makers.items():
        weights = dict(np.load(Path(folder, f"{name}.npz")))
        want = weights.pop("slots"), weights.pop("d_inputs")
        (_, made), d_inputs = squares(jax.numpy.asarray(inputs), make(weights))
        error = lambda a, b: float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
        yield name, list(map(error, (made, d_inputs), want))


def ceilings():
    """Gflop/s of a large matrix product, and GB/s of a copy as large as the inputs."""
    import jax
    import jax.numpy as jnp

    square, long = jnp.ones((2048, 2048)), jnp.ones(2**22)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    best = lambda call: statistics.median(milliseconds(call) for _ in range(TURNS))
    flops = 2 * 2048**3 / best(lambda: product(square).block_until_ready()) / 1e6
    return flops, 2 * 4 * 2**22 / best(lambda: copy(long).block_until_ready()) / 1e6


def floors(case, flops, bandwidth):
    """Milliseconds of forward, and of forward and backward.

    Each round multiplies slots and inputs twice forwards and three times backwards, and
    the inputs' gradient takes two products more; inputs are read once a round each way,
    once for their norm, and their gradient is written.
    """
    sets, inputs, slots = CASES[case]
    product = 2 * sets * inputs * slots * SIZE / 1e6
    read = 4 * sets * inputs * SIZE / 1e6
    forward = 2 * ROUNDS * product, (ROUNDS + 1) * read
    both = 7 * ROUNDS * product, (2 * ROUNDS + 2) * read
    return [max(work / flops, moved / bandwidth) for work, moved in (forward, both)]


def memories(folder):
    """MB of each peer in each case, by processes that do nothing else.

    TensorFlow keeps memory in a pool of its own, which cannot be looked into.
    """
    found = {case: {} for case in MEASURED}
    for name in PEERS:
        if PEERS[name] == "tensorflow_layer":
            continue
        each = Worker(__spec__.name, name, folder, **NOTHING_KEPT)
        for case in MEASURED:
            found[case][name] = round(each.ask("memory", case))
        each.end()
    return found


def measured(workers, case):
    """Medians for each worker: ms forward and with backward, and its page faults."""
    times = {name: {"forward": [], "gradient": [], "faults": []} for name in workers}
    for each in workers.values():
        each.ask("prepare", case)
    for _ in range(TURNS):
        for what in ("forward", "gradient", "faults"):
            for name, each in workers.items():
                time.sleep(0.02)  # threads of the one before come to rest
                times[name][what].append(each.ask(what, case))
    for each in workers.values():
        each.ask("forget", case)
    return {
        name: [statistics.median(values) for values in each.values()]
        for name, each in times.items()
    }


def report(case, medians, memory, floor):
    sets, inputs, slots = CASES[case]
    rows = [
        {
            "name": NAMES[name],
            "forward_ms": forward,
            "both_ms": both,
            "memory_mb": memory.get(name),
            "page_faults": faults,
        }
        for name, (forward, both, faults) in medians.items()
    ]
    rows.append({"name": "the floor", "forward_ms": floor[0], "both_ms": floor[1]})
    print(f"\n{sets} sets x {inputs} inputs x {slots} slots\n")
    print(tables.table(rows, COLUMNS), end="")
    if "--record" in sys.argv:
        tables.record(f"layer_{inputs}", rows)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        workers = {name: Worker(__spec__.name, name, folder) for name in PEERS}
        for each in workers.values():
            each.ask("check")
        print("largest error over largest entry, of slots and of the inputs' gradient:")
        for name, errors in largest_errors(folder):
            print(f"  {NAMES[name]}: {errors[0]:.1e}, {errors[1]:.1e}")
            if not max(errors) < 1e-4:
                raise RuntimeError(f"{name} computes something else: no comparison.")
        flops, bandwidth = ceilings()
        print(f"{platform.machine()}, {os.cpu_count()} cores,", end=" ")
        print(f"matrix product {flops:.0f} Gflop/s, copy {bandwidth:.0f} GB/s")
        medians = {case: measured(workers, case) for case in MEASURED}
        for each in workers.values():
            each.end()
        memory = memories(folder)
        for case in MEASURED:
            floor = floors(case, flops, bandwidth)
            report(case, medians[case], memory[case], floor)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
