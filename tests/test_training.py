import os
import signal
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_slots import training

from .helpers import normal


pytestmark = pytest.mark.usefixtures("standard_promotion")


def loss(model, batch, key):
    """A line through points; the key jitters nothing but is seen in `aux`."""
    inputs, targets = batch
    predicted = jax.vmap(model)(inputs)
    return jnp.mean((predicted - targets) ** 2), jr.uniform(key)


def batch_at(step):
    inputs = jr.normal(jr.fold_in(jr.key(7), step), (13, 3))
    return inputs, inputs @ jnp.arange(6.0).reshape(3, 2)


def begin(optim, **options):
    model = eqx.nn.Linear(3, 2, key=jr.key(0))
    state = training.TrainState.create(model, optim, key=jr.key(1), **options)
    return model, state


def test_a_step_is_what_optax_does_by_hand():
    optim = optax.adam(0.1)
    model, state = begin(optim)
    step = training.make_step(loss, optim)
    opt_state = optim.init(model)
    for count in range(3):
        batch, key = batch_at(count), jr.fold_in(jr.key(1), count)
        (value, aux), grads = eqx.filter_value_and_grad(loss, has_aux=True)(
            model, batch, key
        )
        updates, opt_state = optim.update(grads, opt_state)
        model = eqx.apply_updates(model, updates)
        state, info = step(batch, state)
        np.testing.assert_allclose(info.loss, value, rtol=1e-6)
        np.testing.assert_allclose(info.aux, aux)
        np.testing.assert_allclose(info.grad_norm, optax.tree.norm(grads), rtol=1e-6)
        assert not bool(info.skipped)
        for got, want in zip(jax.tree.leaves(state.model), jax.tree.leaves(model)):
            np.testing.assert_allclose(got, want, rtol=1e-5)
    assert int(state.step) == 3


def test_the_callers_model_survives_and_the_old_state_does_not():
    optim = optax.sgd(0.1)
    model, state = begin(optim, use_ema=True)
    training.make_step(loss, optim)(batch_at(0), state)
    assert np.all(np.isfinite(model.weight))
    assert state.model.weight.is_deleted()


def test_the_callers_model_survives_an_optimiser_that_keeps_it():
    keeps = optax.GradientTransformation(lambda p: p, lambda g, s, p=None: (g, s))
    model, state = begin(keeps)
    training.make_step(loss, keeps)(batch_at(0), state)
    assert np.all(np.isfinite(model.weight))


@pytest.mark.parametrize(
    "names",
    [
        ("ema",),
        ("compute_dtype",),
        ("mesh",),
        ("checkpoints",),
        ("ema", "compute_dtype", "mesh", "checkpoints"),
    ],
)
def test_one_trace_for_a_whole_run_whatever_the_options(names, tmp_path):
    """Left after four steps and gone on with in a new state, by the same step."""
    optim = training.muon(0.01, adam_learning_rate=0.01)
    counted = eqx.debug.assert_max_traces(loss, max_traces=1)
    values = {
        "compute_dtype": jnp.bfloat16,
        "mesh": training.data_mesh(jax.devices()[:1]),
    }
    options = {name: values[name] for name in names if name in values}
    step = training.make_step(counted, optim, **options)
    kept = {}
    if "checkpoints" in names:
        checkpoints = training.Checkpoints(tmp_path)
        kept = {"checkpoints": checkpoints, "checkpoint_every": 2}
    for num_steps in (4, 7):
        _, state = begin(optim, use_ema="ema" in names)
        if kept and checkpoints.steps():
            state = checkpoints.restore(state)
        *_, last = training.run(step, state, batch_at, num_steps=num_steps, **kept)
        assert last.step == num_steps


def test_a_step_that_is_not_finite_is_skipped():
    optim = optax.adam(0.1)
    _, state = begin(optim, use_ema=True)
    step = training.make_step(loss, optim)
    state, _ = step(batch_at(0), state)
    before = jax.tree.map(np.asarray, (state.model, state.opt_state, state.ema))
    inputs, targets = batch_at(1)
    for count in range(2):
        state, info = step((inputs.at[0, 0].set(jnp.nan), targets), state)
        assert bool(info.skipped)
        assert int(state.skipped) == count + 1
    after = jax.tree.map(np.asarray, (state.model, state.opt_state, state.ema))
    assert eqx.tree_equal(before, after)
    assert int(state.step) == 3
    state, info = step(batch_at(2), state)
    assert not bool(info.skipped)
    assert int(state.skipped) == 0


def test_moving_average():
    optim = optax.sgd(0.1)
    model, state = begin(optim, use_ema=True)
    step = training.make_step(loss, optim, ema_decay=0.15)
    average = np.asarray(model.weight)
    for count in range(4):
        state, _ = step(batch_at(count), state)
        decay = min(0.15, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * np.asarray(state.model.weight)
    np.testing.assert_allclose(state.ema.weight, average, rtol=1e-5)
    assert begin(optim)[1].ema is None


def test_the_schedule_of_the_paper():
    rate = training.paper_schedule()
    assert float(rate(0)) == 0
    np.testing.assert_allclose(rate(5_000), 4e-4 * 0.5 * 2**-0.05, rtol=1e-6)
    np.testing.assert_allclose(rate(10_000), 3.732e-4, rtol=1e-4)
    np.testing.assert_allclose(rate(500_000), 1.25e-5, rtol=1e-6)
    short = training.paper_schedule(1.0, warmup_steps=2, halving_steps=4)
    np.testing.assert_allclose(short(jnp.asarray(4)), 0.5)
    with pytest.raises(ValueError, match="`warmup_steps` must be"):
        training.paper_schedule(warmup_steps=0)


def finite_run(num_steps=7, **options):
    optim = optax.adam(0.1)
    _, state = begin(optim)
    step = training.make_step(loss, optim)
    return training.run(step, state, batch_at, num_steps=num_steps, **options)


def test_a_run_reports_and_learns():
    reports = [(r.step, r.stopped, r.loss) for r in finite_run(report_every=3)]
    assert [r[:2] for r in reports] == [
        (1, None),
        (3, None),
        (6, None),
        (7, "finished"),
    ]
    assert reports[-1][2] < reports[0][2]


def test_a_report_averages_the_losses_since_the_last_one():
    single = [r.loss for r in finite_run(report_every=1)]
    coarse = [r.loss for r in finite_run(report_every=3)]
    np.testing.assert_allclose(coarse[2], np.mean(single[3:6]), rtol=1e-6)


def test_a_run_goes_on_where_it_was_left():
    *_, whole = finite_run(num_steps=6)
    optim = optax.adam(0.1)
    _, state = begin(optim)
    step = training.make_step(loss, optim)
    for stop in (2, 6):
        *_, report = training.run(step, state, batch_at, num_steps=stop)
        state = report.state
    assert eqx.tree_equal(report.state.model, whole.state.model)
    with pytest.raises(ValueError, match="nothing to do"):
        training.run(step, state, batch_at, num_steps=6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step(number):
    before = signal.getsignal(number)
    reports = []
    for report in finite_run(num_steps=100, report_every=1):
        reports.append(report)
        if report.step == 3:
            os.kill(os.getpid(), number)
    assert reports[-1].stopped == "interrupted"
    assert reports[-1].step == 4
    assert np.all(np.isfinite(reports[-1].state.model.weight))
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_is_the_ordinary_one():
    reports = finite_run(num_steps=100, report_every=1)
    next(reports)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    reports.close()


def test_a_run_in_a_thread_leaves_signals_alone():
    steps = []
    thread = threading.Thread(target=lambda: steps.extend(finite_run(num_steps=2)))
    thread.start()
    thread.join()
    assert [r.stopped for r in steps] == [None, "finished"]


def test_a_run_that_diverges_says_so():
    def broken(model, batch, key):
        value, aux = loss(model, batch, key)
        return value / 0, aux

    optim = optax.adam(0.1)
    model, state = begin(optim)
    step = training.make_step(broken, optim)
    match = "ended after step 4: the last 4 steps were skipped.*loss inf, norm of the"
    with pytest.warns(RuntimeWarning, match=match):
        *_, last = training.run(step, state, batch_at, num_steps=4, max_skipped=4)
    assert (last.step, last.stopped) == (4, "diverged")
    assert np.isnan(last.loss)
    np.testing.assert_array_equal(last.state.model.weight, model.weight)


def test_steps_can_be_part_of_what_is_compiled():
    model = eqx.nn.Linear(3, 2, key=jr.key(0))
    loss = lambda model, batch, key: (jnp.mean(jax.vmap(model)(batch) ** 2), None)
    optim = optax.sgd(0.1)
    step = training.make_step(loss, optim)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    batches = normal(0, 4, 5, 3)
    dynamic, static = eqx.partition(state, eqx.is_array)

    def once(dynamic, batch):
        state, info = step(batch, eqx.combine(dynamic, static))
        return eqx.filter(state, eqx.is_array), info.loss

    last, losses = jax.jit(lambda d, b: jax.lax.scan(once, d, b))(dynamic, batches)
    for batch, value in zip(batches, losses):
        state, info = step(batch, state)
        np.testing.assert_allclose(info.loss, value, rtol=1e-5)
    np.testing.assert_allclose(last.model.weight, state.model.weight, rtol=1e-5)
