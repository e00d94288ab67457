"""The layer and training steps on an accelerator, in one command.

    pip install -e ".[dev]" "jax[cuda12]" slot-attention torch
    python -m tests.benchmarks.gpu [layer] [steps] [seeds]

The layer: forward, and forward and backward, against the textbook in JAX and, if
PyTorch sees the device too, the package `slot-attention`, as it comes and through
`torch.compile`; with the error of the gradients against float64, and the memory that it
takes beside its arguments. The floor is the time to read the inputs at the speed of a
copy, once for their norm and once a round, forwards and again backwards. The steps: of
the example and of the benchmark's autoencoder, by ready-made parts and by PyTorch too.
The seeds: eight of the example in one step. Products are in TF32 where the libraries do
that by themselves; calls are queued as a training loop queues them. `--small` takes
tiny sizes, to try the script where there is no accelerator; `--record` keeps the
figures for docs/performance.md.
"""

import importlib.util
import statistics
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from docs import tables
from eqx_slots import training

from . import seeds
from .autoencoder import images, jax_step, make_model, torch_weights
from .example import example, last_batch
from .peers.jax_layers import layer_of, ours, ROUNDS, SIZE, textbook
from .training_step import Textbook


TURNS, QUEUED = 15, 10
CASES = {
    "64 sets x 16384 inputs x 7 slots": (64, 16384, 7),
    "64 sets x 4096 inputs x 24 slots": (64, 4096, 24),
    "64 sets x 1024 inputs x 7 slots": (64, 1024, 7),
}
SMALL = {"2 sets x 256 inputs x 7 slots": (2, 256, 7)}


def median(call, wait=jax.block_until_ready):
    """Milliseconds of a call among many in the queue of the device."""
    wait(call())
    times = []
    for _ in range(1 + TURNS):
        begin = time.perf_counter()
        for _ in range(QUEUED):
            made = call()
        wait(made)
        times.append(1e3 * (time.perf_counter() - begin) / QUEUED)
    return statistics.median(times[1:])


def cast(tree, dtype):
    to = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(to, tree)


def jax_layer(way, layer, inputs, slots):
    """Forward, and the gradients; with each the bytes it takes beside its arguments."""
    wide = jnp.promote_types(inputs.dtype, jnp.float32)
    layer = cast(layer, inputs.dtype)
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def forward(params, inputs, slots):
        whole = eqx.combine(params, static)
        return jax.vmap(lambda x, s: way(whole, x, s))(inputs, slots)

    total = lambda *args: jnp.sum(forward(*args).astype(wide) ** 2)
    arguments, calls = (params, inputs, slots), []
    for function in (forward, jax.grad(total, (0, 1))):
        compiled = jax.jit(function).lower(*arguments).compile()
        memory = compiled.memory_analysis()
        taken = memory.temp_size_in_bytes + memory.output_size_in_bytes
        calls.append((lambda compiled=compiled: compiled(*arguments), taken))
    return calls


def torch_layer(sets, inputs, slots, dtype, is_compiled):
    import torch
    from slot_attention import SlotAttention

    torch.set_float32_matmul_precision("high")  # TF32, as JAX by default
    dtype = getattr(torch, dtype)
    layer = SlotAttention(slots, SIZE, iters=ROUNDS, hidden_dim=128).cuda().to(dtype)
    if is_compiled:
        layer = torch.compile(layer)
    shape = {"device": "cuda", "dtype": dtype, "requires_grad": True}
    x = torch.randn(sets, inputs, SIZE, **shape)

    def forward():
        with torch.no_grad():
            return layer(x)

    def gradient():
        leaves = [x, *layer.parameters()]
        total = layer(x).float().square().sum()
        return torch.autograd.grad(total, leaves, allow_unused=True)

    calls = []
    for call in (forward, gradient):
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        calls.append((call, torch.cuda.max_memory_allocated() - before))
    return calls, lambda _: torch.cuda.synchronize()


def sees_cuda(*modules):
    """Whether PyTorch is there and sees the device, and so are these modules."""
    found = map(importlib.util.find_spec, ("torch", *modules))
    return all(found) and importlib.import_module("torch").cuda.is_available()


@jax.jit
def squared_norms(got, exact):
    """Of the differences and of what is exact."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(exact)))
    error = sum(jnp.sum((a.astype(b.dtype) - b) ** 2) for a, b in pairs)
    return error, sum(jnp.sum(b**2) for _, b in pairs)


def measure_layer(title, sets, inputs, slots):
    rows = []
    for dtype in ("float32", "bfloat16"):
        layer = cast(layer_of(slots), dtype)
        x = jr.normal(jr.key(0), (sets, inputs, SIZE), dtype)
        s = jr.normal(jr.key(1), (sets, slots, SIZE), dtype)
        with jax.enable_x64(True):
            wide = x.astype(jnp.float64), s.astype(jnp.float64)
            exact = jax_layer(textbook, layer, *wide)[1][0]()
        for name, way in (("eqx_slots", ours), ("textbook, JAX", textbook)):
            calls = jax_layer(way, layer, x, s)
            rows.append(times(f"{name}, {dtype}", calls, jax.block_until_ready))
            with jax.enable_x64(True):
                error, size = squared_norms(calls[1][0](), exact)
            rows[-1]["error"] = float(error / size) ** 0.5
        for is_compiled in (False, True) if sees_cuda("slot_attention") else ():
            name = f"lucidrains, PyTorch{' compiled' * is_compiled}, {dtype}"
            rows.append(
                times(name, *torch_layer(sets, inputs, slots, dtype, is_compiled))
            )
        copy = jax.jit(lambda x: x + 1)
        read = 1e3 * median(lambda x=x, copy=copy: copy(x)) / 2
        floor = {"forward_us": (ROUNDS + 1) * read, "both_us": (2 * ROUNDS + 2) * read}
        rows.append({"name": f"the floor, {dtype}"} | floor)
    columns = ("name", "forward_us", "both_us", "memory_mb", "error")
    print(f"{title}\n{tables.table(rows, columns)}", flush=True)
    return rows


def times(name, calls, wait):
    """Microseconds of both, and the memory of the gradients in MB."""
    forward, both = (1e3 * median(call, wait) for call, _ in calls)
    memory = calls[1][1] / 1e6
    row = {"forward_us": forward, "both_us": both, "memory_mb": memory}
    return {"name": name} | row


def example_step(part=lambda model: model, **options):
    """A step of the example's training."""
    arguments = example.Arguments(**options)
    make = arguments.recipe.make
    model = part(eqx.filter_jit(make)(**arguments.built_with, key=jr.key(0)))
    optim = example.optimiser(arguments.steps, arguments.rate)
    batch = last_batch(arguments)
    train = training.make_step(example.loss, optim)
    state = training.TrainState.create(model, optim, key=jr.key(2))

    def step():
        nonlocal state
        state, _ = train(batch, state)
        return state

    return step


def torch_step():
    import torch

    from .peers.torch_autoencoder import build

    torch.set_float32_matmul_precision("high")
    torch.set_default_device("cuda")
    weights = torch_weights(make_model())
    _, step = build("torch_channels_last", images(), weights)
    return step, lambda _: torch.cuda.synchronize()


def measure_steps():
    steps = {
        "example": example_step,
        "example, of ready-made parts": lambda: example_step(Textbook),
        "example at 64 x 64": lambda: example_step(image_size=64),
        "example's preset blog": lambda: example_step(preset="blog"),
        "benchmark": lambda: jax_step("eqx_slots")[1],
        "benchmark, of ready-made parts": lambda: jax_step("equinox")[1],
    }
    rows = []
    for name, make in steps.items():
        step = make()
        wait = jax.block_until_ready
        rows.append({"name": name, "step_us": 1e3 * median(step, wait)})
        print(rows[-1], flush=True)
    if sees_cuda():
        rows.append({"name": "benchmark, PyTorch channels last"})
        rows[-1]["step_us"] = 1e3 * median(*torch_step())
    print(tables.table(rows, ("name", "step_us")), flush=True)
    return rows


def main(words):
    training.use_compilation_cache()  # most of the time goes into compiling
    print(jax.devices()[0].device_kind, jax.__version__)
    parts = [word for word in words if word[0] != "-"] or ["layer", "steps", "seeds"]
    keep = tables.record if "--record" in words else lambda name, rows: None
    if "layer" in parts:
        for title, case in (SMALL if "--small" in words else CASES).items():
            keep(f"gpu_layer_{'_'.join(map(str, case))}", measure_layer(title, *case))
    if "steps" in parts:
        keep("gpu_steps", measure_steps())
    if "seeds" in parts:
        ways = seeds.main().items()
        keep("gpu_seeds", [{"name": n, "step_us": 1e3 * ms} for n, ms in ways])


if __name__ == "__main__":
    main(sys.argv[1:])
