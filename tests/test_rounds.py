"""Round by round: every state, and stopping when the slots have settled."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqx_slots.nn import GumbelSoftmax, LearnedSlots
from eqx_slots.nn._rounds import has_own_vjp

from .helpers import (
    as_float64,
    assert_close,
    float64,
    largest_error,
    normal,
    run,
    seeds,
)
from .test_slot_attention import gradient, make


def calm(seed=0, **options):
    """A layer whose rounds are a contraction, so that slots settle."""
    layer = make(seed, **options)
    size = layer.slot_size
    forgetful = layer.cell.bias.at[size : 2 * size].set(-2)
    where = lambda m: (m.cell.bias, m.mlp.layers[1].weight)
    return eqx.tree_at(where, layer, (forgetful, 0.1 * layer.mlp.layers[1].weight))


@settings(max_examples=5)
@given(seed=seeds)
def test_rounds_are_the_states_after_so_many(seed):
    layer, inputs, slots = make(seed), normal(seed, 17, 11), normal(seed + 1, 3, 7)
    rounds = run(layer.rounds, inputs, slots=slots, num_iters=4)
    assert rounds.slots.shape == (4, 3, 7)
    assert rounds.attention.shape == (4, 3, 17)
    for i in range(4):
        want = run(layer, inputs, slots=slots, num_iters=i + 1)
        assert_close(rounds.slots[i], want.slots)
        assert_close(rounds.attention[i], want.attention)


def test_rounds_draw_the_slots_of_a_call():
    layer, inputs = make(num_iters=2), normal(0, 17, 11)
    rounds = run(layer.rounds, inputs, num_slots=5, key=jr.key(1))
    want = run(layer, inputs, num_slots=5, key=jr.key(1))
    assert_close(rounds.slots[-1], want.slots)


def test_a_loss_on_early_rounds_reaches_what_grad_iters_lets_through():
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)

    def early(layer, slots, index):
        state = layer.rounds(inputs, slots=slots)
        return jnp.sum(state.slots[index]) + jnp.sum(state.attention[index] ** 2)

    for grad_iters, index, flows in [(None, 0, True), (2, 0, False), (2, 1, True)]:
        grads = eqx.filter_jit(eqx.filter_grad(early))(
            make(grad_iters=grad_iters), slots, index
        )
        size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(grads))
        assert (size > 0) == flows


def test_each_round_of_a_drawing_competition_draws_anew():
    layer = make(competition=GumbelSoftmax())
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    # With slots that never change, only the noise can tell the rounds apart.
    still = eqx.tree_at(lambda m: (m.cell, m.mlp), layer, (lambda u, s: s, None))
    rounds = still.rounds(inputs, slots=slots, num_iters=3, key=jr.key(0))
    assert not np.allclose(rounds.attention[0], rounds.attention[1])
    assert not np.allclose(rounds.attention[1], rounds.attention[2])
    again = still.rounds(inputs, slots=slots, num_iters=3, key=jr.key(0))
    np.testing.assert_array_equal(rounds.attention, again.attention)
    one = layer.step(slots, inputs, key=jr.key(0)).attention
    other = layer.step(slots, inputs, key=jr.key(1)).attention
    assert not np.allclose(one, other)


@settings(max_examples=5)
@given(seed=seeds, grad_iters=st.sampled_from([None, 2]))
def test_stops_once_the_slots_have_settled(seed, grad_iters):
    layer = calm(grad_iters=grad_iters)
    inputs, slots = normal(seed, 17, 11), normal(seed + 1, 3, 7)
    made = run(layer.converge, inputs, slots=slots, tol=1e-2, max_iters=60)
    last = grad_iters or 1
    before, residuals = slots, []
    for _ in range(int(made.num_iters)):
        after = run(layer.step, before, inputs).slots
        moved = np.linalg.norm(after - before) / np.linalg.norm(after)
        residuals.append(moved)
        before = after
    assert_close(made.state.slots, after)
    np.testing.assert_allclose(made.residual, residuals[-1], rtol=1e-3)
    # The rounds that gradients flow through come on top, and no round too many.
    assert residuals[-1 - last] <= 1e-2
    assert all(residual > 1e-2 for residual in residuals[: -1 - last])


def test_stops_at_the_latest_after_max_iters():
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, 3, 7)
    for max_iters in (1, 4):
        made = run(layer.converge, inputs, slots=slots, tol=0.0, max_iters=max_iters)
        want = run(layer, inputs, slots=slots, num_iters=max_iters)
        assert int(made.num_iters) == max_iters
        assert_close(made.state.slots, want.slots)
        assert_close(made.state.attention, want.attention)
        assert float(made.residual) > 0


def test_each_of_a_batch_stops_by_itself():
    layer, inputs, slots = calm(), normal(0, 3, 17, 11), normal(1, 3, 3, 7)
    call = lambda x, s: layer.converge(x, slots=s, tol=1e-2, max_iters=60)
    mapped = run(jax.vmap(call), inputs, slots)
    for i in range(3):
        one = run(call, inputs[i], slots[i])
        assert int(mapped.num_iters[i]) == int(one.num_iters)
        assert_close(mapped.state.slots[i], one.state.slots)


@pytest.mark.parametrize("straight_through", [True, False])
def test_gradient_of_settled_slots_is_that_of_the_rounds_after(straight_through):
    options = {"grad_iters": 2, "straight_through": straight_through}
    init = LearnedSlots(3, 7, key=jr.key(0))
    layer, inputs = calm(slot_init=init, **options), normal(0, 17, 11)
    weights = normal(9, 3, 7)

    def total(layer, inputs):
        made = layer.converge(inputs, tol=1e-3, max_iters=60)
        return jnp.sum(made.state.slots * weights) + 0 * made.residual

    got = eqx.filter_jit(eqx.filter_grad(total))(layer, inputs)
    made = run(layer.converge, inputs, tol=1e-3, max_iters=60)
    settled = run(layer, inputs, num_iters=int(made.num_iters) - 2).slots
    whole = calm(slot_init=init)  # the same weights, and nothing cut
    whole = eqx.tree_at(lambda m: m.slot_init.slots, whole, settled)

    def after(layer, inputs):
        return jnp.sum(layer(inputs, num_iters=2).slots * weights)

    want = eqx.filter_jit(eqx.filter_grad(after))(whole, inputs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        if a.shape == (3, 7) and not straight_through:
            continue
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    learned = float(jnp.max(jnp.abs(got.slot_init.slots)))
    assert (learned > 0) == straight_through


def test_last_rounds_are_the_neumann_series_of_the_implicit_gradient():
    """At a fixed point, n rounds give the first n terms (Chang et al. 2022)."""
    options = {"mlp_size": 3, "scale": 0.1, "straight_through": False}
    with float64():
        layer = as_float64(calm(**options))
        inputs = normal(0, 5, 11, dtype=jnp.float64)
        slots = normal(1, 3, 7, dtype=jnp.float64)
        made = run(layer.converge, inputs, slots=slots, tol=1e-14, max_iters=4000)
        fixed, upstream = made.state.slots, normal(9, 21, dtype=jnp.float64)
        flat = lambda s, x: layer.step(s.reshape(3, 7), x).slots.ravel()
        jacobian, to_inputs = jax.jit(jax.jacobian(flat, (0, 1)))(fixed.ravel(), inputs)
        assert float(made.residual) < 1e-12

        def got(n):
            cut = as_float64(calm(grad_iters=n, **options))
            total = lambda x: jnp.vdot(
                cut(x, slots=fixed, num_iters=n + 1).slots.ravel(), upstream
            )
            return jax.jit(jax.grad(total))(inputs)

        for n in (1, 2, 5):
            series, term = jnp.zeros_like(upstream), upstream
            for _ in range(n):
                series, term = series + term, term @ jacobian
            want = jnp.einsum("o,oij->ij", series, to_inputs)
            assert largest_error(got(n), want) < 1e-9


def test_settling_needs_no_more_memory_for_more_rounds():
    layer, inputs, slots = calm(), normal(0, 17, 11), normal(1, 3, 7)
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def bytes_of(max_iters):
        def total(params):
            layer = eqx.combine(params, static)
            made = layer.converge(inputs, slots=slots, tol=0.0, max_iters=max_iters)
            return jnp.sum(made.state.slots)

        compiled = jax.jit(jax.grad(total)).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(100) == bytes_of(10)


def test_gradients_are_those_of_the_default_where_nothing_is_cut():
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)
    layer = make(num_iters=3, grad_iters=3)
    got, want = (
        gradient(layer, inputs, slots=slots),
        gradient(make(), inputs, slots=slots),
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_early_rounds_get_their_share_of_the_gradient(share, straight_through):
    with float64():
        inputs = normal(2, 17, 11, dtype=jnp.float64)
        slots = normal(3, 3, 7, dtype=jnp.float64)

        @eqx.filter_jit
        def of(layer, **options):
            total = lambda layer, x, s: jnp.sum(layer(x, slots=s, **options).slots ** 3)
            return eqx.filter_grad(lambda three: total(*three))((layer, inputs, slots))

        options = {"grad_iters": 1, "straight_through": straight_through}
        layer, whole = as_float64(make(**options)), as_float64(make())
        got, cut, all = of(layer, early_gradient=share), of(layer), of(whole)
        for one, last, both in zip(*map(jax.tree.leaves, (got, cut, all)), strict=True):
            want = (1 - share) * last + share * both
            np.testing.assert_allclose(one, want, rtol=1e-10, atol=1e-12)


def test_a_share_of_the_gradient_changes_no_value_and_compiles_once():
    layer, inputs, slots = make(grad_iters=1), normal(2, 17, 11), normal(3, 3, 7)
    traced = []

    @eqx.filter_jit
    def call(layer, share):
        traced.append(share)
        return layer(inputs, slots=slots, early_gradient=share)

    want = run(layer, inputs, slots=slots)
    none, some, all = (call(layer, jnp.asarray(share)) for share in (0.0, 0.3, 1.0))
    assert_close(none.slots, want.slots)
    np.testing.assert_array_equal(some.slots, none.slots)
    np.testing.assert_array_equal(all.slots, none.slots)
    assert len(traced) == 1


class Scaled:
    """A function of one's own, with something of its own."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * jax.nn.relu(x)


SCALED = {
    "partial": lambda factor: partial(lambda x, factor: factor * x, factor=factor),
    "compiled": lambda factor: jax.jit(lambda x: factor * x),
    "default": lambda factor: lambda x, factor=factor: factor * x,
    "object": Scaled,
    "method": lambda factor: Scaled(factor).__call__,
}


@pytest.mark.parametrize("activation", SCALED.values(), ids=SCALED.keys())
def test_what_an_activation_holds_gets_its_gradient(activation):
    layer, inputs, slots = make(num_iters=1), normal(0, 17, 11), normal(1, 3, 7)

    @jax.jit
    @jax.grad
    def gradient(factor):
        where = lambda m: m.mlp.activation
        own = eqx.tree_at(where, layer, activation(factor))
        return jnp.sum(own(inputs, slots=slots).slots ** 2)

    assert abs(float(gradient(1.0))) > 1e-3


def test_activations_that_hold_no_arrays_keep_the_backward_pass():
    layer = make()
    for activation in (
        jax.nn.relu,
        jax.nn.gelu,
        jnp.tanh,
        partial(jax.nn.leaky_relu, negative_slope=0.2),
    ):
        own = eqx.tree_at(lambda m: m.mlp.activation, layer, activation)
        assert has_own_vjp(own)


@pytest.mark.usefixtures("as_users_run")
def test_numbers_of_numpy_count_slots_and_rounds():
    three, two, one = np.arange(3, 0, -1)
    layer = make(num_slots=three, num_iters=two, grad_iters=one)
    inputs, slots = normal(0, 17, 11), normal(1, 3, 7)
    want = run(make(num_iters=2, grad_iters=1), inputs, slots=slots)
    assert_close(run(layer, inputs, slots=slots).slots, want.slots)
    assert_close(layer(inputs, slots=slots, num_iters=two).slots, want.slots)
    for call in (layer.rounds, partial(layer.converge, tol=0.0, max_iters=two)):
        jax.eval_shape(call, inputs, slots=slots)
    assert layer(inputs, num_slots=two, key=jr.key(0)).slots.shape == (2, 7)
