"""What a user gets wrong is answered by the library, with the cure."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.nn import (
    GaussianSlots,
    GivenSlots,
    GumbelSoftmax,
    inverted_attention,
    LayerNormSum,
    LearnedGaussianSlots,
    LearnedSlots,
    ScaledMean,
    Sinkhorn,
    SlotAttention,
    Softmax,
    WeightedMean,
)

from .helpers import normal
from .test_slot_attention import make


@pytest.mark.usefixtures("as_users_run")
def test_the_cure_for_a_batch_works():
    layer, inputs = make(), normal(0, 2, 17, 11)
    with pytest.raises(ValueError, match="did you mean") as caught:
        layer(inputs, key=jr.key(0))
    (cure,) = re.findall("did you mean `(.*?)`", str(caught.value))
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
        lambda m: inverted_attention(*[normal(0, 2, 2, 3, 4)] * 3),
        r"jax.vmap\(inverted_attention\)",
    ),
    "integers as queries": (
        lambda m: inverted_attention(
            jnp.ones((3, 4), int), normal(0, 5, 4), normal(0, 5, 2)
        ),
        "`q` must be floating point, got int",
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
    "eps in": (lambda m: WeightedMean(eps_in="slots"), "eps_in"),
    "no number": (lambda m: SlotAttention(11, 7, key=jr.key(0)), "`num_slots` is"),
    "heads": (lambda m: make(num_heads=0), "`num_heads` must be a positive"),
    "uneven heads": (lambda m: make(num_heads=2, qkv_size=5), "must divide"),
    "given slots": (lambda m: make(slot_init=GivenSlots()), "pass `slots="),
    "given slots, called": (
        lambda m: make(num_slots=None, slot_init=GivenSlots())(good_inputs()),
        "pass the initial slots",
    ),
    "mask of numbers": (
        lambda m: m(good_inputs(), input_mask=jnp.ones(17), key=jr.key(0)),
        "`input_mask` must be boolean.*input_mask > 0.5",
    ),
    "mask too long": (
        lambda m: m(good_inputs(), input_mask=jnp.ones(16, bool), key=jr.key(0)),
        r"`input_mask` must have shape \(inputs=17\), got \(16,\)",
    ),
    "slot mask too long": (
        lambda m: m(good_inputs(), slot_mask=jnp.ones(4, bool), key=jr.key(0)),
        r"`slot_mask` must have shape \(slots=3\)",
    ),
    "batched mask": (
        lambda m: m(good_inputs(), input_mask=jnp.ones((2, 17), bool), key=jr.key(0)),
        "did you mean .*input_mask=m",
    ),
    "pair mask": (
        lambda m: inverted_attention(*[normal(0, 3, 4)] * 3, mask=jnp.ones(3, bool)),
        "`mask` must have shape",
    ),
    "no noise without a key": (
        lambda m: make(competition=GumbelSoftmax())(
            good_inputs(), slots=normal(0, 3, 7)
        ),
        "GumbelSoftmax.*inference_mode",
    ),
    "marginal of zero": (lambda m: Sinkhorn(slot_marginals=(1.0, 0.0)), "slot_mask"),
    "sinkhorn rounds": (lambda m: Sinkhorn(num_iters=0), "`num_iters` must be"),
    "marginals of others": (
        lambda m: make(competition=Sinkhorn(slot_marginals=(1.0, 2.0))),
        "for 2 slots, but 3 compete",
    ),
    "scaled from none": (lambda m: ScaledMean(0), "`num_slots` must be"),
    "competition of another call": (
        lambda m: make(competition=jax.nn.sigmoid),
        r"`competition\(logits, mask=mask, key=key\)`, got sigmoid: .*'mask'; give",
    ),
    "a class": (
        lambda m: make(competition=Softmax),
        r"`competition` must be callable as .* got Softmax: .* an instance",
    ),
    "competition of another shape": (
        lambda m: make(competition=lambda logits, *, mask, key: logits[0]),
        r"`competition` must give an array of shape \(3, 2\)",
    ),
    "reduction of another shape": (
        lambda m: make(reduction=lambda attention, values, *, mask: values),
        r"`reduction` must give an array of shape \(3, 5\)",
    ),
    "layer norm of another width": (
        lambda m: make(reduction=LayerNormSum(4)),
        "(?i)shape",
    ),
    "more than all of the gradient": (
        lambda m: m(good_inputs(), early_gradient=1.5, key=jr.key(0)),
        r"`early_gradient` must lie in \[0, 1\], got 1.5",
    ),
    "more than all, by NumPy": (
        lambda m: m(good_inputs(), early_gradient=np.float32(1.5), key=jr.key(0)),
        r"`early_gradient` must lie in \[0, 1\], got 1.5",
    ),
    "a share for each slot": (
        lambda m: m(good_inputs(), early_gradient=jnp.ones(3), key=jr.key(0)),
        r"`early_gradient` must be one number.*got shape \(3,\)",
    ),
    "stop at less than none": (
        lambda m: m.converge(good_inputs(), tol=-1.0, max_iters=3, key=jr.key(0)),
        "`tol` must not be negative",
    ),
    "stop before the gradient": (
        lambda m: make(grad_iters=3).converge(
            good_inputs(), tol=0.1, max_iters=2, key=jr.key(0)
        ),
        "at least grad_iters=3",
    ),
    "stop at once": (
        lambda m: m.converge(good_inputs(), tol=0.1, max_iters=0, key=jr.key(0)),
        "`max_iters` must be a positive",
    ),
    "noise without a key": (
        lambda m: LearnedGaussianSlots(3, 7, key=jr.key(0))(3),
        "LearnedGaussianSlots.*pass `key=",
    ),
    "too many noisy": (
        lambda m: LearnedGaussianSlots(3, 7, key=jr.key(0))(4, key=jr.key(0)),
        "at most 3",
    ),
    "no noise": (
        lambda m: LearnedGaussianSlots(3, 7, scale=0.0, key=jr.key(0)),
        "without noise are `LearnedSlots`",
    ),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.usefixtures("as_users_run")
def test_mistakes_get_an_error_that_names_the_cure(case):
    call, message = case
    with pytest.raises(ValueError, match=message):
        call(make())


def test_a_part_without_a_signature_is_tried_as_it_is():
    with pytest.raises(TypeError, match="invalid keyword argument for max"):
        make(competition=max)
