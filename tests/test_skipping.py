"""Which steps are skipped, and when a run ends for it."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_slots import training

from .test_training import batch_at, begin, loss


pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_an_update_that_is_not_finite_is_skipped():
    rate = lambda count: jnp.where(count == 1, jnp.inf, 0.1)
    optim = optax.sgd(rate)
    _, state = begin(optim)
    step = training.make_step(loss, optim)
    skipped = []
    for count in range(3):
        before = np.asarray(state.model.weight)
        state, info = step(batch_at(count), state)
        skipped.append(bool(info.skipped))
    # Left out with the rest of the step was the optimiser's count, so it comes again.
    assert skipped == [False, True, True]
    np.testing.assert_array_equal(state.model.weight, before)


def of_norm(norm):
    """A batch for `linear`, whose gradient is the batch."""
    return jnp.asarray([0.0, norm])


def linear(model, batch, key):
    return jnp.sum(model * batch), None


def after(num_taken, mean, optim, **options):
    """A step and the state of a run whose gradients had a mean norm all the while."""
    state = training.TrainState.create(jnp.zeros(2), optim, key=jr.key(0))
    taken, mean = jnp.asarray(num_taken, jnp.int32), jnp.asarray(mean, jnp.float32)
    step = training.make_step(linear, optim, **options)
    usual = jnp.where(taken >= 100, mean, 0.0)
    state = state._replace(mean_grad_norm=mean, usual_grad_norm=usual)
    return step, state._replace(taken=taken, moved=jnp.array(taken))


def test_the_mean_norm_is_that_of_gradients_that_moved_something():
    step, state = after(0, 0.0, optax.sgd(0.1))
    norms = [2.0, 7.0, jnp.nan, 0.0, 3.0, jnp.inf, 1e-3]
    for norm in norms:
        state, _ = step(of_norm(norm), state)
    assert (int(state.step), int(state.taken), int(state.moved)) == (7, 5, 4)
    mean = np.mean([norm for norm in norms if np.isfinite(norm) and norm > 0])
    np.testing.assert_allclose(state.mean_grad_norm, mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_taken", "mean", "norm", "options", "skipped"),
    [
        (100, 2.0, 201.0, {}, True),
        (100, 2.0, 199.0, {}, False),
        (99, 2.0, 1e9, {}, False),  # early on any growth may be right
        (100, 0.0, 1e9, {}, False),  # nothing to compare with
        (5000, 2.0, 7.0, {"max_grad_ratio": 3.0}, True),
        (5000, 2.0, 5.0, {"max_grad_ratio": 3.0}, False),
        (5000, 2.0, 1e15, {"max_grad_ratio": float("inf")}, False),
    ],
)
def test_a_gradient_out_of_proportion_is_skipped(
    num_taken, mean, norm, options, skipped
):
    step, state = after(num_taken, mean, optax.sgd(1e-9), **options)
    state, info = step(of_norm(norm), state)
    assert bool(info.skipped) == skipped
    assert (int(state.skipped), int(state.taken)) == (skipped, num_taken + 1 - skipped)
    assert bool(jnp.any(state.model != 0)) != skipped
    assert (float(state.mean_grad_norm) == mean) == skipped
    state, info = step(of_norm(1.0), state)
    assert (bool(info.skipped), int(state.skipped)) == (False, 0)


@pytest.mark.parametrize("factor", [0.9, 0.1])
def test_gradients_may_vanish_and_come_back(factor):
    """Of an easy task, learned to the last bit, or of a model that was stuck."""
    step, state = after(0, 0.0, optax.sgd(0.0))
    norms = [max(factor**count, 1e-6) for count in range(150)]
    for norm in norms:
        state, info = step(of_norm(norm), state)
        assert not bool(info.skipped)
    for mean in (np.mean(norms), 1e-4, 1e-6):  # as it falls, with ever more steps
        mean = jnp.asarray(mean, jnp.float32)
        state, info = step(of_norm(0.5), state._replace(mean_grad_norm=mean))
        assert not bool(info.skipped)
    usual = np.mean(norms[:100])
    np.testing.assert_allclose(state.usual_grad_norm, usual, rtol=1e-6)
    state, info = step(of_norm(101 * usual), state)
    assert bool(info.skipped)


@pytest.mark.parametrize("every", [1, 7])
def test_gradients_of_exactly_zero_say_nothing(every):
    """Of a loss that is zero for most batches, or of a model that is dead at first."""
    step, state = after(0, 0.0, optax.sgd(0.0))
    for count in range(150 + 20 * every):
        norm = 1.0 if count >= 150 and count % every == 0 else 0.0
        state, info = step(of_norm(norm), state)
        assert not bool(info.skipped)
    assert int(state.moved) == 20
    np.testing.assert_allclose(state.mean_grad_norm, 1.0, rtol=1e-6)
    assert float(state.usual_grad_norm) == 0.0  # not judged yet


def test_a_run_in_which_gradients_explode_for_good_ends():
    step, state = after(100, 1.0, optax.sgd(0.1))
    batches = lambda count: of_norm(1.0 if int(count) < 3 else 1e3)
    with pytest.warns(RuntimeWarning, match="norm of the gradient 1000"):
        *_, last = training.run(step, state, batches, num_steps=99, max_skipped=5)
    assert (last.step, last.stopped) == (8, "diverged")
    np.testing.assert_allclose(last.state.model[1], -0.3, rtol=1e-6)


def test_gradients_that_stay_large_are_measured_anew():
    """Ten batches at one place agree: it is no accident, skipping more helps nobody."""
    step, state = after(100, 1.0, optax.sgd(0.1))
    skipped = []
    for count in range(150):
        state, info = step(of_norm(1e3 if count >= 3 else 1.0), state)
        skipped.append(bool(info.skipped))
    assert skipped == [False] * 3 + [True] * 10 + [False] * 137
    np.testing.assert_allclose(state.mean_grad_norm, 1e3, rtol=1e-6)
    np.testing.assert_allclose(state.usual_grad_norm, 1e3, rtol=1e-6)
    state, info = step(of_norm(1e6), state)
    assert bool(info.skipped)


def test_gradients_that_are_not_finite_are_never_taken():
    step, state = after(100, 1.0, optax.sgd(0.1))
    for _ in range(15):
        state, info = step(of_norm(jnp.inf), state)
        assert bool(info.skipped)
    assert not jnp.any(state.model)


def test_the_loss_of_a_report_is_that_of_the_steps_taken():
    step, state = after(100, 1.0, optax.sgd(0.1))
    batches = lambda count: of_norm(1e3 if int(count) == 2 else 1.0)
    *_, last = training.run(step, state, batches, num_steps=4, report_every=4)
    np.testing.assert_allclose(last.loss, (-0.1 - 0.2) / 2, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, -3.0, float("nan")])
def test_a_ratio_that_would_skip_ordinary_steps(ratio):
    with pytest.raises(ValueError, match="`max_grad_ratio` must be greater than 1"):
        training.make_step(linear, optax.sgd(0.1), max_grad_ratio=ratio)


def test_a_model_of_weak_types_is_compiled_once_too():
    optim = optax.adam(0.1)
    state = training.TrainState.create(jnp.full(2, 1.0), optim, key=jr.key(0))
    assert not state.model.weak_type
    counted = eqx.debug.assert_max_traces(linear, max_traces=1)
    step = training.make_step(counted, optim)
    *_, last = training.run(step, state, lambda count: of_norm(1.0), num_steps=3)
    assert last.step == 3
