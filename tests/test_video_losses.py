"""Losses of videos, against loops in NumPy and by their laws."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads

from eqx_slots import losses
from eqx_slots.nn import LearnedGaussianSlots

from .helpers import assert_close, float64, normal


contrast = jax.jit(losses.slot_contrast, static_argnames="temperature")


def looped(slots, mask, temperature):
    """Slot by slot, against every slot of the next frame that is there."""
    slots, terms = np.asarray(slots, np.float64), []
    batch, frames, number, _ = slots.shape
    unit = slots / np.linalg.norm(slots, axis=-1, keepdims=True)
    for t in range(frames - 1):
        others = [
            (c, j) for c in range(batch) for j in range(number) if mask[c, t + 1, j]
        ]
        for b, k in others:
            if mask[b, t, k]:
                powers = {
                    (c, j): np.exp(unit[b, t, k] @ unit[c, t + 1, j] / temperature)
                    for c, j in others
                }
                terms.append(-np.log(powers[b, k] / sum(powers.values())))
    return np.mean(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_contrast_agrees_with_a_loop(temperature):
    slots = normal(0, 2, 3, 5, 7)
    every = np.ones((2, 3, 5), bool)
    got = contrast(slots, temperature=temperature)
    assert_close(got, looped(slots, every, temperature))
    mask = np.random.default_rng(1).random((2, 3, 5)) < 0.6
    hidden = jnp.where(mask[..., None], slots, jnp.nan)
    got = contrast(hidden, temperature=temperature, slot_mask=jnp.asarray(mask))
    assert_close(got, looped(slots, mask, temperature))


def test_contrast_is_least_for_slots_that_stay_and_differ():
    stay = jnp.broadcast_to(jnp.eye(6, 7).reshape(2, 1, 3, 7), (2, 4, 3, 7))
    assert float(contrast(stay)) < 1e-3
    assert float(contrast(stay[:, :, ::-1].at[:, ::2].set(stay[:, ::2]))) > 3
    # Alike in two videos: what one video alone would not see.
    shared = jnp.broadcast_to(stay[:1], stay.shape)
    assert abs(float(contrast(shared)) - np.log(2)) < 1e-3
    assert float(contrast(shared[:1])) < 1e-3


def test_contrast_of_nothing_is_nothing():
    slots, nobody = normal(0, 2, 3, 5, 7), jnp.zeros((2, 3, 5), bool)
    call = jax.value_and_grad(lambda s: losses.slot_contrast(s, slot_mask=nobody))
    value, grad = jax.jit(call)(slots)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)
    value, grad = jax.jit(jax.value_and_grad(losses.slot_contrast))(0 * slots)
    assert_close(value, np.log(10))
    assert bool(jnp.all(jnp.isfinite(grad)))


def test_gradient_of_contrast():
    with float64():
        slots = normal(0, 2, 3, 2, 3, dtype=jnp.float64)
        loss = jax.jit(lambda s: losses.slot_contrast(s, temperature=0.5))
        check_grads(loss, (slots,), order=1, modes=["rev"])


@pytest.mark.usefixtures("as_users_run")
def test_contrast_takes_what_numpy_has():
    rng = np.random.default_rng(0)
    slots, mask = rng.normal(size=(2, 3, 5, 7)), rng.random((2, 3, 5)) < 0.6
    want = looped(slots, mask, 0.1)
    assert_close(losses.slot_contrast(slots, slot_mask=mask), want)
    lists = losses.slot_contrast(slots.tolist(), slot_mask=mask.tolist())
    assert_close(lists, want)


def test_error_of_frames():
    predicted, target = normal(0, 5, 3, 4, 2), normal(1, 5, 3, 4, 2)
    got = losses.frames_squared_error(predicted, target)
    assert_close(got, np.mean((predicted - target) ** 2))
    mask = np.array([True, False, True, True, False])
    hidden = jnp.where(mask[:, None, None, None], predicted, jnp.nan)
    there = jnp.asarray(mask)
    call = lambda x: losses.frames_squared_error(x, target, frame_mask=there)
    value, grad = jax.jit(jax.value_and_grad(call))(hidden)
    assert_close(value, np.mean((predicted[mask] - target[mask]) ** 2))
    np.testing.assert_array_equal(grad[~mask], 0)
    assert_close(grad[mask], 2 * (predicted - target)[mask] / (3 * 24))
    nothing = jnp.zeros(5, bool)
    assert losses.frames_squared_error(predicted, target, frame_mask=nothing) == 0


def test_sums_run_in_float32():
    ones = jnp.ones((2, 3000), jnp.bfloat16)
    got = losses.frames_squared_error(ones, 0 * ones)
    assert got.dtype == jnp.float32
    assert got == 1
    assert contrast(jnp.ones((2, 2, 3, 4), jnp.float16)).dtype == jnp.float32
    assert losses.noise_divergence(ones).dtype == jnp.float32


def test_divergence_of_noise():
    log_scale = normal(0, 3, 5)
    sigma, held = np.exp(np.asarray(log_scale, np.float64)), 0.2**0.5
    want = np.log(held / sigma) + sigma**2 / (2 * held**2) - 0.5
    got = losses.noise_divergence(log_scale, variance=0.2)
    assert_close(got, want.sum(axis=1).mean())
    init = LearnedGaussianSlots(3, 5, key=jr.key(0))
    assert abs(float(losses.noise_divergence(init.log_scale))) < 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.slot_contrast(normal(0, 3, 5, 7)), r"slots\[None\]"),
        (lambda: losses.slot_contrast(normal(0, 2, 1, 5, 7)), "two frames at least"),
        (
            lambda: losses.slot_contrast(normal(0, 2, 3, 5, 7), temperature=0.0),
            "`temperature` must be positive",
        ),
        (
            lambda: losses.slot_contrast(
                normal(0, 2, 3, 5, 7), slot_mask=jnp.ones((3, 5), bool)
            ),
            "batch=2, frames=3",
        ),
        (lambda: losses.slot_contrast(jnp.ones((2, 3, 5, 7), int)), "floating point"),
        (
            lambda: losses.frames_squared_error(normal(0, 2, 3), normal(0, 3, 2)),
            r"the same shape, frames first, got \(2, 3\) and \(3, 2\)",
        ),
        (
            lambda: losses.frames_squared_error(normal(0, 2, 3), jnp.ones((2, 3), int)),
            "`target` must be floating",
        ),
        (
            lambda: losses.frames_squared_error(
                *2 * [normal(0, 2, 3)], frame_mask=jnp.ones(3, bool)
            ),
            "frames=2",
        ),
        (lambda: losses.noise_divergence(normal(0, 3)), r"log_scale\[None\]"),
        (
            lambda: losses.noise_divergence(normal(0, 2, 3), variance=0),
            "`variance` must be positive",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
