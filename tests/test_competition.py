"""How slots share out the inputs: which sums are one, and who wins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqx_slots.nn import GumbelSoftmax, Sinkhorn, Softmax

from . import reference
from .helpers import assert_close, float64, normal, run, seeds


# With several heads, each of them has columns that sum to one.
PER_HEAD = {
    "softmax": Softmax(temperature=0.5),
    "gumbel": GumbelSoftmax(temperature=2.0),
    "sinkhorn": Sinkhorn(num_iters=3),
    "sinkhorn with marginals": Sinkhorn(slot_marginals=(3.0, 1.0, 1.0)),
}
JOINT = {
    "softmax": Softmax(over_heads=True),
    "gumbel": GumbelSoftmax(over_heads=True),
}


@pytest.mark.parametrize("competition", PER_HEAD.values(), ids=PER_HEAD.keys())
@settings(max_examples=5)
@given(seed=seeds, heads=st.sampled_from([(), (2,)]))
def test_every_input_is_given_away_once(competition, seed, heads):
    won = run(competition, 3 * normal(seed, *heads, 3, 17), key=jr.key(seed))
    assert bool(jnp.all(won >= 0))
    assert_close(jnp.sum(won, axis=-2), np.ones((*heads, 17)))


@pytest.mark.parametrize("competition", JOINT.values(), ids=JOINT.keys())
@settings(max_examples=5)
@given(seed=seeds)
def test_over_heads_all_of_them_share_an_input(competition, seed):
    logits = normal(seed, 2, 3, 17)
    won = run(competition, logits, key=jr.key(seed))
    assert_close(jnp.sum(won, axis=(0, 1)), np.ones(17))
    assert float(jnp.max(jnp.abs(jnp.sum(won, axis=1) - 0.5))) > 0.01
    # With one head there is nothing else to share with.
    alone = run(competition, logits[0], key=jr.key(seed))
    assert_close(jnp.sum(alone, axis=0), np.ones(17))


def test_temperature_divides_the_logits():
    logits = normal(0, 3, 17)
    assert_close(Softmax(temperature=0.3)(logits), jax.nn.softmax(logits / 0.3, 0))
    learned = Softmax(temperature=jnp.array(0.3))
    assert_close(learned(logits), jax.nn.softmax(logits / 0.3, 0))
    grad = eqx.filter_grad(lambda part: jnp.sum(part(logits)[0]))(learned)
    assert float(jnp.abs(grad.temperature)) > 0.01
    for part in (Sinkhorn(temperature=0.3), Sinkhorn(temperature=jnp.array(0.3))):
        assert_close(part(logits), Sinkhorn()(logits / 0.3))
    noisy = GumbelSoftmax(temperature=0.3)(logits, key=jr.key(0))
    noise = GumbelSoftmax()(logits, key=jr.key(0))
    # Powers of a softmax are, up to their sum, the softmax of multiples.
    powers = noise ** (1 / 0.3)
    assert_close(noisy, powers / jnp.sum(powers, axis=0, keepdims=True))


def test_the_largest_noisy_logit_is_a_sample_of_the_softmax():
    logits = jnp.array([0.0, 1.0, -1.0])
    many = jnp.tile(logits[:, None], (1, 40_000))
    won = run(GumbelSoftmax(temperature=0.1), many, key=jr.key(0))
    share = np.bincount(np.argmax(won, axis=0), minlength=3) / 40_000
    np.testing.assert_allclose(share, jax.nn.softmax(logits), atol=0.01)
    heads = jnp.tile(logits[None, :, None], (2, 1, 40_000))
    first, second = run(GumbelSoftmax(), heads, key=jr.key(0))
    assert not np.allclose(first, second)


def test_without_noise_gumbel_is_the_softmax():
    logits = normal(0, 3, 17)
    quiet = eqx.nn.inference_mode(GumbelSoftmax(temperature=0.5))
    assert not quiet.needs_key
    assert GumbelSoftmax().needs_key
    assert_close(quiet(logits), Softmax(temperature=0.5)(logits))


@settings(max_examples=5)
@given(seed=seeds, heads=st.sampled_from([(), (2,)]))
def test_noise_does_not_depend_on_who_else_is_there(seed, heads):
    logits = normal(seed, *heads, 5, 17)
    mask = (jnp.arange(5) < 3)[:, None] & (jnp.arange(17) < 11)[None, :]
    padded = run(GumbelSoftmax(), logits, mask=mask, key=jr.key(seed))
    short = run(GumbelSoftmax(), logits[..., :3, :11], key=jr.key(seed))
    assert_close(padded[..., :3, :11], short)


@pytest.mark.parametrize("marginals", [None, (3.0, 1.0, 2.0)])
def test_sinkhorn_scales_rows_and_columns_in_turn(marginals):
    shares = np.ones(3) if marginals is None else np.array(marginals)
    wanted = 17 * shares / shares.sum()
    with float64():
        logits = normal(0, 3, 17, dtype=jnp.float64)
        few = Sinkhorn(num_iters=2, slot_marginals=marginals)(logits)
        many = run(Sinkhorn(num_iters=80, slot_marginals=marginals), logits)
        both = Sinkhorn(num_iters=2, slot_marginals=marginals)(
            jnp.stack([logits, logits])
        )
    few, many, both = map(np.asarray, (few, many, both))
    np.testing.assert_allclose(many.sum(axis=1), wanted, rtol=1e-6)
    np.testing.assert_allclose(many.sum(axis=0), 1, rtol=1e-12)
    assert_close(few, reference.sinkhorn(logits, wanted, 2), jnp.float64)
    assert_close(both[1], few, jnp.float64)


def test_marginals_in_an_array_are_learned_and_numbers_are_not():
    logits = normal(0, 3, 17)
    array = Sinkhorn(slot_marginals=jnp.array([3.0, 1.0, 1.0]))
    numbers = Sinkhorn(slot_marginals=(3.0, 1.0, 1.0))
    assert_close(array(logits), numbers(logits))
    grad = eqx.filter_grad(lambda part: jnp.sum(part(logits)[0]))(array)
    assert float(jnp.min(jnp.abs(grad.slot_marginals))) > 0.01
    assert not any(map(eqx.is_array, jax.tree.leaves(numbers)))


ALL = {**PER_HEAD, **{f"joint {name}": part for name, part in JOINT.items()}}


@pytest.mark.parametrize("competition", ALL.values(), ids=ALL.keys())
def test_what_is_masked_gets_nothing_and_leaves_no_nan(competition):
    mask = jnp.array([[True] * 5, [False] * 5, [True, True, False, False, False]])
    mask = mask.at[:, 4].set(False)
    logits = normal(0, 2, 3, 5)

    def total(logits):
        won = competition(logits, mask=mask, key=jr.key(0))
        return jnp.sum(won * normal(1, 2, 3, 5)), won

    (_, won), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    np.testing.assert_array_equal(won[:, ~mask], 0)
    axes = (0, 1) if getattr(competition, "over_heads", False) else (1,)
    sums = jnp.sum(won, axis=axes)
    assert_close(sums, np.ones_like(sums) * np.array([1, 1, 1, 1, 0.0]))
    np.testing.assert_array_equal(grad[:, ~mask], 0)
    assert bool(jnp.all(jnp.isfinite(grad)))
    nothing = competition(logits, mask=jnp.zeros((3, 5), bool), key=jr.key(0))
    np.testing.assert_array_equal(nothing, np.zeros((2, 3, 5)))


@pytest.mark.parametrize("competition", ALL.values(), ids=ALL.keys())
def test_extreme_logits_stay_finite(competition):
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], jnp.float32)
    won = competition(logits, key=jr.key(0))
    assert bool(jnp.all(jnp.isfinite(won)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: GumbelSoftmax()(jnp.zeros((3, 17))),
            "`GumbelSoftmax` draws noise and got no key: pass `key=jax.random.key(0)`"
            " (a fresh one for each call), or leave the noise out by"
            " `equinox.nn.inference_mode(layer)`.",
        ),
        (
            lambda: Sinkhorn(slot_marginals=(1.0, 0.0)),
            "`slot_marginals` must be positive, got (1.0, 0.0); a slot that is to get"
            " nothing is left out by `slot_mask`.",
        ),
        (
            lambda: Sinkhorn(slot_marginals=(1.0, 2.0))(jnp.zeros((3, 17))),
            "`slot_marginals` are for 2 slots, but 3 compete; give one for each.",
        ),
        (
            lambda: Sinkhorn(slot_marginals=np.array([1.0, 0.0])),
            "`slot_marginals` must be positive, got [1. 0.]; a slot that is to get"
            " nothing is left out by `slot_mask`.",
        ),
        (
            lambda: Sinkhorn(slot_marginals=jnp.array(2.0))(jnp.zeros((3, 17))),
            "`slot_marginals` must be a number for each slot, got 2.0; `None` gives the"
            " same to all.",
        ),
        (
            lambda: Softmax(temperature=jnp.array(-0.5)),
            "`temperature` must be positive, got -0.5.",
        ),
        (
            lambda: GumbelSoftmax(temperature=-0.5),
            "`temperature` must be positive, got -0.5.",
        ),
        (
            lambda: Sinkhorn(temperature=0.0),
            "`temperature` must be positive, got 0.0.",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_errors_say_what_was_given_and_the_cure(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


LEARNED = {"learned temperature": Softmax(temperature=jnp.array(0.5, jnp.float32))}


@pytest.mark.parametrize(
    "competition", (ALL | LEARNED).values(), ids=(ALL | LEARNED).keys()
)
def test_half_precision_is_kept(competition):
    logits = jax.ShapeDtypeStruct((3, 17), jnp.bfloat16)
    won = jax.eval_shape(lambda x: competition(x, key=jr.key(0)), logits)
    assert won.dtype == jnp.bfloat16


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_round_temperature_divides_the_logits_too(temperature):
    logits = normal(0, 3, 17)
    won = Softmax(temperature=temperature)(logits)
    assert_close(won, jax.nn.softmax(logits / temperature, axis=0))


def test_one_head_draws_what_no_head_draws():
    part, logits, key = GumbelSoftmax(), normal(0, 3, 17), jr.key(0)
    assert_close(part(logits[None], key=key)[0], part(logits, key=key))


def test_marginals_have_a_gradient_where_nobody_takes_part():
    part, logits = Sinkhorn(slot_marginals=jnp.array([3.0, 1.0, 1.0])), normal(0, 3, 17)
    nobody = jnp.zeros((3, 17), bool)
    grad = eqx.filter_grad(lambda part: jnp.sum(part(logits, mask=nobody)))(part)
    np.testing.assert_array_equal(grad.slot_marginals, np.zeros(3))
