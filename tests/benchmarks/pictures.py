"""How fast a folder is read: decoded for the first time, and then from the cache.

    python -m tests.benchmarks.pictures [--steps N]

Writes 1,500 PNGs of 128 x 128 and 200 JPEGs of 640 x 480 into a temporary folder, reads
them into 128 x 128, and counts per second of processor time. Then trains the small
model on the PNGs and on the same arrays in memory, in turns, and gives the ratio of
their steps a second.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from PIL import Image

from eqx_slots import losses, training
from eqx_slots.data import pictures
from eqx_slots.models import presets


SIDE, BATCH = 128, 8


def write(folder, number, size, suffix):
    """Flat patches with a little noise, as easy and as hard to pack as photographs."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(number):
        patches = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3))
        flat = np.kron(patches, np.ones((16, 16, 1)))
        noisy = np.clip(flat + rng.normal(scale=5, size=flat.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{index}{suffix}")


def first_pass(folder, cache):
    before = time.process_time()
    source = pictures.folder(folder, image_size=SIDE, cache=cache)
    return source, len(source) / (time.process_time() - before)


def fit(model, batch, key):
    one = lambda image, key: model(2 * image - 1, key=key).image
    made = jax.vmap(one)(batch.image, jr.split(key, len(batch.image)))
    return losses.mean_squared_error(made, 2 * batch.image - 1), None


def steps_a_second(step, state, batches, start, number):
    before = time.perf_counter()
    for count in range(start, start + number):
        state, _ = step(batches(count), state)
        jax.block_until_ready(state)
    return number / (time.perf_counter() - before), state


def ratio(source, steps):
    """Of the folder's steps a second to those of arrays in memory."""
    mesh, optim = training.data_mesh(jax.devices()[:1]), optax.adam(1e-4)
    memory = jnp.asarray(np.stack([one.image for one in source.take(slice(256))]))
    few = lambda step: jr.permutation(jr.fold_in(jr.key(0), step), 256)[:BATCH]
    held = jax.jit(lambda step: pictures.Picture(memory[few(step)]))
    read = training.host_batches(source, mesh, batch_size=BATCH)
    model = presets.blocks(image_size=SIDE, key=jr.key(0))
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(fit, optim, mesh=mesh)
    return against_memory(step, state, read, held, steps)


def against_memory(step, state, read, held, steps):
    """Of one source's steps a second to the other's, in turns: the median of six."""
    ratios = []
    for turn in range(7):
        begin = turn * steps
        memory, state = steps_a_second(step, state, held, begin, steps)
        disk, state = steps_a_second(step, state, read, begin, steps)
        ratios += [disk / memory] if turn else []  # the first compiles
    return float(np.median(ratios))


def main(steps):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "png", 1500, (SIDE, SIDE), ".png")
        write(folder / "jpg", 200, (480, 640), ".jpg")
        source, png = first_pass(folder / "png", folder / "cache")
        _, jpeg = first_pass(folder / "jpg", folder / "cache")
        result = {"png_per_core_second": png, "jpeg_per_core_second": jpeg}
        result["steps_against_memory"] = ratio(source, steps)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    main(parser.parse_args().steps)
