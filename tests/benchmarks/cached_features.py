"""How fast features are read from their cache: against arrays in memory.

    python -m tests.benchmarks.cached_features [--steps N]

Caches the features of 512 pictures, 196 tokens of 384 in float16 as of a ViT-S, trains
DINOSAUR's layer with a small MLP on them and on the same arrays in memory, in turns,
and gives the ratio of their steps a second.
"""

import argparse
import json
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from eqx_slots import losses, training
from eqx_slots.data import features
from eqx_slots.models import presets

from .pictures import against_memory


PICTURES, TOKENS, WIDTH, BATCH = 512, 196, 384, 16


class Noise(eqx.Module):
    """Features of a number: what they are costs nothing here, but to read them."""

    def __call__(self, number):
        return jr.normal(jr.fold_in(jr.key(0), number), (TOKENS, WIDTH))


def fit(model, tokens, key):
    one = lambda tokens, key: model(tokens, key=key).features
    made = jax.vmap(one)(tokens, jr.split(key, len(tokens)))
    return losses.mean_squared_error(made, tokens), None


def ratio(tokens, steps):
    """Of the cache's steps a second to those of arrays in memory."""
    mesh, optim = training.data_mesh(jax.devices()[:1]), optax.adam(1e-4)
    memory = jnp.asarray(tokens[:PICTURES])
    few = lambda step: jr.permutation(jr.fold_in(jr.key(0), step), PICTURES)[:BATCH]
    held = jax.jit(lambda step: memory[few(step)])
    read = training.host_batches(tokens, mesh, batch_size=BATCH)
    sizes = {"slot_size": 64, "hidden_size": 128}
    model = presets.dinosaur(**sizes, num_inputs=TOKENS, key=jr.key(0))
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(fit, optim, mesh=mesh)
    return against_memory(step, state, read, held, steps)


def main(steps):
    with tempfile.TemporaryDirectory() as name:
        tokens = features.cached(
            Noise(), range(PICTURES), Path(name) / "tokens", dtype="float16"
        )
        print(json.dumps({"steps_against_memory": ratio(tokens, steps)}, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    main(parser.parse_args().steps)
