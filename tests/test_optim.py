"""Optimisers: Muon, Adam, clipping, and a warm-up that waits."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array

from eqx_slots import training
from eqx_slots.nn import ConvTranspose2d, LearnedSlots

from .helpers import normal
from .test_training import batch_at, begin, loss


pytestmark = pytest.mark.usefixtures("standard_promotion")

# Of Adam with Nesterov's momentum: the same for every entry, whatever its gradient.
FIRST_STEP = 0.25 * (0.9 * 0.1 / (1 - 0.9**2) + 1)


def test_muon_makes_matrices_orthogonal_and_leaves_the_rest_to_adam():
    params = {
        "linear": eqx.nn.Linear(5, 3, key=jr.key(0)),
        "cell": eqx.nn.GRUCell(5, 3, key=jr.key(1)),
        "conv": ConvTranspose2d(2, 3, 5, key=jr.key(2)),
        "norm": eqx.nn.LayerNorm(5),
        "slots": LearnedSlots(2, 5, key=jr.key(3)),
    }
    params = eqx.filter(params, eqx.is_inexact_array)
    grads = jax.tree.map(lambda x: normal(4, *x.shape), params)
    optim = training.muon(1.0, adam_learning_rate=0.25, max_norm=None)
    updates, _ = optim.update(grads, optim.init(params), params)

    def singular_values(x):
        return np.linalg.svd(np.reshape(x, (x.shape[0], -1)), compute_uv=False)

    for matrix in (
        updates["linear"].weight,
        updates["cell"].weight_ih,
        updates["cell"].weight_hh,
        updates["conv"].weight,
    ):
        values = singular_values(matrix)
        assert values.max() / values.min() < 2.1  # Newton-Schulz is approximate
        np.testing.assert_allclose(np.sqrt(np.mean(matrix**2)), 0.2, rtol=0.3)
    for other in (
        updates["linear"].bias,
        updates["cell"].bias,
        updates["conv"].bias,
        updates["norm"].weight,
        updates["slots"].slots,
    ):
        np.testing.assert_allclose(np.abs(other), FIRST_STEP, rtol=1e-3)


def test_muon_is_that_of_optax():
    """Which takes the matrices one by one, of any shape and dtype."""
    shapes = [(3, 5), (5, 3), (3, 4, 2), (6, 5), (40, 3), (3, 2, 5, 5), (4, 33)]
    params = {f"{i}": Weight(normal(i, *shape)) for i, shape in enumerate(shapes)}
    params["half"] = Weight(normal(9, 4, 6).astype(jnp.bfloat16))
    params["half bias"] = normal(9, 4).astype(jnp.bfloat16)
    params |= {"bias": normal(10, 7), "scalar": normal(11)}
    dims = lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(1, x.ndim)), (0,))
    of = lambda tree: jax.tree.map(lambda x: dims(x) if x.ndim > 1 else None, tree)
    options = {"muon_weight_dimension_numbers": of, "consistent_rms": 0.2}
    theirs = optax.contrib.muon(0.1, adam_learning_rate=0.01, **options)
    ours = training.muon(0.1, adam_learning_rate=0.01, max_norm=None)
    one, other = ours.init(params), theirs.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for factor in (1, 2, 3):
            grads = jax.tree.map(partial(jnp.multiply, factor), params)
            got, one = ours.update(grads, one, params)
            want, other = theirs.update(grads, other, params)
            for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
                assert (x.shape, x.dtype) == (y.shape, y.dtype)
                atol = 0.02 if x.dtype == jnp.bfloat16 else 1e-5
                np.testing.assert_allclose(
                    x.astype(jnp.float32), y.astype(jnp.float32), atol=atol
                )


class Weight(eqx.Module):
    weight: Array


def test_muon_takes_a_bare_array_for_no_matrix():
    optim = training.muon(1.0, adam_learning_rate=0.25, max_norm=None)
    params = normal(1, 3, 5)
    updates, _ = optim.update(normal(0, 3, 5), optim.init(params), params)
    np.testing.assert_allclose(np.abs(updates), FIRST_STEP, rtol=1e-3)


def test_steps_wait_for_the_loss_to_move():
    optim = training.scale_by_progress(until=0.5, least=0.25, decay=0.5)
    state, scales = optim.init(jnp.ones(2)), []
    losses = [4.0, 4.0, 3.0, 1.0, 0.0, 0.0, 9.0]
    averages = [4.0, 4.0, 3.5, 2.25, 1.125, 0.5625, 4.78125]
    for value in losses:
        scaled, state = optim.update(jnp.ones(2), state, value=jnp.array(value))
        scales.append(float(scaled[0]))
    gone = 1 - np.array(averages) / 4
    np.testing.assert_allclose(scales, np.clip(gone / 0.5, 0.25, 1), rtol=1e-6)
    # A loss of zero to begin with says nothing, and stops nothing.
    scaled, _ = optim.update(jnp.ones(2), optim.init(jnp.ones(2)), value=jnp.array(0.0))
    assert np.all(np.isfinite(scaled))
    with pytest.raises(ValueError, match=r"needs the loss.*value=loss"):
        optim.update(jnp.ones(2), state)


def test_a_step_hands_its_loss_to_the_optimiser():
    optim = optax.chain(optax.sgd(1.0), training.scale_by_progress(least=0.25))
    model, state = begin(optim)
    step = training.make_step(loss, optim)
    start = np.asarray(model.weight)
    state, _ = step(batch_at(0), state)
    first = np.asarray(state.model.weight) - start
    plain = training.make_step(loss, optax.sgd(1.0))
    state, _ = plain(batch_at(0), begin(optax.sgd(1.0))[1])
    want = 0.25 * (np.asarray(state.model.weight) - start)
    np.testing.assert_allclose(first, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "mistake", [{"until": 0.0}, {"until": 1.5}, {"least": -0.1}, {"decay": 1.0}]
)
def test_progress_that_cannot_be(mistake):
    with pytest.raises(ValueError, match=r"`until` must be in \(0, 1\]"):
        training.scale_by_progress(**mistake)


@pytest.mark.parametrize(
    "make", [training.adam, partial(training.muon, adam_learning_rate=0.1)]
)
def test_clipping(make):
    params = eqx.nn.Linear(3, 2, key=jr.key(0))
    large = jax.tree.map(lambda x: 1e9 * jnp.ones_like(x), params)

    def largest_moment(max_norm):
        """Of the weight, whose size no other entry of the state has."""
        optim = make(0.1, max_norm=max_norm)
        _, state = optim.update(large, optim.init(params), params)
        moments = [x for x in jax.tree.leaves(state) if jnp.size(x) == 6]
        return max(float(jnp.max(jnp.abs(x))) for x in moments)

    assert 0 < largest_moment(1.0) <= 1.0
    assert largest_moment(None) > 1e7


def test_muon_is_not_written_over_what_it_reads():
    """As XLA does under some of its options (docs/performance.md)."""
    conv = eqx.nn.Conv2d(64, 32, 5, use_bias=False, key=jr.key(0))
    params = eqx.filter(conv, eqx.is_array)
    grads = jax.tree.map(lambda x: normal(0, *x.shape), params)
    optim = training.muon(3e-3, adam_learning_rate=1e-3, max_norm=None)

    def updated(grads, params, opt_state):
        updates, opt_state = optim.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    with jax.disable_jit():
        want, _ = updated(grads, params, optim.init(params))
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        compiled = jax.jit(updated, donate_argnums=(1, 2))
        for _ in range(10):
            given = jax.tree.map(jnp.array, (params, optim.init(params)))
            got, _ = compiled(grads, *given)
            np.testing.assert_allclose(got.weight, want.weight, atol=1e-5)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
