"""Masked equals absent: for outputs, for gradients, and from a key."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings

from eqx_slots.nn import (
    GumbelSoftmax,
    inverted_attention,
    LayerNormSum,
    ScaledMean,
    Sinkhorn,
    Softmax,
    WeightedMean,
    WeightedSum,
)

from .helpers import assert_close, float64, normal, run, seeds
from .test_slot_attention import make


OPTIONS = {
    "default": {"use_qkv_bias": True},
    "heads": {"num_heads": 2, "qkv_size": 6},
    "joint heads": {
        "num_heads": 2,
        "qkv_size": 6,
        "competition": Softmax(over_heads=True),
        "reduction": WeightedMean(eps=0.1),
    },
    "sinkhorn, sum": {"competition": Sinkhorn(), "reduction": WeightedSum()},
    "scaled mean": {"reduction": ScaledMean(3)},
    "layer norm of sum": {"reduction": LayerNormSum(5)},
    "last round": {"grad_iters": 1},
}
SLOTS, INPUTS = 5, 17


def drawn_masks(seed):
    rng = np.random.default_rng(seed)
    return rng.permutation(SLOTS) < 3, rng.permutation(INPUTS) < 11


@eqx.filter_jit
def outcome(layer, inputs, slots, weights, **masks):
    """What comes out, and the gradient of a number made of it."""

    def total(arguments):
        layer, inputs, slots = arguments
        state = layer(inputs, slots=slots, **masks)
        return jnp.sum(state.slots * weights), state

    call = eqx.filter_value_and_grad(total, has_aux=True)
    (_, state), grads = call((layer, inputs, slots))
    return state, grads


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@settings(max_examples=5)
@given(seed=seeds)
def test_masked_equals_absent(options, seed):
    layer = make(seed, **options)
    slot_mask, input_mask = drawn_masks(seed)
    inputs, slots = normal(seed, INPUTS, 11), normal(seed + 1, SLOTS, 7)
    weights = normal(seed + 2, SLOTS, 7)
    # Whatever a masked place holds: not even NaN and infinity get anywhere.
    inputs = jnp.where(input_mask[:, None], inputs, jnp.nan).at[:, 0].min(1e3)
    slots = jnp.where(slot_mask[:, None], slots, jnp.inf)
    got, got_grads = outcome(
        layer,
        inputs,
        slots,
        weights,
        input_mask=jnp.asarray(input_mask),
        slot_mask=jnp.asarray(slot_mask),
    )
    want, want_grads = outcome(
        layer, inputs[input_mask], slots[slot_mask], weights[slot_mask]
    )
    assert_close(got.slots[slot_mask], want.slots)
    assert_close(got.attention[slot_mask][:, input_mask], want.attention)
    np.testing.assert_array_equal(got.slots[~slot_mask], 0)
    np.testing.assert_array_equal(got.attention[~slot_mask], 0)
    np.testing.assert_array_equal(got.attention[:, ~input_mask], 0)

    for got_grad, want_grad, mask in zip(
        got_grads[1:], want_grads[1:], (input_mask, slot_mask)
    ):
        np.testing.assert_array_equal(got_grad[~mask], 0)
        np.testing.assert_allclose(got_grad[mask], want_grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(jax.tree.leaves(got_grads[0]), jax.tree.leaves(want_grads[0])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("competition", [Softmax(), GumbelSoftmax()])
@settings(max_examples=5)
@given(seed=seeds)
def test_padding_equals_absent_from_a_key(competition, seed):
    layer, inputs = make(competition=competition), normal(seed, INPUTS, 11)
    padded = run(
        layer,
        inputs,
        num_slots=SLOTS,
        input_mask=jnp.arange(INPUTS) < 11,
        slot_mask=jnp.arange(SLOTS) < 3,
        key=jr.key(seed),
    )
    short = run(layer, inputs[:11], num_slots=3, key=jr.key(seed))
    assert_close(padded.slots[:3], short.slots)
    assert_close(padded.attention[:3, :11], short.attention)


@settings(max_examples=5)
@given(seed=seeds)
def test_rounds_steps_and_convergence_take_masks_too(seed):
    layer, inputs, slots = make(), normal(seed, INPUTS, 11), normal(seed, SLOTS, 7)
    slot_mask, input_mask = map(jnp.asarray, drawn_masks(seed))
    masks = {"input_mask": input_mask, "slot_mask": slot_mask}
    inputs = jnp.where(input_mask[:, None], inputs, jnp.nan)
    want = run(layer, inputs, slots=slots, **masks)
    rounds = run(layer.rounds, inputs, slots=slots, **masks)
    assert_close(rounds.slots[-1], want.slots)
    stepped = slots
    for _ in range(3):
        stepped = run(layer.step, stepped, inputs, **masks).slots
    assert_close(stepped, want.slots)
    made = run(layer.converge, inputs, slots=slots, tol=0.0, max_iters=3, **masks)
    assert_close(made.state.slots, want.slots)


def test_nothing_but_masks_is_finite():
    layer, inputs, slots = make(), normal(0, INPUTS, 11), normal(1, SLOTS, 7)
    weights = jnp.ones((SLOTS, 7))
    none = {"inputs": jnp.zeros(INPUTS, bool), "slots": jnp.zeros(SLOTS, bool)}
    for masks in (
        {"input_mask": none["inputs"]},
        {"slot_mask": none["slots"]},
        {"input_mask": none["inputs"], "slot_mask": none["slots"]},
    ):
        state, grads = outcome(layer, inputs, slots, weights, **masks)
        np.testing.assert_array_equal(state.attention, np.zeros((SLOTS, INPUTS)))
        for leaf in jax.tree.leaves((state, grads)):
            assert bool(jnp.all(jnp.isfinite(leaf)))
        if "slot_mask" in masks:
            np.testing.assert_array_equal(state.slots, np.zeros((SLOTS, 7)))
    # With nothing to attend to, a slot is only updated by zero.
    once = layer.step(slots, inputs, input_mask=none["inputs"]).slots
    slot = layer.cell(jnp.zeros(5), slots[0])
    assert_close(once[0], slot + layer.mlp(layer.norm_mlp(slot)))


def test_changing_a_mask_never_recompiles():
    call = eqx.filter_jit(
        eqx.debug.assert_max_traces(
            lambda m, x, s, a, b: m(x, slots=s, input_mask=a, slot_mask=b),
            max_traces=1,
        )
    )
    inputs, slots = normal(0, INPUTS, 11), normal(1, SLOTS, 7)
    for seed in range(3):
        slot_mask, input_mask = map(jnp.asarray, drawn_masks(seed))
        call(make(), inputs, slots, input_mask, slot_mask)


def test_masks_are_mapped_by_vmap():
    layer, inputs, slots = make(), normal(0, 2, INPUTS, 11), normal(1, 2, SLOTS, 7)
    masks = [drawn_masks(seed) for seed in range(2)]
    slot_masks, input_masks = map(jnp.asarray, map(np.stack, zip(*masks)))
    mapped = run(
        jax.vmap(lambda x, s, a, b: layer(x, slots=s, input_mask=a, slot_mask=b)),
        inputs,
        slots,
        input_masks,
        slot_masks,
    )
    for i in range(2):
        one = run(
            layer,
            inputs[i],
            slots=slots[i],
            input_mask=input_masks[i],
            slot_mask=slot_masks[i],
        )
        assert_close(mapped.slots[i], one.slots)


def test_half_precision_is_masked_too():
    layer, inputs, slots = make(), normal(0, INPUTS, 11), normal(1, SLOTS, 7)
    slot_mask, input_mask = map(jnp.asarray, drawn_masks(0))
    masks = {"input_mask": input_mask, "slot_mask": slot_mask}
    got = run(layer, inputs.astype(jnp.bfloat16), slots=slots, **masks)
    want = run(layer, inputs, slots=slots, **masks)
    assert got.slots.dtype == jnp.bfloat16
    assert_close(got.slots, want.slots, jnp.bfloat16)


@pytest.mark.parametrize("heads", [(), (2,)])
def test_attention_of_pairs(heads):
    """A mask need not be one of slots and one of inputs."""
    q, k, v = (
        normal(0, *heads, 3, 5),
        normal(1, *heads, 17, 5),
        normal(2, *heads, 17, 4),
    )
    mask = jnp.asarray(np.random.default_rng(0).random((3, 17)) < 0.6)
    mask = mask.at[:, 5].set(False)
    k, v = k.at[..., 5, :].set(jnp.nan), v.at[..., 5, :].set(jnp.inf)

    def total(q, k, v):
        got = inverted_attention(q, k, v, mask=mask)
        return jnp.sum(got.updates), got

    call = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
    (_, got), grads = jax.jit(call)(q, k, v)
    for n in range(17):
        allowed = mask[:, n]
        logits = np.einsum("...kd,...d->...k", q, k[..., n, :]) / 5**0.5
        share = np.where(allowed, np.exp(logits), 0)
        if allowed.any():  # else nobody gets any of it
            share = share / share.sum(-1, keepdims=True)
        np.testing.assert_allclose(got.attention[..., n], share, rtol=1e-4)
    for grad in grads:
        assert bool(jnp.all(jnp.isfinite(grad)))


@pytest.mark.parametrize("heads", [(), (2,)], ids=["no heads", "heads"])
@pytest.mark.usefixtures("as_users_run")
def test_an_array_that_does_not_fit_is_named_with_its_axes(heads):
    q, k = normal(0, *heads, 3, 5), normal(1, *heads, 17, 5)
    v, mask = normal(2, *heads, 17, 4), jnp.ones((3, 17), bool)
    axes, sizes = ("heads=2, ", "2, ") if heads else ("", "")
    cure = (
        " A batch is mapped by the caller; did you mean"
        " `jax.vmap(inverted_attention)(q, k, v)`?"
    )
    mistakes = [
        ((q[..., :4], k, v, mask), ("q", f"{axes}slots, size=5", f"{sizes}3, 4"), ""),
        ((q, k[None], v, mask), ("k", f"{axes}inputs, size", f"1, {sizes}17, 5"), cure),
        (
            (q, k, v[None], mask),
            ("v", f"{axes}inputs=17, value_size", f"1, {sizes}17, 4"),
            cure,
        ),
        ((q, k, v, mask[0]), ("mask", "slots=3, inputs=17", "17,"), ""),
    ]
    if heads:
        wanted = ("q", "heads=2, slots, size=5", "1, 2, 3, 5")
        mistakes.append(((q[None], k, v, mask), wanted, cure))
    for (*arrays, mask), (name, wanted, got), end in mistakes:
        with pytest.raises(ValueError) as caught:
            inverted_attention(*arrays, mask=mask)
        message = f"`{name}` must have shape ({wanted}), got ({got}).{end}"
        assert str(caught.value) == message


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_parts_are_handed_scale_mask_and_key_in_float32(dtype):
    q, k, v = (normal(0, *shape).astype(dtype) for shape in ((3, 5), (17, 5), (17, 4)))
    mask, key, seen = jnp.ones((3, 17), bool), jr.key(0), {}

    def competition(logits, *, mask, key):
        seen.update(logits=logits, mask=mask, key=key)
        return logits

    def reduction(attention, values, *, mask):
        seen.update(values=values, same_mask=mask)
        return attention[:, :4]

    parts = {"competition": competition, "reduction": reduction}
    # Where float64 is the default it is not what the sums run in.
    with float64():
        got = inverted_attention(q, k, v, scale=0.3, **parts, mask=mask, key=key)
    assert seen["logits"].dtype == seen["values"].dtype == jnp.float32
    assert got.updates.dtype == got.attention.dtype == dtype
    assert_close(seen["logits"], 0.3 * np.einsum("kd,nd->kn", q, k, dtype=np.float32))
    assert seen["mask"] is seen["same_mask"] is mask
    assert seen["key"] is key
