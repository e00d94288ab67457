from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax.test_util import check_grads

from eqx_slots.convolution import convolve_last
from eqx_slots.nn import (
    conv_transpose,
    ConvTranspose2d,
    coordinate_grid,
    SoftPositionEmbedding,
)

from . import reference
from .helpers import (
    as_float64,
    assert_close,
    built,
    check_fields,
    float64,
    normal,
    run,
    seeds,
)


def pair(kernel_size, stride, use_bias=True):
    """Ours and Equinox's with the same weights."""
    options = {"use_bias": use_bias, "stride": stride}
    ours = built(partial(ConvTranspose2d, 3, 5, kernel_size, **options), kernel_size)
    theirs = built(
        partial(eqx.nn.ConvTranspose2d, 3, 5, kernel_size, padding="SAME", **options)
    )
    weights = (lambda c: (c.weight, c.bias)) if use_bias else (lambda c: (c.weight,))
    return ours, eqx.tree_at(weights, theirs, weights(ours))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 6, 7])
def test_equals_equinox(kernel_size, stride):
    ours, theirs = pair(kernel_size, stride)
    for height, width in [(1, 1), (2, 3), (7, 5)]:
        x = normal(stride, 3, height, width)
        assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 2), (8, 4), (3, 1), (2, 3)])
def test_gradients_equal_those_of_equinox(kernel_size, stride):
    ours, theirs = pair(kernel_size, stride)
    x, weights = normal(1, 3, 5, 7), normal(2, 5, 5 * stride, 7 * stride)

    def grads(conv):
        total = lambda args: jnp.sum(jnp.tanh(args[0](args[1])) * weights)
        conv_grad, x_grad = eqx.filter_grad(total)((conv, x))
        return conv_grad.weight, conv_grad.bias, x_grad

    for got, want in zip(grads(ours), grads(theirs)):
        assert_close(got, want)


@pytest.mark.parametrize(
    ("kernel_size", "stride"), [(5, 2), (4, 2), (8, 4), (3, 1), (2, 3)]
)
def test_equals_the_definition(kernel_size, stride):
    ours, _ = pair(kernel_size, stride, use_bias=False)
    assert ours.bias is None
    with float64():
        ours, x = as_float64(ours), normal(0, 3, 5, 7, dtype=jnp.float64)
        got = ours(x)
        assert_close(got, reference.transposed_convolution(ours, x), jnp.float64)
        check_grads(
            lambda *args: conv_transpose(*map(jnp.asarray, args), stride=stride),
            (x, ours.weight),
            order=2,
            eps=1e-5,
        )


@given(seed=seeds, stride=st.sampled_from([1, 2]))
def test_is_linear(seed, stride):
    weight = normal(seed, 5, 3, 5, 5)
    x, y = normal(seed + 1, 3, 4, 4), normal(seed + 2, 3, 4, 4)
    together = conv_transpose(2 * x - y, weight, stride=stride)
    apart = 2 * conv_transpose(x, weight, stride=stride)
    assert_close(together, apart - conv_transpose(y, weight, stride=stride))


def test_initial_weights_are_those_of_equinox():
    ours = ConvTranspose2d(7, 11, 5, 2, key=jr.key(0))
    check_fields(ours)
    limit = (7 * 25) ** -0.5
    for leaf in (ours.weight, ours.bias):
        assert 0.8 * limit < float(jnp.max(jnp.abs(leaf))) <= limit
    assert ours.weight.dtype == jnp.float32
    half = ConvTranspose2d(2, 3, 5, dtype=jnp.bfloat16, key=jr.key(0))
    assert half(jnp.ones((2, 3, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvTranspose2d(0, 1, 1, key=jr.key(0)), "`in_channels` must be"),
        (lambda: ConvTranspose2d(1, 1, 1, 0, key=jr.key(0)), "`stride` must be"),
        (lambda: pair(3, 2)[0](normal(0, 2, 3, 5, 5)), "jax.vmap"),
        (lambda: pair(3, 2)[0](normal(0, 4, 5, 5)), "channels=3"),
        (
            lambda: conv_transpose(normal(0, 3, 5, 5), normal(0, 2, 3, 3, 2), stride=1),
            "`weight` must have shape",
        ),
        (
            lambda: conv_transpose(normal(0, 3, 5, 5), normal(0, 2, 3, 3, 3), stride=0),
            "`stride` must be",
        ),
        (lambda: coordinate_grid(0, 2), "`height` must be"),
        (lambda: SoftPositionEmbedding(0, key=jr.key(0)), "`channels` must be"),
        (
            lambda: SoftPositionEmbedding(3, key=jr.key(0))(normal(0, 2, 5, 5)),
            "channels=3",
        ),
        (
            lambda: SoftPositionEmbedding(3, grid="moon", key=jr.key(0)),
            '"paper" or "savi", got \'moon\'',
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_grid_has_its_corners_and_complements():
    grid = coordinate_grid(3, 5)
    np.testing.assert_allclose(grid[:, 0, 0], [0, 0, 1, 1])
    np.testing.assert_allclose(grid[:, 2, 4], [1, 1, 0, 0])
    np.testing.assert_allclose(grid[:, 1, 1], [0.5, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("grid", ["paper", "savi"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (7, 2)])
def test_position_embedding_agrees_with_the_definition(shape, grid):
    layer = built(partial(SoftPositionEmbedding, 11, grid=grid), seed=1)
    with float64():
        layer = as_float64(layer)
        features = normal(2, 11, *shape, dtype=jnp.float64)
        want = reference.add_positions(layer, np.asarray(features))
        assert_close(layer(features), want, jnp.float64)
    half = jnp.ones((11, *shape), jnp.bfloat16)
    assert layer(half).dtype == jnp.bfloat16


def test_no_position_is_trained_but_the_map_of_it_is():
    layer = SoftPositionEmbedding(11, key=jr.key(0))
    leaves = jax.tree.leaves(eqx.filter(layer, eqx.is_inexact_array))
    assert sorted(leaf.shape for leaf in leaves) == [(11,), (11, 4)]


@pytest.mark.parametrize(
    "make",
    [
        partial(eqx.nn.Conv2d, 3, 4, (3, 5), (2, 1), padding="SAME"),
        partial(eqx.nn.Conv2d, 4, 6, 3, padding=1, dilation=2, groups=2),
        partial(eqx.nn.Conv2d, 3, 4, 3, padding=1, use_bias=False),
        partial(eqx.nn.Conv2d, 3, 4, 3, padding=1, padding_mode="REFLECT"),
        partial(ConvTranspose2d, 3, 4, 5, 2),
        partial(eqx.nn.ConvTranspose2d, 3, 4, 5, 2),  # one it does not know
    ],
)
def test_channels_last_is_what_the_module_does(make):
    conv = built(make)
    image = normal(1, conv.in_channels, 7, 11)
    last = run(convolve_last, conv, jnp.moveaxis(image, 0, -1))
    assert_close(jnp.moveaxis(last, -1, 0), run(conv, image))
