"""Slot attention alone: cluster points of the plane, without images or labels.

    python examples/cluster_points.py [--steps N] [--seed S]

Each example is 60 points from three blobs. Three slots compete for them, each names a
centre, and the loss is that of soft k-means: the squared distance of each point to the
centres of the slots that won it. @RESULT@
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro

from eqx_slots import metrics, nn, training


class Clusterer(eqx.Module):
    embed: eqx.nn.MLP
    slot_attention: nn.SlotAttention
    centre: eqx.nn.Linear

    def __init__(self, key):
        embed_key, init_key, slots_key, centre_key = jr.split(key, 4)
        # A LayerNorm sees nothing but signs in two coordinates: widen them first.
        self.embed = eqx.nn.MLP(2, 32, 64, depth=2, key=embed_key)
        init = nn.LearnedSlots(3, 32, key=init_key)
        options = {"num_slots": 3, "slot_init": init, "key": slots_key}
        self.slot_attention = nn.SlotAttention(32, 32, **options)
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
    predicted = jnp.argmax(model(points)[1], axis=0)
    return metrics.adjusted_rand_index(labels, predicted, num_true=3, num_predicted=3)


def main(steps: int = 2000, seed: int = 0) -> float:
    model_key, train_key, test_key = jr.split(jr.key(seed), 3)
    rate = optax.cosine_decay_schedule(1e-2, steps)
    optim = training.muon(rate, adam_learning_rate=2e-3)
    state = training.TrainState.create(Clusterer(model_key), optim, key=train_key)
    batch_at = lambda count: jr.fold_in(train_key, count)
    step = training.make_step(loss, optim)
    for now in training.run(step, state, batch_at, num_steps=steps, report_every=250):
        print(f"step {now.step:4d}  loss {now.loss:.4f}", flush=True)
    scores = eqx.filter_jit(jax.vmap(score, (None, 0)))
    ari = metrics.mean(scores(now.state.model, jr.split(test_key, 500)))
    print(f"ARI on 500 unseen sets: {ari:.3f}")
    return float(ari)


if __name__ == "__main__":
    tyro.cli(main)
