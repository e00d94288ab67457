"""Slot attention alone: find three blobs of points by the loss of soft k-means.

    python examples/cluster_points.py [--steps N] [--seed S]

Some 45 seconds on two CPU cores, then an ARI of 0.91 (seed 0; k-means reaches 0.97).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from options import check_run

from eqx_slots import metrics, nn, training


class Clusterer(eqx.Module):
    embed: eqx.nn.MLP
    slot_attention: nn.SlotAttention
    centre: eqx.nn.Linear

    def __init__(self, key):
        embed_key, init_key, slots_key, centre_key = jr.split(key, 4)
        # Of two coordinates a LayerNorm leaves only the order: widen them first.
        self.embed = eqx.nn.MLP(2, 32, 64, depth=2, key=embed_key)
        options = {"slot_init": nn.LearnedSlots(3, 32, key=init_key), "num_slots": 3}
        self.slot_attention = nn.SlotAttention(32, 32, **options, key=slots_key)
        self.centre = eqx.nn.Linear(32, 2, key=centre_key)

    def __call__(self, points):
        slots, attention = self.slot_attention(jax.vmap(self.embed)(points))
        return jax.vmap(self.centre)(slots), attention


def blobs(key):
    """60 points, and which of the three blobs each belongs to."""
    centre_key, noise_key = jr.split(key)
    labels = jnp.repeat(jnp.arange(3), 20)
    centres = jr.uniform(centre_key, (3, 2), minval=-1, maxval=1)
    return centres[labels] + 0.08 * jr.normal(noise_key, (60, 2)), labels


def loss(model, key, _):
    """What each slot won of a point, times the distance to the centre it names."""

    def one(key):
        points, _ = blobs(key)
        centres, attention = model(points)
        distances = jnp.sum((points[None] - centres[:, None]) ** 2, axis=-1)
        return jnp.sum(attention * distances) / len(points)

    return jnp.mean(jax.vmap(one)(jr.split(key, 64))), None


def score(model, key):
    """Adjusted Rand index of one unseen set: 1 if every blob has a slot of its own."""
    points, labels = blobs(key)
    won_by = jnp.argmax(model(points)[1], axis=0)
    return metrics.adjusted_rand_index(labels, won_by, num_true=3, num_predicted=3)


def main(steps: int = 2000, seed: int = 0) -> float:
    check_run(steps, seed)
    model_key, data_key, run_key, test_key = jr.split(jr.key(seed), 4)
    rate = optax.cosine_decay_schedule(1e-2, steps)
    optim = training.muon(rate, adam_learning_rate=2e-3)
    state = training.TrainState.create(Clusterer(model_key), optim, key=run_key)
    step = training.make_step(loss, optim)
    batch_at = lambda count: jr.fold_in(data_key, count)
    for now in training.run(step, state, batch_at, num_steps=steps, report_every=250):
        print(f"step {now.step:4d}  loss {now.loss:.4f}", flush=True)
    scores = jax.vmap(score, (None, 0))(now.state.model, jr.split(test_key, 500))
    print(f"ARI on 500 unseen sets: {metrics.mean(scores):.3f}")
    return float(metrics.mean(scores))


if __name__ == "__main__":
    training.use_compilation_cache()
    tyro.cli(main)
