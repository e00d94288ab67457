"""The layer and the autoencoder's step on an accelerator, in one command.

    pip install -e ".[dev]" "jax[cuda12]" torch && python -m tests.benchmarks.gpu

For 64 sets of 16,384 inputs and 7 slots, and of 4,096 inputs and 24 slots, in float32
and bfloat16: forward, and forward and backward, against the textbook in JAX and, if
PyTorch sees the device too, the package `slot-attention` through `torch.compile`. The
floor is the time to read the inputs once a round each way, at the speed of a copy.
`--small` takes tiny sizes, to try the script where there is no accelerator.
"""

import statistics
import sys

import jax
import jax.numpy as jnp
import jax.random as jr

from .autoencoder import jax_step
from .peers.jax_layers import layer_of, ours, ROUNDS, SIZE, textbook
from .turns import milliseconds


TURNS = 21
CASES = [(64, 16384, 7), (64, 4096, 24)]


def median(call):
    for _ in range(3):
        call()
    return statistics.median(milliseconds(call) for _ in range(TURNS))


def jax_times(way, inputs, slots):
    layer = layer_of(slots.shape[1])
    forward = jax.jit(jax.vmap(lambda x, s: way(layer, x, s)))
    total = lambda x, s: jnp.sum(forward(x, s).astype(jnp.float32) ** 2)
    gradient = jax.jit(jax.grad(total))
    calls = forward, gradient
    return [
        median(lambda call=call: jax.block_until_ready(call(inputs, slots)))
        for call in calls
    ]


def torch_times(sets, inputs, slots, dtype):
    try:
        import torch
        from slot_attention import SlotAttention
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    layer = SlotAttention(slots, SIZE, iters=ROUNDS, hidden_dim=128)
    layer = torch.compile(layer.cuda().to(getattr(torch, dtype)))
    shape = {"device": "cuda", "dtype": getattr(torch, dtype), "requires_grad": True}
    x = torch.randn(sets, inputs, SIZE, **shape)

    def forward():
        with torch.no_grad():
            layer(x)
        torch.cuda.synchronize()

    def gradient():
        layer(x).float().square().sum().backward()
        torch.cuda.synchronize()

    return [median(forward), median(gradient)]


def main(cases):
    print(jax.devices()[0].device_kind)
    for sets, inputs, slots in cases:
        for dtype in ("float32", "bfloat16"):
            x = jr.normal(jr.key(0), (sets, inputs, SIZE), dtype)
            s = jr.normal(jr.key(1), (sets, slots, SIZE), dtype)
            copy = jax.jit(lambda x: x + 1)
            read = median(lambda x=x, copy=copy: copy(x).block_until_ready()) / 2
            times = {"eqx_slots": jax_times(ours, x, s)}
            if dtype == "float32":
                times["textbook, JAX"] = jax_times(textbook, x, s)
            times["lucidrains, compiled"] = torch_times(sets, inputs, slots, dtype)
            times["the floor"] = [(ROUNDS + 1) * read, (2 * ROUNDS + 2) * read]
            print(f"{sets} x {inputs} x {slots}, {dtype}: forward, and with backward")
            for name, both in times.items():
                if both is not None:
                    print(f"  {name:22s} {both[0]:9.3f} ms {both[1]:9.3f} ms")
    for name in ("eqx_slots", "equinox"):
        _, step = jax_step(name)
        print(f"autoencoder's step, {name}: {median(step):.2f} ms")


if __name__ == "__main__":
    main([(2, 256, 7)] if "--small" in sys.argv else CASES)
