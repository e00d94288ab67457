"""What `autoencoder.py` measures on scenes with known truth."""

from functools import partial

import jax
import jax.numpy as jnp

from eqx_slots import metrics


# By the largest mask of each pixel, as the field has it, and by the masks as they are.
FIGURES = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "mbo": "mBO",
    "miou": "mIoU",
    "soft_fg_ari": "soft FG-ARI",
    "soft_ari": "soft ARI",
    "soft_mbo": "soft mBO",
    "soft_miou": "soft mIoU",
    "background_mask": "largest mask on the background",
    "mse": "MSE",
    "mse_of_mean_image": "MSE of the mean image",
}
OF_MASKS = tuple(FIGURES)[:-2]


def figures(made, scenes, black):
    """The scores, and errors as if the images were in [0, 1]; `black` is their least.

    The masks are the very ones that composite the picture.
    """
    error = lambda picture: jnp.mean((picture - scenes.image) ** 2) / (1 - black) ** 2
    mean_image = jnp.mean(scenes.image, axis=0, keepdims=True)
    errors = {"mse": error(made.image), "mse_of_mean_image": error(mean_image)}
    return mask_figures(made.masks, scenes) | errors


def mask_figures(masks, scenes):
    """The scores of masks alone, `scenes slots height width`."""
    truth, num_true = scenes.segmentation, 1 + scenes.objects.present.shape[1]

    def mean(metric, of, **options):
        one = partial(metric, num_true=num_true, **options)
        return metrics.mean(jax.vmap(one)(truth, of))

    hard = partial(mean, of=jnp.argmax(masks, axis=1), num_predicted=masks.shape[1])
    soft = partial(mean, of=masks)
    background, largest = truth == 0, jnp.max(masks, axis=1)
    values = (
        hard(metrics.adjusted_rand_index, ignore_background=True),
        hard(metrics.adjusted_rand_index),
        hard(metrics.mean_best_overlap),
        hard(metrics.mean_iou),
        soft(metrics.soft_adjusted_rand_index, ignore_background=True),
        soft(metrics.soft_adjusted_rand_index),
        soft(metrics.soft_mean_best_overlap),
        soft(metrics.soft_mean_iou),
        jnp.sum(largest * background) / jnp.sum(background),
    )
    return dict(zip(OF_MASKS, values, strict=True))
