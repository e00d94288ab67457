"""How the slot autoencoder of `autoencoder.py` is trained: loss and optimiser."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from eqx_slots import losses, training
from eqx_slots.data import blocks


class Batch(NamedTuple):
    """Scenes, and what the sparsity of their masks weighs, a number for each."""

    scenes: blocks.Scene
    sparsity: jax.Array


def optimiser(steps, rate):
    """Muon: warm-up, then a cosine to zero at the last step; Adam at a third of it.

    `autoencoder.py` takes 6e-3; the other examples 3e-3, with which they were measured.
    """
    warmup, total = min(200, steps), steps + 1
    peak = lambda rate: optax.warmup_cosine_decay_schedule(0.0, rate, warmup, total)
    return training.muon(peak(rate), adam_learning_rate=peak(rate / 3))


def sparsity_at(step, steps, weight):
    """Nothing until 20 % of the steps, when slots hold objects; all of it from 50 %."""
    return weight * jnp.clip((step / steps - 0.2) / 0.3, 0, 1)


def reconstruct(model, images, key, num_iters=None):
    one = lambda image, key: model(image, num_iters=num_iters, key=key)
    return jax.vmap(one)(images, jr.split(key, len(images)))


def picture_loss(model, scenes, key):
    """Nothing but the error of the picture: labels play no part in training."""
    made = reconstruct(model, scenes.image, key)
    return losses.mean_squared_error(made.image, scenes.image), None


def loss(model, batch, key):
    """The error of the picture, and a little for masks that are shared out.

    The error is that of the pictures as the model sees them, so that one weight fits
    all backgrounds.
    """
    images = batch.scenes.image
    made = reconstruct(model, images, key)
    error = losses.mean_squared_error(made.image, images)
    if model.standardization is not None:
        error /= jax.lax.stop_gradient(model.standardization.scale) ** 2
    spread = lambda masks: losses.mask_sparsity(masks) + 2 * losses.mask_impurity(masks)
    sparsity = jax.vmap(spread)(made.masks)
    return error + jnp.mean(batch.sparsity * sparsity), {"error": error}
