"""The training of `autoencoder.py` without `eqx_slots.training`, nor waiting for loss.

python examples/train_by_hand.py [--steps N] [--seed S]
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import tyro
from options import check_run

from eqx_slots import losses, metrics
from eqx_slots.data import blocks
from eqx_slots.models import presets, start_from_images


@eqx.filter_jit
def paint(key, number):
    scenes = jax.vmap(blocks.scene)(jr.split(key, number))
    return scenes.image, scenes.segmentation


def loss(model, images, weight):
    made = jax.vmap(model)(images)
    seen = jax.vmap(model.standardization)  # as the model sees them
    error = losses.mean_squared_error(seen(made.image), seen(images))
    shared = lambda masks: losses.mask_sparsity(masks) + 2 * losses.mask_impurity(masks)
    return error + weight * jnp.mean(jax.vmap(shared)(made.masks))


def matrices(params):
    """Muon is for weights, stored outputs first; Adam for biases, norms and slots."""

    def axes(path, leaf):
        if leaf.ndim < 2 or not path[-1].name.startswith("weight"):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(1, leaf.ndim)), (0,))

    return jax.tree_util.tree_map_with_path(axes, params)


@eqx.filter_jit
def fg_ari(model, images, truth):
    predicted = jnp.argmax(jax.vmap(model)(images).masks, axis=1)
    one = lambda true, predicted: metrics.adjusted_rand_index(
        true, predicted, num_true=5, num_predicted=7, ignore_background=True
    )
    return metrics.mean(jax.vmap(one)(truth, predicted))


def main(steps: int = 3500, seed: int = 0) -> float:
    check_run(steps, seed)
    model_key, data_key, test_key = jr.split(jr.key(seed), 3)
    model = eqx.filter_jit(presets.blocks)(num_slots=7, grad_iters=1, key=model_key)
    model = start_from_images(model, paint(data_key, 32)[0])
    decay = optax.warmup_cosine_decay_schedule
    rate = lambda peak: decay(0.0, peak, min(200, steps), steps + 1)
    muon = optax.contrib.muon(
        rate(6e-3),
        adam_learning_rate=rate(2e-3),
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )
    optim = optax.chain(optax.clip_by_global_norm(1.0), muon)
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all")  # the old model's memory becomes the new one's
    def step(model, opt_state, count):
        images, _ = paint(jr.fold_in(data_key, count), 32)
        weight = 1e-2 * jnp.clip((count / steps - 0.1) / 0.2, 0, 1)
        value, grads = eqx.filter_value_and_grad(loss)(model, images, weight)
        weights = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optim.update(grads, opt_state, weights)
        return eqx.apply_updates(model, updates), opt_state, value

    images, truth = paint(test_key, 320)
    for count in range(steps):
        model, opt_state, value = step(model, opt_state, jnp.asarray(count))
        if count % 250 == 0:
            score = float(fg_ari(model, images, truth))
            print(f"step {count}  loss {value:.5f}  FG-ARI {score:.3f}", flush=True)
    return float(fg_ari(model, images, truth))


if __name__ == "__main__":
    tyro.cli(main)
