"""Training that computes in bfloat16 and remembers in float32."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_slots import losses, training
from eqx_slots.data import blocks
from eqx_slots.models import presets, Standardization

from .helpers import built


pytestmark = pytest.mark.usefixtures("standard_promotion")


def paint(count, size=4):
    scene = partial(blocks.scene, num_objects=(2, 4))
    scenes = jax.vmap(scene)(jr.split(jr.fold_in(jr.key(2), count), size))
    return scenes._replace(image=2 * scenes.image - 1)


def loss(model, batch, key):
    one = lambda image, key: model(image, key=key).image
    made = jax.vmap(one)(batch.image, jr.split(key, len(batch.image)))
    return losses.mean_squared_error(made, batch.image), made


def train(num_steps, **options):
    optim = training.adam(1e-3, max_norm=1.0)
    model = built(presets.blocks, scale=0.1)
    unchanged = Standardization(jnp.zeros(3), jnp.ones(()))
    model = eqx.tree_at(lambda m: m.standardization, model, unchanged)
    state = training.TrainState.create(model, optim, use_ema=True, key=jr.key(1))
    step = training.make_step(loss, optim, **options)
    run = training.run(step, state, jax.jit(paint), num_steps=num_steps, report_every=1)
    values = []
    for report in run:
        values.append(report.loss)
    return model, report.state, values, report.info


def test_bfloat16_follows_float32_and_remembers_in_it():
    model, want, want_losses, _ = train(6)
    _, got, got_losses, info = train(6, compute_dtype=jnp.bfloat16)
    assert info.aux.dtype == jnp.bfloat16
    assert info.loss.dtype == info.grad_norm.dtype == jnp.float32
    dtypes = lambda state: [x.dtype for x in jax.tree.leaves(state) if eqx.is_array(x)]
    assert dtypes(got) == dtypes(want)
    assert jnp.bfloat16 not in dtypes(got)
    assert int(got.skipped) == 0
    assert not bool(info.skipped)
    # Eight bits of a number: each loss to a few of its last, and the fall of it too.
    np.testing.assert_allclose(got_losses, want_losses, rtol=0.02)
    assert got_losses[-1] < 0.9 * got_losses[0]
    moved = [
        np.concatenate([np.ravel(b - a) for a, b in zip(leaves(model), leaves(end))])
        for end in (want.model, got.model)
    ]
    cosine = moved[0] @ moved[1] / np.linalg.norm(moved[0]) / np.linalg.norm(moved[1])
    assert cosine > 0.9
    for leaf in leaves((got.model, got.ema, got.opt_state)):
        assert np.all(np.isfinite(leaf))


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def test_small_steps_are_not_lost_in_rounding():
    """1 + 2**-12 is 1 in bfloat16: parameters of that dtype would never move."""
    optim = optax.sgd(2.0**-12)
    model = eqx.nn.Linear(1, 1, use_bias=False, key=jr.key(0))
    model = eqx.tree_at(lambda m: m.weight, model, jnp.ones((1, 1)))
    fall = lambda model, batch, key: (-jnp.sum(model(batch)), None)
    step = training.make_step(fall, optim, compute_dtype=jnp.bfloat16)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    for _ in range(4):
        state, _ = step(jnp.ones(1), state)
    assert float(state.model.weight[0, 0]) == 1 + 4 * 2.0**-12


def test_only_floats_are_cast():
    seen = {}

    def look(model, batch, key):
        seen.update(batch, weight=model.weight)
        return jnp.sum(model(batch["x"])), None

    optim = optax.sgd(0.1)
    model = eqx.nn.Linear(3, 2, key=jr.key(0))
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(look, optim, compute_dtype=jnp.bfloat16)
    batch = {"x": jnp.ones(3), "count": jnp.arange(3), "keys": jr.split(jr.key(0), 3)}
    _, info = step(batch, state)
    assert seen["x"].dtype == seen["weight"].dtype == jnp.bfloat16
    assert seen["count"].dtype == jnp.int32
    assert seen["keys"].dtype == batch["keys"].dtype
    assert info.loss.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"`compute_dtype` .* got int8; .*bfloat16"):
        training.make_step(look, optim, compute_dtype=jnp.int8)
