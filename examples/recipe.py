"""How the slot autoencoder of `autoencoder.py` is trained: loss and optimiser."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from einops import rearrange

from eqx_slots import losses, training
from eqx_slots.data import blocks


RISING = 0.1, 0.3  # shares of the steps: slots hold blocks early
IMPURITY = 2.0  # of pixels, beside the areas of slots


class Batch(NamedTuple):
    """Scenes, and two numbers that change over training, for each scene.

    They are what the sparsity of masks weighs, and how much of the gradient flows
    through the rounds before the last.
    """

    scenes: blocks.Scene
    sparsity: jax.Array
    early_gradient: jax.Array


def optimiser(steps, rate, warmup=200):
    """Muon: warm-up, then a cosine to zero at the last step; Adam at a third of it.

    `autoencoder.py` takes 6e-3; the other examples 3e-3, with which they were measured.
    """
    warmup, total = min(warmup, steps), steps + 1
    peak = lambda rate: optax.warmup_cosine_decay_schedule(0.0, rate, warmup, total)
    return training.muon(peak(rate), adam_learning_rate=peak(rate / 3))


def sparsity_at(step, steps, weight, rising=RISING, falling=None):
    """Nothing at first, until slots hold objects, then more and more, at last all.

    Where all of it for long would cost objects it falls again, to a rest.
    """
    done = step / steps
    share = lambda start, end: jnp.clip((done - start) / (end - start), 0, 1)
    risen = weight * share(*rising)
    if falling is None:
        return risen
    start, end, rest = falling
    return risen * (1 - (1 - rest) * share(start, end))


def batch_for(scenes, step, steps, weight, **changes):
    """Scenes with the numbers of a step; `changes` are for `sparsity_at`."""
    sparsity = sparsity_at(step, steps, weight, **changes)
    numbers = sparsity, early_gradient_at(step, steps)
    size = len(scenes.image)
    return Batch(scenes, *(jnp.broadcast_to(number, size) for number in numbers))


def early_gradient_at(step, steps):
    """The last round learns alone until 30 % of the steps, all alike from 50 %.

    On black backgrounds the first slots to take shape go astray if all learn at once;
    late in training the last one alone lets slots change hands.
    """
    return jnp.clip((step / steps - 0.3) / 0.2, 0, 1)


def reconstruct(model, images, key, **options):
    one = lambda image, key: model(image, **options, key=key)
    return jax.vmap(one)(images, jr.split(key, len(images)))


def picture_loss(model, scenes, key):
    """Nothing but the error of the picture: labels play no part in training."""
    made = reconstruct(model, scenes.image, key)
    return losses.mean_squared_error(made.image, scenes.image), None


def loss(model, batch, key, *, impurity=IMPURITY, one_colour=0.0, at_once=0.0):
    """The error of the picture, and a little for masks that are shared out.

    The error is that of pictures as the model sees them, so that one weight fits all
    scenes. What decides who paints a pixel waits until half of what there is to see
    beside the background is painted: where objects are small that takes long.
    `impurity` is what a pixel that is shared weighs beside the areas. Where objects
    have one colour each, `one_colour` is the price of RGB that has more, in
    units of that weight, and `at_once` one that does not rise with it.
    """
    images = batch.scenes.image
    early = jnp.mean(batch.early_gradient)  # one number, the same for all
    made = reconstruct(model, images, key, early_gradient=early)
    error = losses.mean_squared_error(made.image, images)
    ready, scale = 1.0, 1.0
    if model.standardization is not None:
        ready = readiness(model, images, error)
        scale = jax.lax.stop_gradient(model.standardization.scale)
    error /= scale**2
    total, weight = error, batch.sparsity * ready
    unwanted = jax.vmap(partial(shared_out, impurity=impurity))(made.masks)
    if one_colour or at_once:
        varied = jax.vmap(losses.rgb_variance)(made.rgb)
        unwanted += one_colour * varied / scale**2
        total += ready * at_once * jnp.mean(varied) / scale**2
    return total + jnp.mean(weight * unwanted), {"error": error}


def readiness(model, images, error):
    """From 0 to 1, once half of what differs from the background is painted."""
    center = jax.lax.stop_gradient(model.standardization.center)
    background = jnp.broadcast_to(rearrange(center, "c -> c 1 1"), images.shape)
    plain = jnp.mean((images - background) ** 2)
    painted = jax.lax.stop_gradient(1 - error / plain)
    # Where all is background there is nothing to wait for.
    return jnp.where(plain > 0, jnp.clip((painted - 0.5) / 0.3, 0, 1), 1)


def shared_out(masks, impurity=IMPURITY):
    """How much the masks of an image are shared out."""
    return losses.mask_sparsity(masks) + impurity * losses.mask_impurity(masks)
