"""What a layer costs as inputs and slots grow: forward and backward, ours and textbook.

    pip install -e ".[dev]" && python -m tests.benchmarks.scaling scaling.png

Draws milliseconds against the number of inputs (1,024 to 65,536, 7 slots) and of slots
(4 to 64, 4,096 inputs), one set of vectors of 64, three rounds.
"""

import statistics
import sys

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from .peers.jax_layers import build, SIZE
from .turns import milliseconds


TURNS = 9
WAYS = {"eqx_slots": "eqx_slots", "textbook": "textbook, JAX"}
INPUTS = [(2**n, 7) for n in range(10, 17)]
SLOTS = [(4096, 2**n) for n in range(2, 7)]


def times(sizes):
    """Milliseconds of forward and backward, for each way and each size."""
    found = {way: [] for way in WAYS}
    for inputs, slots in sizes:
        rng = np.random.default_rng(0)
        draw = lambda *shape, rng=rng: rng.normal(size=shape).astype(np.float32)
        given = draw(1, inputs, SIZE), draw(1, slots, SIZE)
        peers = {way: build(way, *given) for way in WAYS}
        taken = {way: [] for way in WAYS}
        for _ in range(TURNS + 2):
            for way, peer in peers.items():
                taken[way].append(milliseconds(peer.gradient))
        for way in WAYS:
            found[way].append(statistics.median(taken[way][2:]))
        jax.clear_caches()
        print(inputs, slots, {way: round(found[way][-1], 2) for way in WAYS})
    return found


def draw(axes, numbers, found, name):
    for way, label in WAYS.items():
        axes.plot(numbers, found[way], marker="o", label=label)
    start, end = numbers[0], numbers[-1]
    last = found["eqx_slots"][-1]
    axes.plot(
        [start, end], [last * start / end, last], ":", color="gray", label="linear"
    )
    axes.set(xscale="log", yscale="log", xlabel=name)
    axes.set_xticks(numbers, [f"{n:,}" for n in numbers], rotation=45, minor=False)
    axes.minorticks_off()


def main(path):
    matplotlib.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw(left, [n for n, _ in INPUTS], times(INPUTS), "inputs, with 7 slots")
    draw(right, [n for _, n in SLOTS], times(SLOTS), "slots, with 4,096 inputs")
    left.set_ylabel("forward and backward, ms")
    left.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
