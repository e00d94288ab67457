from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqx_slots.nn import (
    inverted_attention,
    LearnedSlots,
    SlotAttention,
    Softmax,
    WeightedMean,
)

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    float64,
    largest_error,
    normal,
    run,
    seeds,
)


def make(seed=0, input_size=11, slot_size=7, **options):
    options = {"num_slots": 3, "num_iters": 3, "mlp_size": 13, "qkv_size": 5} | options
    return built(partial(SlotAttention, input_size, slot_size, **options), seed)


VARIANTS = {
    "plain": {},
    "no MLP": {"mlp_size": None},
    "biases": {"use_qkv_bias": True},
    "own scale": {"scale": 0.3},
    "one round": {"num_iters": 1},
    "equinox weights": {"weight_init": "equinox"},
    "same sizes": {"qkv_size": None},
    "heads": {"num_heads": 2, "qkv_size": 6},
    "heads without projection": {
        "num_heads": 2,
        "qkv_size": 6,
        "use_output_proj": False,
    },
    "one head with projection": {"use_output_proj": True},
    "joint heads": {
        "num_heads": 3,
        "qkv_size": 6,
        "use_output_proj": False,
        "competition": Softmax(over_heads=True),
    },
    "epsilon in the sum": {"reduction": WeightedMean(eps=0.5, eps_in="sum")},
}


def written_out(layer, inputs, slots):
    options = {"over_heads": layer.competition.over_heads}
    if layer.reduction.eps_in == "sum":
        options["update"] = lambda weights, values: (
            sum(w * v for w, v in zip(weights, values)) / (0.5 + sum(weights))
        )
    return reference.slot_attention(layer, inputs, slots, **options)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_agrees_with_the_paper_in_float32(options):
    layer = make(seed=1, **options)
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)
    got = run(layer, inputs, slots=slots)
    want_slots, want_attention = written_out(layer, inputs, slots)
    assert largest_error(got.slots, want_slots) <= 1e-5
    assert largest_error(got.attention, want_attention) <= 1e-5


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_agrees_with_the_paper_in_float64(options):
    layer = make(seed=1, **options)
    with float64():
        layer = as_float64(layer)
        inputs = normal(2, 17, 11, dtype=jnp.float64)
        slots = normal(3, 3, 7, dtype=jnp.float64)
        got = run(layer, inputs, slots=slots)
        assert got.slots.dtype == got.attention.dtype == jnp.float64
        want_slots, want_attention = written_out(layer, inputs, slots)
    assert largest_error(got.slots, want_slots) <= 1e-12
    assert largest_error(got.attention, want_attention) <= 1e-12


@given(seed=seeds, num_slots=st.sampled_from([1, 2, 5]))
def test_permuting_slots_permutes_the_result(seed, num_slots):
    layer, inputs = make(seed), normal(seed, 17, 11)
    slots = normal(seed + 1, num_slots, 7)
    order = jr.permutation(jr.key(seed), num_slots)
    straight, permuted = (
        run(layer, inputs, slots=slots),
        run(layer, inputs, slots=slots[order]),
    )
    assert_close(permuted.slots, straight.slots[order])
    assert_close(permuted.attention, straight.attention[order])


@given(seed=seeds)
def test_permuting_inputs_changes_nothing(seed):
    layer, inputs, slots = make(), normal(seed, 17, 11), normal(seed + 1, 3, 7)
    order = jr.permutation(jr.key(seed), 17)
    straight, permuted = (
        run(layer, inputs, slots=slots),
        run(layer, inputs[order], slots=slots),
    )
    assert_close(permuted.slots, straight.slots)
    assert_close(permuted.attention, straight.attention[:, order])


@given(seed=seeds)
def test_doubling_every_input_changes_no_slot(seed):
    layer, inputs, slots = make(), normal(seed, 17, 11), normal(seed + 1, 3, 7)
    doubled = jnp.concatenate([inputs, inputs])
    assert_close(
        run(layer, doubled, slots=slots).slots, run(layer, inputs, slots=slots).slots
    )


@given(seed=seeds, num_slots=st.sampled_from([1, 2, 5]))
def test_attention_sums_to_one_over_slots(seed, num_slots):
    layer = make(seed)
    state = run(layer, normal(seed, 17, 11), num_slots=num_slots, key=jr.key(seed))
    assert state.slots.shape[0] == num_slots
    assert bool(jnp.all(state.attention >= 0))
    assert_close(jnp.sum(state.attention, axis=0), np.ones(17))


def test_one_slot_takes_the_mean_of_the_values():
    q, k, v = normal(0, 1, 5), normal(1, 17, 5), normal(2, 17, 3)
    updates, attention = inverted_attention(q, k, v)
    assert_close(attention, np.ones((1, 17)))
    assert_close(updates, np.mean(v, axis=0, keepdims=True))


@given(seed=seeds)
def test_identical_slots_stay_identical(seed):
    layer = make()
    slots = jnp.tile(normal(seed, 1, 7), (3, 1))
    got = run(layer, normal(seed + 1, 17, 11), slots=slots).slots
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], got[2])


@eqx.filter_jit
def run_each(layer, inputs, keys):
    return jax.vmap(lambda x, key: layer(x, key=key))(inputs, keys)


@given(seed=seeds)
def test_vmap_equals_a_loop(seed):
    layer, inputs, keys = make(), normal(seed, 2, 17, 11), jr.split(jr.key(seed), 2)
    mapped = run_each(layer, inputs, keys)
    for i in range(2):
        one = run(layer, inputs[i], key=keys[i])
        assert_close(mapped.slots[i], one.slots)
        assert_close(mapped.attention[i], one.attention)


@settings(max_examples=3)
@given(seed=seeds)
def test_jit_equals_eager(seed):
    layer, inputs, key = make(), normal(seed, 17, 11), jr.key(seed)
    got, want = run(layer, inputs, key=key), layer(inputs, key=key)
    assert_close(got.slots, want.slots)
    assert_close(got.attention, want.attention)


def test_same_key_same_slots_and_other_key_other_slots():
    layer, inputs = make(), normal(0, 17, 11)
    first, again = run(layer, inputs, key=jr.key(1)), run(layer, inputs, key=jr.key(1))
    np.testing.assert_array_equal(first.slots, again.slots)
    assert not np.allclose(first.slots, run(layer, inputs, key=jr.key(2)).slots)


def test_the_rounds_are_steps():
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, 3, 7)
    state = layer.step(slots, inputs)
    for _ in range(3):
        state = layer.step(state.slots, inputs)
    want = run(layer, inputs, slots=slots, num_iters=4)
    assert_close(state.slots, want.slots)
    assert_close(state.attention, want.attention)


@pytest.mark.usefixtures("as_users_run")
def test_numpy_arrays_of_float64_are_taken_without_a_warning():
    layer, inputs = make(), np.random.default_rng(0).normal(size=(17, 11))
    got = layer(inputs, slots=np.ones((3, 7)))
    want = layer(jnp.asarray(inputs, jnp.float32), slots=jnp.ones((3, 7)))
    assert got.slots.dtype == jnp.float32
    assert_close(got.slots, want.slots)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_half_precision_is_kept_and_finite(dtype, size):
    layer = make()
    inputs, slots = size * normal(0, 17, 11), normal(1, 3, 7)
    got = run(layer, inputs.astype(dtype), slots=slots)
    assert got.slots.dtype == got.attention.dtype == dtype
    want = run(layer, inputs, slots=slots)
    assert_close(got.slots, want.slots, dtype=jnp.bfloat16)
    assert bool(jnp.all(jnp.isfinite(got.attention)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_same_slots_are_drawn_whatever_the_inputs(dtype):
    layer, inputs = make(num_iters=1), normal(0, 17, 11)
    got = run(layer, inputs.astype(dtype), key=jr.key(1))
    assert_close(got.slots, run(layer, inputs, key=jr.key(1)).slots, jnp.bfloat16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_slot_that_wins_nothing_stays_finite_in_half_precision(dtype):
    """The epsilon of 1e-8 is zero in float16: it has to be added in float32."""
    q = jnp.array([[1e2], [-1e2]], dtype)
    k = jnp.full((17, 1), 1e2, dtype)
    v = normal(0, 17, 3).astype(dtype)
    updates, attention = inverted_attention(q, k, v)
    assert updates.dtype == attention.dtype == dtype
    np.testing.assert_array_equal(attention[1], np.zeros(17))
    assert_close(updates[1], np.mean(np.asarray(v, np.float64), axis=0), dtype)


def gradient(layer, inputs, **options):
    weights = normal(9, 3, 7)

    def total(layer, inputs):
        return jnp.sum(run(layer, inputs, **options).slots * weights)

    return eqx.filter_grad(total)(layer, inputs)


@pytest.mark.parametrize("joint", [False, True], ids=["each head", "joint heads"])
def test_every_parameter_learns_except_the_bias_that_cancels(joint):
    competition = Softmax(over_heads=joint)
    options = {"num_heads": 2, "qkv_size": 6, "competition": competition}
    layer = make(seed=1, use_qkv_bias=True, **options)
    grads = gradient(layer, normal(2, 17, 11), key=jr.key(3))
    # The heads get shifts of their own, which tell them apart where they compete.
    cancels = set() if joint else {".norm_slots.bias", ".query_proj.bias"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        largest = float(jnp.max(jnp.abs(leaf)))
        assert (largest < 1e-5) == (name in cancels), (name, largest)


def test_gradient_through_the_last_rounds_alone():
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)
    layer = make(seed=1, num_iters=4, grad_iters=2)
    whole = make(seed=1, num_iters=2)
    after_two = run(whole, inputs, slots=slots).slots
    got = gradient(layer, inputs, slots=slots)
    want = gradient(whole, inputs, slots=after_two)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("straight_through", [True, False])
def test_initial_slots_learn_from_the_last_round_only_straight_through(
    straight_through,
):
    layer = make(
        slot_init=LearnedSlots(3, 7, key=jr.key(5)),
        grad_iters=1,
        straight_through=straight_through,
    )
    inputs = normal(2, 17, 11)
    got = gradient(layer, inputs).slot_init.slots
    if not straight_through:
        np.testing.assert_array_equal(got, np.zeros((3, 7)))
        return
    before_last = run(layer, inputs, num_iters=2).slots
    weights = normal(9, 3, 7)
    want = jax.grad(lambda s: jnp.sum(layer.step(s, inputs).slots * weights))(
        before_last
    )
    assert_close(got, want)


def test_cutting_gradients_changes_no_value():
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)
    want = run(make(), inputs, slots=slots)
    for grad_iters in (1, 2, 3, 5):
        got = run(make(grad_iters=grad_iters), inputs, slots=slots)
        assert_close(got.slots, want.slots)
        assert_close(got.attention, want.attention)


def test_own_parts_are_used():
    layer = make(
        slot_init=lambda num_slots, *, key: jnp.ones((num_slots, 7)),
        competition=lambda logits, *, mask, key: jnp.full_like(logits, 0.25),
        reduction=lambda attention, values, *, mask: attention @ values,
    )
    layer = eqx.tree_at(lambda m: m.cell, layer, lambda update, slot: update[:1] + slot)
    state = run(layer, normal(0, 17, 11), num_iters=1)
    np.testing.assert_array_equal(state.attention, np.full((3, 17), 0.25))
    normed = jax.vmap(layer.norm_inputs)(normal(0, 17, 11))
    total = 0.25 * jnp.sum(jax.vmap(layer.value_proj)(normed), axis=0)[0]
    slot = jnp.ones(7) + total
    want = slot + layer.mlp(layer.norm_mlp(slot))
    assert_close(state.slots, np.tile(want, (3, 1)))
    cold = make(competition=Softmax(temperature=1e-3))
    sharp = run(cold, normal(0, 17, 11), key=jr.key(1)).attention
    assert float(jnp.mean(jnp.max(sharp, axis=0))) > 0.9
    attention, values = jnp.array([[0.0, 1.0]]), jnp.array([[2.0], [5.0]])
    assert_close(WeightedMean(eps=1.0)(attention, values), [[(1 * 2 + 2 * 5) / 3]])


def test_one_trace_for_many_calls():
    call = eqx.filter_jit(
        eqx.debug.assert_max_traces(lambda m, x, key: m(x, key=key), max_traces=1)
    )
    for seed in range(3):
        call(make(seed), normal(seed, 17, 11), jr.key(seed))
