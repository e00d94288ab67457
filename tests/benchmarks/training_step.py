"""The example's training step against the same model from ready-made parts.

    python -m tests.benchmarks.training_step

The peer has the same parameters and gives the same reconstructions (checked first), but
broadcasts every slot, decodes with `equinox.nn.ConvTranspose2d` and writes attention as
a textbook does. Both take turns in one process, on batches of the example, with its
optimiser; the ratio of the medians counts, the milliseconds do not.
"""

import resource
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots import training
from eqx_slots.models import presets, Reconstruction

from .example import example, last_batch


class Textbook(eqx.Module):
    """The same autoencoder, a batch at a time, from Equinox's layers and softmax."""

    encoder: eqx.Module
    slot_attention: eqx.Module
    positions: eqx.Module
    convs: tuple[eqx.nn.ConvTranspose2d, ...]
    grid_size: tuple[int, int] = eqx.field(static=True)
    rgb_activation: Callable = eqx.field(static=True)
    standardization: eqx.Module

    def __init__(self, model):
        self.rgb_activation = model.decoder.rgb_activation
        self.standardization = model.standardization
        self.encoder = model.encoder
        self.slot_attention = model.slot_attention
        self.positions = model.decoder.positions
        self.grid_size = model.decoder.grid_size
        self.convs = tuple(map(self.equinox_conv, model.decoder.convs))

    @staticmethod
    def equinox_conv(ours):
        conv = eqx.nn.ConvTranspose2d(
            ours.in_channels,
            ours.out_channels,
            ours.kernel_size,
            ours.stride,
            padding="SAME",
            key=jr.key(0),
        )
        parts = lambda layer: (layer.weight, layer.bias)
        return eqx.tree_at(parts, conv, parts(ours))

    def __call__(self, image, *, early_gradient=0.0, key=None):
        del key
        layer, inputs = self.slot_attention, self.encoder(self.standardization(image))
        normed = jax.vmap(layer.norm_inputs)(inputs)
        k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
        slots = initial = layer.slot_init(layer.num_slots)
        for count in range(layer.num_iters):
            if layer.grad_iters and count == layer.num_iters - layer.grad_iters:
                share, stop = early_gradient, jax.lax.stop_gradient
                late = (1 - share) * (initial - stop(initial))
                slots = stop(slots) + share * (slots - stop(slots)) + late
            q = jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots))
            attention = jax.nn.softmax(k @ q.T / q.shape[1] ** 0.5, axis=1)
            weights = attention + 1e-8
            weights = weights / jnp.sum(weights, axis=0, keepdims=True)
            slots = jax.vmap(layer.cell)(weights.T @ v, slots)
            slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
        painted = jax.vmap(self.decode)(slots)
        rgb = jax.vmap(self.standardization.inverse)(
            self.rgb_activation(painted[:, :3])
        )
        masks = jax.nn.softmax(painted[:, 3], axis=0)
        image = jnp.sum(rgb * masks[:, None], axis=0)
        return Reconstruction(image, rgb, masks, slots, attention.T)

    def decode(self, slot):
        features = jnp.broadcast_to(slot[:, None, None], (slot.size, *self.grid_size))
        features = self.convs[0](self.positions(features))
        for conv in self.convs[1:]:
            features = conv(jax.nn.relu(features))
        return features


def main(rounds: int = 10) -> float:
    arguments = example.Arguments()
    make = eqx.filter_jit(presets.blocks)
    ours = make(**arguments.built_with, key=jr.key(0))
    peer = Textbook(ours)
    size = arguments.batch_size
    paint = jax.jit(lambda key: example.paint(key, size, arguments))
    batch = last_batch(arguments)
    made = [
        eqx.filter_jit(example.reconstruct)(model, batch.scenes.image, jr.key(2))
        for model in (ours, peer)
    ]
    error = float(jnp.max(jnp.abs(made[0].image - made[1].image)))
    print(f"largest difference of the two reconstructions: {error:.1e}")
    if not error < 1e-4:
        raise RuntimeError("The two models are not the same; their times say nothing.")

    optim = example.optimiser(arguments.steps, arguments.rate)
    states, steps, times = {}, {}, {"painting": []}
    for name, model in (("eqx_slots", ours), ("textbook", peer)):
        steps[name] = training.make_step(example.loss, optim)
        state = training.TrainState.create(model, optim, key=jr.key(3))
        states[name], _ = steps[name](batch, state)  # compiles
        times[name] = []
    for count in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(paint(jr.key(count)))
        times["painting"].append(time.perf_counter() - start)
        for name, step in steps.items():
            jax.block_until_ready(states[name])
            start = time.perf_counter()
            states[name], _ = step(batch, states[name])
            jax.block_until_ready(states[name])
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:10s} {1e3 * seconds:8.1f} ms")
    ratio = medians["textbook"] / medians["eqx_slots"]
    print(f"textbook takes {ratio:.1f} times as long as eqx_slots")
    print(f"painting takes {medians['painting'] / medians['eqx_slots']:.3f} of a step")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")
    return ratio


if __name__ == "__main__":
    main()
