"""A transformer of Equimo as a backbone; `.ci/run` makes an environment for it."""

import importlib
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data import features
from eqx_slots.models import ViTFeatures
from eqx_slots.nn import SlotAttention

from .helpers import normal


vision = pytest.importorskip(
    "equimo.vision.models", reason="Equimo 2.7 is not installed: it needs Python 3.12"
)
pytestmark = pytest.mark.usefixtures("as_users_run")
SIDE = 56  # four patches of 14


def make(**options):
    """DINOv2's smallest with two of its twelve blocks; weights are not downloaded."""
    return vision.dinov2_vits14_reg(depths=[2], **options)


@pytest.fixture(scope="module")
def vit():
    return make(pretrained=False, img_size=SIDE, key=jr.key(0))


def test_features_and_a_layer_on_them(vit):
    both = lambda vit, image: (
        ViTFeatures(vit)(image),
        vit.features(image, inference=True),
    )
    tokens, every = eqx.filter_jit(both)(vit, normal(1, 3, SIDE, SIDE))
    assert tokens.shape == (16, 384)
    np.testing.assert_allclose(tokens, every[vit.num_prefix_tokens :], atol=1e-4)
    layer = SlotAttention(384, 32, num_slots=3, key=jr.key(1))
    call = lambda layer: jnp.sum(layer(tokens, key=jr.key(2)).slots)
    grads = eqx.filter_jit(eqx.filter_grad(call))(layer)
    assert np.any(np.asarray(grads.key_proj.weight) != 0)


def test_features_are_kept(vit, tmp_path):
    """And known again by the weights: those of another one are refused."""
    images = np.asarray(normal(1, 3, 3, SIDE, SIDE))
    keep = lambda vit: features.cached(
        ViTFeatures(vit), images, tmp_path / "tokens", dtype="float16", batch_size=3
    )
    kept = keep(vit)
    assert (len(kept), kept[1].shape) == (3, (16, 384))
    np.testing.assert_array_equal(keep(vit)[2], kept[2])
    other = jax.tree.map(lambda x: x + 1 if eqx.is_inexact_array(x) else x, vit)
    with pytest.raises(ValueError, match="another backbone: digest"):
        keep(other)


def test_the_backbone_of_the_example(vit, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    backbones = importlib.import_module("backbones")
    monkeypatch.setattr(vision, "small", make, raising=False)
    options = {"backbone": "small", "control": True, "side": SIDE}
    same = backbones.equimo(backbones.Arguments(**options))
    assert eqx.tree_equal(same.transformer, vit)
    with pytest.raises(SystemExit):
        backbones.equimo(backbones.Arguments(**options | {"backbone": "none"}))
    assert capsys.readouterr().err == "--backbone: Equimo has no none.\n"
