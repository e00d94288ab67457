"""The layer inside three models that know nothing of it, each trained a little.

    python examples/drop_in.py [--steps N] [--seed S]

1. On the tokens of a small vision transformer, to count blocks in an image.
2. Beside `equinox.nn` layers in a model of one's own, on sets of different sizes that
   are padded and masked, to find the centres of clusters.
3. As a recurrent step: slots are carried from frame to frame of a moving scene.

Prints the loss of each before and after; some two minutes on two CPU cores.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from einops import rearrange
from options import check_run

from eqx_slots.data import blocks
from eqx_slots.nn import LearnedSlots, SlotAttention
from eqx_slots.training import use_compilation_cache


class SlotViT(eqx.Module):
    """1. Transformer tokens in, one vector for each object out, then what you will."""

    embed: eqx.nn.Linear
    places: jax.Array
    attend: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    slots: SlotAttention
    count: eqx.nn.MLP

    def __init__(self, key):
        keys = jr.split(key, 5)
        self.embed = eqx.nn.Linear(4 * 4 * 3, 32, key=keys[0])
        self.places = 0.1 * jr.normal(keys[1], (64, 32))
        self.attend = eqx.nn.MultiheadAttention(4, 32, key=keys[2])
        self.norm = eqx.nn.LayerNorm(32)
        self.slots = SlotAttention(32, 48, num_slots=6, key=keys[3])
        self.count = eqx.nn.MLP(48, "scalar", 32, depth=1, key=keys[4])

    def __call__(self, image, key):
        patches = rearrange(image, "c (i h) (j w) -> (i j) (h w c)", h=4, w=4)
        tokens = jax.vmap(self.embed)(patches) + self.places
        normed = jax.vmap(self.norm)(tokens)
        tokens = tokens + self.attend(normed, normed, normed)
        slots, _ = self.slots(tokens, key=key)  # this line is the drop-in
        return jnp.sum(jax.nn.sigmoid(jax.vmap(self.count)(slots)))


def count_loss(model, key):
    scene_key, slot_key = jr.split(key)
    scene = blocks.scene(scene_key)
    number = jnp.sum(scene.objects.present)
    return (model(2 * scene.image - 1, slot_key) - number) ** 2


class Centres(eqx.Module):
    """2. Any set of vectors, padded to one size; what is masked does not exist."""

    embed: eqx.nn.MLP
    slots: SlotAttention
    centre: eqx.nn.Linear

    def __init__(self, key):
        embed_key, init_key, slots_key, centre_key = jr.split(key, 4)
        self.embed = eqx.nn.MLP(2, 32, 64, depth=2, key=embed_key)
        init = LearnedSlots(3, 32, key=init_key)
        self.slots = SlotAttention(32, 32, slot_init=init, key=slots_key)
        self.centre = eqx.nn.Linear(32, 2, key=centre_key)

    def __call__(self, points, is_point):
        features = jax.vmap(self.embed)(points)
        slots, attention = self.slots(features, input_mask=is_point)
        return jax.vmap(self.centre)(slots), attention


def soft_k_means(centres, attention, points):
    """What each slot won of a point, times the distance to the centre it names."""
    distances = jnp.sum((points[None] - centres[:, None]) ** 2, axis=-1)
    return jnp.sum(attention * distances) / jnp.sum(attention)


def centres_loss(model, key):
    place_key, noise_key, count_key = jr.split(key, 3)
    centres = jr.uniform(place_key, (3, 2), minval=-1, maxval=1)
    points = centres[jnp.arange(48) % 3] + 0.08 * jr.normal(noise_key, (48, 2))
    is_point = jnp.arange(48) < jr.randint(count_key, (), 12, 49)
    points = jnp.where(is_point[:, None], points, 0)  # any finite padding will do
    centres, attention = model(points, is_point)
    return soft_k_means(centres, attention, points)


class Tracker(eqx.Module):
    """3. One round a frame; the slots of a frame begin where the last one left them."""

    centres: Centres

    def __init__(self, key):
        self.centres = Centres(key)

    def __call__(self, frames):
        layer = self.centres.slots

        def see(slots, points):
            state = layer.step(slots, jax.vmap(self.centres.embed)(points))
            return state.slots, (jax.vmap(self.centres.centre)(slots), state.attention)

        _, seen = jax.lax.scan(see, layer.slot_init(3), frames)
        return seen


def track_loss(model, key):
    """Centres are those of the slots that a frame was met with: a forecast."""
    place_key, speed_key, noise_key = jr.split(key, 3)
    places = jr.uniform(place_key, (3, 2), minval=-1)
    speeds = 0.1 * jr.normal(speed_key, (3, 2))
    moved = places + jnp.arange(6)[:, None, None] * speeds
    frames = moved[:, jnp.arange(24) % 3] + 0.05 * jr.normal(noise_key, (6, 24, 2))
    centres, attention = model(frames)
    return jnp.mean(jax.vmap(soft_k_means)(centres, attention, frames))


def fit(name, model, loss, steps, key):
    optim = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    total = lambda model, keys: jnp.mean(jax.vmap(lambda k: loss(model, k))(keys))

    @eqx.filter_jit
    def step(model, state, key):
        value, grads = eqx.filter_value_and_grad(total)(model, jr.split(key, 32))
        updates, state = optim.update(grads, state)
        return eqx.apply_updates(model, updates), state, value

    values = []
    for index in range(steps):
        model, state, value = step(model, state, jr.fold_in(key, index))
        values.append(float(value))
    tail = values[-10:]
    print(f"{name}: loss {values[0]:.3f} -> {sum(tail) / len(tail):.3f}", flush=True)
    return values


def main(steps: int = 600, seed: int = 0):
    check_run(steps, seed)
    keys = jr.split(jr.key(seed), 6)
    return [
        fit("vision transformer", SlotViT(keys[0]), count_loss, steps, keys[1]),
        fit("padded sets", Centres(keys[2]), centres_loss, steps, keys[3]),
        fit("moving points", Tracker(keys[4]), track_loss, steps, keys[5]),
    ]


if __name__ == "__main__":
    use_compilation_cache()
    tyro.cli(main)
