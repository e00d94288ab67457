import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.test_util import check_grads

from eqx_slots.nn import (
    GaussianSlots,
    inverted_attention,
    LearnedSlots,
    paper_weights,
    SlotAttention,
    Softmax,
    WeightedMean,
)

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    check_fields,
    float64,
    largest_error,
    normal,
    num_parameters,
    run,
    seeds,
)


def make(seed=0, input_size=11, slot_size=7, **options):
    options = {"num_slots": 3, "num_iters": 3, "mlp_size": 13, "qkv_size": 5} | options
    return built(partial(SlotAttention, input_size, slot_size, **options), seed)


def official(**options):
    """With the weights that the layer itself draws."""
    return SlotAttention(11, 7, num_slots=3, **options, key=jr.key(0))


VARIANTS = {
    "plain": {},
    "no MLP": {"mlp_size": None},
    "biases": {"use_qkv_bias": True},
    "own scale": {"scale": 0.3},
    "one round": {"num_iters": 1},
    "equinox weights": {"weight_init": "equinox"},
    "same sizes": {"qkv_size": None},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_agrees_with_the_paper_in_float32(options):
    layer = make(seed=1, **options)
    inputs, slots = normal(2, 17, 11), normal(3, 3, 7)
    got = run(layer, inputs, slots=slots)
    want_slots, want_attention = reference.slot_attention(layer, inputs, slots)
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
        want_slots, want_attention = reference.slot_attention(layer, inputs, slots)
    assert largest_error(got.slots, want_slots) <= 1e-12
    assert largest_error(got.attention, want_attention) <= 1e-12


def test_gradients_to_second_order():
    with float64():
        layer = as_float64(make(seed=1, mlp_size=3))
        # ReLU has no second derivative at its corner; tanh has one everywhere.
        layer = eqx.tree_at(lambda m: m.mlp.activation, layer, jnp.tanh)
        params, static = eqx.partition(layer, eqx.is_inexact_array)
        inputs = normal(2, 5, 11, dtype=jnp.float64)
        slots = normal(3, 3, 7, dtype=jnp.float64)

        def forward(*args):
            params, inputs, slots = jax.tree.map(jnp.asarray, args)
            return tuple(eqx.combine(params, static)(inputs, slots=slots))

        check_grads(jax.jit(forward), (params, inputs, slots), order=2)


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


@given(seed=seeds)
def test_vmap_equals_a_loop(seed):
    layer, inputs, keys = make(), normal(seed, 2, 17, 11), jr.split(jr.key(seed), 2)
    mapped = run(jax.vmap(lambda x, key: layer(x, key=key)), inputs, keys)
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


def test_every_parameter_learns_except_the_bias_that_cancels():
    layer = make(seed=1, use_qkv_bias=True)
    grads = gradient(layer, normal(2, 17, 11), key=jr.key(3))
    cancels = {".norm_slots.bias", ".query_proj.bias"}
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


def test_gaussian_slots_have_their_mean_and_scale():
    wide = GaussianSlots(64, key=jr.key(0))
    for leaf in (wide.mean, wide.log_scale):
        largest = float(jnp.max(jnp.abs(leaf)))
        assert 0.9 * (6 / 65) ** 0.5 < largest <= (6 / 65) ** 0.5
    init = GaussianSlots(5, key=jr.key(0))
    drawn = np.asarray(init(40_000, key=jr.key(1)))
    np.testing.assert_allclose(drawn.mean(0), init.mean, atol=0.05)
    np.testing.assert_allclose(drawn.std(0), jnp.exp(init.log_scale), rtol=0.02)


def test_learned_slots_are_given_in_order_without_a_key():
    init = LearnedSlots(5, 7, key=jr.key(0))
    np.testing.assert_array_equal(init(5), init.slots)
    np.testing.assert_array_equal(init(3), init.slots[:3])
    many = LearnedSlots(100, 100, key=jr.key(0)).slots
    assert abs(float(jnp.std(many)) - 1) < 0.03
    layer = make(num_slots=5, slot_init=init)
    assert run(layer, normal(0, 17, 11), num_slots=2).slots.shape == (2, 7)


def test_paper_weights():
    layer = official()
    for proj in (layer.query_proj, layer.key_proj, layer.value_proj):
        assert proj.bias is None
        limit = (6 / sum(proj.weight.shape)) ** 0.5
        assert 0.8 * limit < float(jnp.max(jnp.abs(proj.weight))) <= limit
    cell = layer.cell
    assert_close(np.einsum("gi,gj->ij", cell.weight_hh, cell.weight_hh), np.eye(7))
    limit = (6 / sum(cell.weight_ih.shape)) ** 0.5
    assert 0.8 * limit < float(jnp.max(jnp.abs(cell.weight_ih))) <= limit
    for bias in (cell.bias, cell.bias_n, *(x.bias for x in layer.mlp.layers)):
        np.testing.assert_array_equal(bias, np.zeros(bias.shape))
    norms = (layer.norm_inputs, layer.norm_slots, layer.norm_mlp)
    assert [norm.eps for norm in norms] == [1e-3] * 3
    assert bool(jnp.any(official(weight_init="equinox").cell.bias != 0))


def test_paper_weights_reach_every_layer_of_equinox():
    layers = (
        eqx.nn.Linear(7, 11, key=jr.key(0)),
        eqx.nn.Conv2d(7, 11, 3, key=jr.key(1)),
        eqx.nn.ConvTranspose2d(7, 11, 3, key=jr.key(2)),
        eqx.nn.LayerNorm(7),
    )
    drawn = paper_weights(layers, key=jr.key(3))
    for layer, new in zip(layers[:3], drawn):
        np.testing.assert_array_equal(new.bias, np.zeros(new.bias.shape))
        assert not np.allclose(layer.weight, new.weight)
        taps = layer.weight[0, 0].size
        limit = (6 / (18 * taps)) ** 0.5
        assert 0.8 * limit < float(jnp.max(jnp.abs(new.weight))) <= limit
    assert eqx.tree_equal(drawn[3], layers[3])


def test_defaults_are_those_of_the_paper():
    layer = built(partial(SlotAttention, 11, 7, num_slots=3))
    assert (layer.num_iters, layer.grad_iters, layer.scale) == (3, None, None)
    assert layer.reduction.eps == 1e-8
    assert layer.competition.temperature == 1
    assert layer.mlp.width_size == 128
    assert isinstance(layer.slot_init, GaussianSlots)


def test_number_of_parameters_of_the_official_layer():
    layer = built(partial(SlotAttention, 64, 64, num_slots=7))
    assert num_parameters(layer) == 54_208


def test_fields_hold_what_they_say():
    for module in (GaussianSlots(5, key=jr.key(0)), LearnedSlots(3, 5, key=jr.key(0))):
        check_fields(module)


def test_own_parts_are_used():
    layer = make(
        slot_init=lambda num_slots, *, key: jnp.ones((num_slots, 7)),
        competition=lambda logits: jnp.full_like(logits, 0.25),
        reduction=lambda attention, values: attention @ values,
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


@pytest.mark.usefixtures("as_users_run")
def test_the_cure_for_a_batch_works():
    layer, inputs = make(), normal(0, 2, 17, 11)
    with pytest.raises(ValueError, match="did you mean") as caught:
        layer(inputs, key=jr.key(0))
    (cure,) = re.findall("did you mean `(.*)`", str(caught.value))
    names = {"jax": jax, "layer": layer, "inputs": inputs, "key": jr.key(0)}
    assert eval(cure, names).slots.shape == (2, 3, 7)


def good_inputs():
    return normal(0, 17, 11)


MISTAKES = {
    "batched": (lambda m: m(normal(0, 2, 17, 11), key=jr.key(0)), "jax.vmap"),
    "one vector": (lambda m: m(normal(0, 11), key=jr.key(0)), "inputs, input_size=11"),
    "width": (lambda m: m(normal(0, 17, 10), key=jr.key(0)), r"\(17, 10\)"),
    "empty": (lambda m: m(normal(0, 0, 11), key=jr.key(0)), "empty set"),
    "integers": (lambda m: m(jnp.ones((17, 11), int), key=jr.key(0)), "astype"),
    "no key": (lambda m: m(good_inputs()), "pass `key="),
    "no slots": (lambda m: m(good_inputs(), num_slots=0, key=jr.key(0)), "num_slots"),
    "no rounds": (lambda m: m(good_inputs(), num_iters=0, key=jr.key(0)), "num_iters"),
    "slot width": (lambda m: m(good_inputs(), slots=normal(0, 3, 6)), "slot_size=7"),
    "given none": (lambda m: m(good_inputs(), slots=normal(0, 0, 7)), "num_slots"),
    "both": (
        lambda m: m(good_inputs(), slots=normal(0, 3, 7), num_slots=2),
        "only one of the two",
    ),
    "step width": (lambda m: m.step(normal(0, 3, 7), normal(0, 17, 9)), "=11"),
    "batched step": (
        lambda m: m.step(normal(0, 3, 7), normal(0, 2, 17, 11)),
        "jax.vmap",
    ),
    "query width": (
        lambda m: inverted_attention(normal(0, 3, 4), normal(0, 5, 6), normal(0, 5, 2)),
        "`q` must have shape",
    ),
    "batched keys": (
        lambda m: inverted_attention(*[normal(0, 2, 3, 4)] * 3),
        r"jax.vmap\(inverted_attention\)",
    ),
    "fewer values": (
        lambda m: inverted_attention(normal(0, 3, 4), normal(0, 5, 4), normal(0, 6, 2)),
        "`v` must have shape",
    ),
    "draw none": (
        lambda m: GaussianSlots(7, key=jr.key(0))(0, key=jr.key(0)),
        "`num_slots` must be",
    ),
    "give fewer than none": (
        lambda m: LearnedSlots(3, 7, key=jr.key(0))(-1),
        "`num_slots` must be",
    ),
    "slots 0": (lambda m: make(num_slots=0), "`num_slots` must be a positive"),
    "size": (lambda m: make(input_size=-1), "`input_size` must be a positive"),
    "true": (lambda m: make(num_iters=True), "`num_iters` must be a positive"),
    "mlp": (lambda m: make(mlp_size=0), "`mlp_size` must be a positive"),
    "qkv": (lambda m: make(qkv_size=0), "`qkv_size` must be a positive"),
    "grad": (lambda m: make(grad_iters=0), "`grad_iters` must be a positive"),
    "weights": (lambda m: make(weight_init="keras"), "weight_init"),
    "conflict": (
        lambda m: make(slot_init=LearnedSlots(4, 7, key=jr.key(0))),
        "pass num_slots=4",
    ),
    "init width": (
        lambda m: make(slot_init=GaussianSlots(6, key=jr.key(0))),
        r"shape \(3, 7\)",
    ),
    "too many": (
        lambda m: LearnedSlots(3, 7, key=jr.key(0))(4),
        "at most 3",
    ),
    "temperature": (lambda m: Softmax(temperature=0.0), "temperature"),
    "eps": (lambda m: WeightedMean(eps=-1.0), "eps"),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.usefixtures("as_users_run")
def test_mistakes_get_an_error_that_names_the_cure(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call(make())
