"""Convolutions of a batch, and the gradients of their kernels, against XLA's own.

    python -m tests.benchmarks.convolve

Both take turns in one process; the smallest of some times counts, since the ratio is of
the same sums. Sizes are those of the models: decoder, sub-pixel convolution, last
layer, encoder, and wider ones.
"""

import time
from functools import partial

import jax
import jax.random as jr

from eqx_slots.convolution import convolve
from eqx_slots.convolution._xla import xla_convolve


SIZES = [  # images, their side, channels before and after, side of the kernel
    (160, 32, 32, 32, 5),
    (160, 16, 32, 128, 3),
    (160, 32, 32, 4, 3),
    (32, 32, 32, 32, 5),
    (32, 16, 64, 64, 5),
    (32, 32, 256, 256, 3),
]
TURNS = 7


def kernel_gradient(convolve, x, kernel, y_bar):
    return jax.vjp(partial(convolve, x), kernel)[1](y_bar)[0]


def main():
    devices = f"{jax.device_count()} {jax.default_backend()} device(s)"
    print(f"JAX {jax.__version__}, {devices}; milliseconds, XLA's own and ours\n")
    for images, side, before, after, size in SIZES:
        padding = ((size // 2, size // 2),) * 2
        keys = jr.split(jr.key(0), 3)
        x = jr.normal(keys[0], (images, side, side, before))
        kernel = jr.normal(keys[1], (size, size, before, after))
        y_bar = jr.normal(keys[2], (images, side, side, after))
        theirs = partial(xla_convolve, padding=padding)
        ours = partial(convolve, padding=padding)
        programs = {}
        for name, one in (("XLA", theirs), ("ours", ours)):
            programs[name, "forward"] = jax.jit(one), (x, kernel)
            back = jax.jit(partial(kernel_gradient, one))
            programs[name, "kernel"] = back, (x, kernel, y_bar)
        for program, arguments in programs.values():
            jax.block_until_ready(program(*arguments))
        times = {name: [] for name in programs}
        for _ in range(TURNS):
            for name, (program, arguments) in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                times[name].append(1e3 * (time.perf_counter() - start))
        cells = [f"{images} x {side} x {side}, {before} to {after}, {size} x {size}:"]
        for way in ("forward", "kernel"):
            xla, ours = min(times["XLA", way]), min(times["ours", way])
            cells.append(f"{way} {xla:.1f} {ours:.1f} ({ours / xla:.2f}x)")
        print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
