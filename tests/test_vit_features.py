"""A vision transformer as a backbone: a stand-in; test_equimo.py has Equimo's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.models import ViTFeatures

from .helpers import normal, run


class ViT(eqx.Module):
    """Patches of 2 x 2 through a linear map, after a class token and a register."""

    weight: jax.Array
    num_prefix_tokens: int = 2

    def forward_features(self, image, *, inference):
        assert inference
        channels, height, width = image.shape
        patches = image.reshape(channels, height // 2, 2, width // 2, 2)
        patches = jnp.moveaxis(patches, (1, 3), (0, 1)).reshape(-1, 4 * channels)
        tokens = patches @ self.weight
        prefix = jnp.full((2, tokens.shape[1]), 7.0)
        return {
            "x_prenorm": jnp.concatenate([prefix, tokens]),
            "x_norm_patchtokens": jax.nn.standardize(tokens),
            "x_norm_cls_token": prefix[0],
        }


def stand_in():
    return ViT(normal(0, 12, 5))


def patches(image):
    """Row by row, each with its four pixels of each channel."""
    _, height, width = image.shape
    return np.stack(
        [
            np.asarray(image)[:, i : i + 2, j : j + 2].ravel()
            for i in range(0, height, 2)
            for j in range(0, width, 2)
        ]
    )


def test_features_are_the_patches_before_the_norm():
    image = normal(1, 3, 4, 6)
    features = run(ViTFeatures(stand_in()), image)
    want = patches(image) @ np.asarray(stand_in().weight)
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)
    normed = run(ViTFeatures(stand_in(), use_norm=True), image)
    np.testing.assert_allclose(normed, jax.nn.standardize(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_stop_at_a_frozen_backbone(frozen):
    backbone = ViTFeatures(stand_in(), frozen=frozen)
    call = lambda backbone, image: jnp.sum(backbone(image) ** 2)
    grads = eqx.filter_jit(eqx.filter_grad(call))(backbone, normal(1, 3, 4, 6))
    assert np.any(np.asarray(grads.transformer.weight) != 0) != frozen


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    with pytest.raises(ValueError, match=r"must have `num_prefix_tokens`.*MLP has not"):
        ViTFeatures(eqx.nn.MLP(2, 2, 2, depth=1, key=jr.key(0)))
    backbone = ViTFeatures(stand_in())
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap\(backbone\)\(image"):
        backbone(normal(1, 2, 3, 4, 6))
    with pytest.raises(ValueError, match="0-255 images by `/ 255`"):
        backbone(np.zeros((3, 4, 6), np.uint8))
