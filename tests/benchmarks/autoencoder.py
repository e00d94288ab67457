"""A training step of the paper's autoencoder against PyTorch and ready-made parts.

    pip install -e ".[dev,benchmarks]" && python -m tests.benchmarks.autoencoder

32 images of 32 x 32, four 5 x 5 convolutions of 32 channels, 5 slots of 64, three
rounds, a decoder from 8 x 8 by two transposed 5 x 5 convolutions of stride 2, one of
stride 1 and one of 3 x 3; Adam. The peers have the same weights and give the same
pictures (checked first): PyTorch as it comes and in channels-last order, Equinox
with `equinox.nn.ConvTranspose2d`, slots broadcast, attention from the textbook. Each
runs in a process of its own, in turns of two steps, of which the second is timed; the
ratio of the medians counts. With `--record` docs/performance.md gets these figures.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from docs import tables

from .turns import milliseconds, serve, Worker


NAMES = {
    "eqx_slots": "eqx_slots",
    "xla": "eqx_slots, XLA's own convolutions",
    "equinox": "ready-made parts of Equinox",
    "torch": "PyTorch",
    "torch_channels_last": "PyTorch, channels last",
}
SLOTS, BATCH, TURNS = 5, 32, 15


def images():
    return np.random.default_rng(0).uniform(size=(BATCH, 3, 32, 32)).astype(np.float32)


def make_model():
    import jax.random as jr

    from eqx_slots import models, nn

    encoder_key, slots_key, init_key, decoder_key = jr.split(jr.key(0), 4)
    decoder = models.SpatialBroadcastDecoder(
        64,
        grid_size=(8, 8),
        hidden_sizes=(32, 32, 32),
        kernel_sizes=(5, 5, 5, 3),
        strides=(2, 2, 1, 1),
        key=decoder_key,
    )
    slot_attention = nn.SlotAttention(
        64,
        64,
        slot_init=nn.LearnedSlots(SLOTS, 64, key=init_key),
        key=slots_key,
    )
    encoder = models.Encoder(32, feature_size=64, key=encoder_key)
    return models.SlotAutoencoder(encoder, slot_attention, decoder)


def torch_weights(model):
    """Under the names of the peer; its GRU has two biases where ours has one."""
    named = {}

    def put(name, part, change=lambda x: x):
        for kind in ("weight", "bias"):
            array = getattr(part, kind)
            if array is not None:
                array = np.asarray(array)
                named[f"{name}.{kind}"] = change(array) if kind == "weight" else array

    for i, conv in enumerate(model.encoder.convs):
        put(f"encoder.{i}", conv)
        named[f"encoder.{i}.bias"] = np.ravel(conv.bias)
    for i, conv in enumerate(model.decoder.convs):
        # Their transposed convolution flips its kernel; so does turning all around.
        put(f"decoder.{i}", conv, lambda x: x.transpose(1, 0, 2, 3))
        named[f"decoder.{i}.bias"] = np.ravel(conv.bias)
    put("encoder_positions", model.encoder.positions.proj)
    put("decoder_positions", model.decoder.positions.proj)
    layer = model.slot_attention
    for name, part in (
        ("norm", model.encoder.norm),
        ("mlp.0", model.encoder.mlp.layers[0]),
        ("mlp.2", model.encoder.mlp.layers[1]),
        ("slot_attention.norm_inputs", layer.norm_inputs),
        ("slot_attention.norm_slots", layer.norm_slots),
        ("slot_attention.norm_mlp", layer.norm_mlp),
        ("slot_attention.q", layer.query_proj),
        ("slot_attention.k", layer.key_proj),
        ("slot_attention.v", layer.value_proj),
        ("slot_attention.mlp.0", layer.mlp.layers[0]),
        ("slot_attention.mlp.2", layer.mlp.layers[1]),
    ):
        put(name, part)
    cell = layer.cell
    gru = {"weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh}
    gru["bias_ih"] = cell.bias
    gru["bias_hh"] = np.concatenate([np.zeros(128, np.float32), cell.bias_n])
    named |= {f"slot_attention.gru.{k}": np.asarray(x) for k, x in gru.items()}
    named["slot_attention.slots"] = np.asarray(layer.slot_init(SLOTS))
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def jax_step(name):
    import equinox as eqx
    import jax
    import optax

    from eqx_slots import training
    from eqx_slots.convolution import _layers, _transpose
    from eqx_slots.convolution._xla import xla_convolve

    from .training_step import Textbook

    if name == "xla":
        by_xla = lambda x, kernel, padding: xla_convolve(x, kernel, padding=padding)
        _layers.convolve = _transpose.convolve = by_xla

    model = Textbook(make_model()) if name == "equinox" else make_model()
    batch = jax.numpy.asarray(images())
    reconstruct = lambda model: jax.vmap(model)(batch).image

    def loss(model, batch, key):
        return ((jax.vmap(model)(batch).image - batch) ** 2).mean(), None

    made = np.asarray(eqx.filter_jit(reconstruct)(model))
    train = training.make_step(loss, optax.adam(4e-4))
    state = training.TrainState.create(model, optax.adam(4e-4), key=jax.random.key(0))

    def step():
        nonlocal state
        state, _ = train(batch, state)
        return state

    return made, step


def worker(name, folder):
    path = Path(folder)
    if name.startswith("torch"):
        from .peers.torch_autoencoder import build

        made, step = build(name, images(), dict(np.load(path / "weights.npz")))
    else:
        import jax

        made, queue_step = jax_step(name)
        step = lambda: jax.block_until_ready(queue_step())
    np.save(path / f"{name}.npy", made)

    def warm_step():
        step()  # after the others' turns caches are theirs, and threads asleep
        return milliseconds(step)

    for _ in range(3):
        step()
    serve({"ready": lambda: True, "step": warm_step})


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        np.savez(folder / "weights.npz", **torch_weights(make_model()))
        workers = {name: Worker(__spec__.name, name, folder) for name in NAMES}
        for each in workers.values():
            each.ask("ready")
        pictures = {name: np.load(folder / f"{name}.npy") for name in NAMES}
        for name, made in pictures.items():
            error = np.max(np.abs(made - pictures["eqx_slots"]))
            print(f"{NAMES[name]}: largest difference of the pictures {error:.1e}")
            if not error < 1e-4:
                raise RuntimeError(f"{name} computes something else: no comparison.")
        times = {name: [] for name in workers}
        for _ in range(TURNS):
            for name, each in workers.items():
                time.sleep(0.02)
                times[name].append(each.ask("step"))
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows = [{"name": NAMES[name], "step_ms": ms} for name, ms in medians.items()]
        print("\n" + tables.table(rows, ("name", "step_ms", "step_ms/first")), end="")
        for name, values in times.items():
            fastest, *_, slowest = sorted(values)
            print(f"{NAMES[name]}: from {fastest:.0f} to {slowest:.0f} ms")
        if "--record" in sys.argv:
            tables.record("autoencoder_step", rows)
        for each in workers.values():
            each.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
