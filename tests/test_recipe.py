"""What `examples/recipe.py` makes of a picture, its masks and the step: the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from .test_examples import load


pytestmark = pytest.mark.usefixtures("as_users_run")


class Made(NamedTuple):
    """As much of a reconstruction as a loss looks at."""

    image: jax.Array
    masks: jax.Array
    rgb: jax.Array | None = None


class Painter:
    """Sees gray as 0 and paints what it sees, but for a part of it."""

    def __init__(self, masks, scale, part):
        self.masks, self.part = masks, part
        self.standardization = None if scale is None else Seen(scale)

    def __call__(self, image, *, early_gradient, key):
        self.early_gradient = early_gradient
        rgb = jnp.broadcast_to(image, (len(self.masks), *image.shape))
        return Made((1 - self.part) * image, self.masks, rgb)


class Seen:
    def __init__(self, scale):
        self.center, self.scale = jnp.zeros(3), jnp.array(scale)


RAMP = 10, 30  # between these per cent of the steps


def test_the_sparsity_comes_late_and_with_its_weight():
    """Nothing at first, then more, then all; the textbook's recipe has none of it."""
    autoencoder, recipe = load("autoencoder"), load("recipe")
    weights = [float(recipe.sparsity_at(step, 100, 2.0)) for step in range(100)]
    assert weights[: RAMP[0] + 1] == [0] * (RAMP[0] + 1)
    assert weights == sorted(weights)
    assert weights[sum(RAMP) // 2] == pytest.approx(1)
    assert weights[RAMP[1] :] == pytest.approx([2] * (100 - RAMP[1]))
    later = [float(recipe.sparsity_at(x, 10, 2.0, (0.5, 0.75))) for x in (5, 6, 7, 8)]
    assert later == pytest.approx([0, 0.8, 1.6, 2])
    passing = {"rising": (0.5, 0.6), "falling": (0.7, 0.9, 0.2)}
    passing = [float(recipe.sparsity_at(x, 10, 2.0, **passing)) for x in range(5, 11)]
    assert passing == pytest.approx([0, 2, 2, 1.2, 0.4, 0.4])
    assert autoencoder.Arguments(preset="blog").sparsity == 0
    assert autoencoder.Arguments(preset="blog", sparsity=1.0).sparsity == 1

    masks = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 4, 4)), axis=1)
    scenes = autoencoder.paint(jax.random.key(0), 2, autoencoder.Arguments())
    batch = recipe.Batch(scenes, jnp.array([0.0, 3.0]), jnp.zeros(2))
    shared = recipe.losses.mask_sparsity(masks[0])
    shared = float(shared + 2 * recipe.losses.mask_impurity(masks[0]))
    for left, part in ((0.0, 1), (0.35, 0.5), (0.6, 0), (1.5, 0)):
        # With this share of what is not background still missing in the picture.
        model = Painter(masks[0], 0.25, left**0.5)
        value, aux = recipe.loss(model, batch, jax.random.key(0))
        plain = float(jnp.mean(scenes.image**2)) / 0.25**2
        assert float(aux["error"]) == pytest.approx(left * plain, abs=1e-5)
        wanted = left * plain + part * 3 * shared / 2
        assert float(value) == pytest.approx(wanted, rel=1e-4)
    # Where all is background there is nothing to wait for, and no 0 / 0.
    plain = batch._replace(scenes=scenes._replace(image=jnp.zeros((2, 3, 4, 4))))
    value, _ = recipe.loss(Painter(masks[0], 0.25, 1.0), plain, jax.random.key(0))
    assert float(value) == pytest.approx(3 * shared / 2, rel=1e-4)
    # Without standardization, as the textbook's model is, nothing waits.
    model = Painter(masks[0], None, 1.0)
    value, aux = recipe.loss(model, batch, jax.random.key(0))
    wanted = float(aux["error"]) + 3 * shared / 2
    assert float(value) == pytest.approx(wanted, rel=1e-4)


def test_rgb_of_one_colour_weighs_with_the_sparsity():
    """For scenes whose recipe asks for it, and in units of the pictures' scale."""
    autoencoder, recipe = load("autoencoder"), load("recipe")
    small, large = {"scenes": "tetrominoes"}, {"image_size": 64, "background": "black"}
    prices = {
        0.0: [{}, {"image_size": 64}, {"background": "black"}, {"scenes": "solids"}],
        30.0: [large, small, {"scenes": "sprites"}],
        2.0: [{"one_colour": 2.0, "scenes": "sprites"}],
    }
    for price, those in prices.items():
        assert {autoencoder.Arguments(**one).one_colour for one in those} == {price}
    arguments = autoencoder.Arguments(scenes="tetrominoes")
    scenes = autoencoder.paint(jax.random.key(0), 2, arguments)
    masks = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 4, 4)), axis=0)
    model = Painter(masks, 0.25, 0.0)
    batch, key = recipe.batch_for(scenes, 50, 100, 2.0), jax.random.key(0)
    value, _ = recipe.loss(model, batch, key)
    priced, _ = recipe.loss(model, batch, key, one_colour=30.0)
    varied = float(jnp.mean(jnp.var(scenes.image, axis=(-2, -1))))
    wanted = 2 * 30 * len(masks) * varied / 0.25**2
    assert float(priced - value) == pytest.approx(wanted, rel=1e-4)
    # Large blocks on black: before the sparsity has begun, but not before all is ready.
    large = autoencoder.Arguments(image_size=64, background="black", sparsity=0.1)
    assert large.price == {"impurity": 2.0, "at_once": pytest.approx(3.0)}
    batch = recipe.batch_for(scenes, 0, 100, 2.0)
    value, _ = recipe.loss(model, batch, key)
    priced, _ = recipe.loss(model, batch, key, **large.price)
    assert float(priced - value) == pytest.approx(wanted / 20, rel=1e-4)
    nothing = Painter(masks, 0.25, 1.0)
    value, _ = recipe.loss(nothing, batch, key)
    priced, _ = recipe.loss(nothing, batch, key, **large.price)
    assert float(priced) == float(value)


def test_the_last_round_learns_first_and_all_of_them_later():
    autoencoder, recipe = load("autoencoder"), load("recipe")
    arguments = autoencoder.Arguments()
    assert arguments.recipe.sizes["grad_iters"] == 1
    scenes = autoencoder.paint(jax.random.key(0), 2, arguments)
    for step, share in ((0, 0), (30, 0), (40, 0.5), (50, 1), (99, 1)):
        model = Painter(jnp.ones((1, 4, 4)), 0.25, 1.0)
        batch = recipe.batch_for(scenes, step, 100, 1.0)
        recipe.loss(model, batch, jax.random.key(0))
        assert float(model.early_gradient) == pytest.approx(share, abs=1e-6)
