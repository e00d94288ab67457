"""Convolution of a batch, done for the cores of a CPU: equal to XLA's own."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from eqx_slots.convolution import _cpu, convolve
from eqx_slots.convolution._winograd import pays, Winograd
from eqx_slots.convolution._xla import xla_convolve, xla_kernel_gradient

from .helpers import assert_close, float64, largest_error, normal, seeds


SHAPES = [  # kernel, padding, channels before and after
    ((5, 5), ((2, 2), (2, 2)), 3, 3),
    ((3, 5), ((0, 2), (4, 1)), 2, 3),
    ((2, 3), ((1, 0), (0, 0)), 1, 7),
    ((3, 3), ((1, 1), (1, 1)), 7, 1),
    ((1, 1), ((0, 0), (0, 0)), 2, 2),
    ((1, 7), ((0, 0), (6, 6)), 2, 5),
]
PADDING = ((1, 1), (2, 2))


def example(seed=0, images=3, dtype=jnp.float32):
    x = normal(seed, images, 7, 11, 2, dtype=dtype)
    return x, normal(seed + 1, 3, 5, 2, 3, dtype=dtype)


def ours(x, kernel):
    return convolve(x, kernel, PADDING)


def theirs(x, kernel):
    return xla_convolve(x, kernel, padding=PADDING)


@pytest.mark.parametrize(("size", "padding", "before", "after"), SHAPES)
@given(seed=seeds, images=st.sampled_from([1, 2, 3]))
def test_images_side_by_side_do_not_see_each_other(
    size, padding, before, after, seed, images
):
    with float64(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpu, "COLUMNS", 128)
        x = normal(seed, images, 7, 11, before, dtype=jnp.float64)
        kernel = normal(seed + 1, *size, before, after, dtype=jnp.float64)
        got, want = (
            jax.jit(partial(made, padding=padding))(x, kernel)
            for made in (_cpu._convolve_side_by_side, xla_convolve)
        )
    assert_close(got, want, jnp.float64)


@pytest.mark.parametrize("pixels", [1, 160, 10_000])  # one, two and all images a block
@pytest.mark.parametrize(("size", "padding", "before", "after"), SHAPES)
def test_gradient_of_the_kernel_is_summed_over_blocks(
    size, padding, before, after, pixels, monkeypatch
):
    monkeypatch.setattr(_cpu, "PIXELS", pixels)
    with float64():
        x = normal(0, 5, 7, 11, before, dtype=jnp.float64)
        kernel = jax.ShapeDtypeStruct((*size, before, after), jnp.float64)
        shape = jax.eval_shape(partial(xla_convolve, padding=padding), x, kernel)
        y_bar = normal(1, *shape.shape, dtype=jnp.float64)
        got, want = (
            jax.jit(partial(made, kernel_size=size, padding=padding))(x, y_bar)
            for made in (
                _cpu._kernel_gradient_in_blocks,
                xla_kernel_gradient,
            )
        )
    assert_close(got, want, jnp.float64)


WINOGRAD = [  # kernel, padding, height, channels before and after
    ((3, 3), ((1, 1), (1, 1)), 8, 2, 3),
    ((4, 3), ((0, 3), (2, 0)), 7, 3, 2),
    ((5, 1), ((4, 0), (0, 0)), 6, 1, 4),
    ((5, 5), ((2, 2), (2, 2)), 5, 4, 2),
    ((5, 2), ((0, 0), (1, 0)), 5, 2, 2),
    ((3, 1), ((1, 1), (0, 0)), 8, 3, 2),
]


@pytest.mark.parametrize("taps", [3, 4, 5])
def test_short_algorithms_give_the_sums_written_out(taps):
    short = Winograd.of(taps)
    x, kernel = (np.random.default_rng(0).normal(size=n) for n in (4 + taps - 1, taps))
    got = short.a.T @ ((short.g @ kernel) * (short.b @ x))
    assert_close(got, np.correlate(x, kernel), jnp.float64)


@pytest.mark.parametrize("numbers", [1, 600, 10_000])  # an image a block, some, all
@pytest.mark.parametrize(("size", "padding", "height", "before", "after"), WINOGRAD)
def test_winograd_in_blocks_and_its_gradient(
    size, padding, height, before, after, numbers, monkeypatch
):
    monkeypatch.setattr(_cpu, "NUMBERS", numbers)
    with float64():
        x = normal(0, 7, height, 9, before, dtype=jnp.float64)
        kernel = normal(1, *size, before, after, dtype=jnp.float64)
        got, want = (
            jax.jit(partial(made, padding=padding))(x, kernel)
            for made in (_cpu._winograd_convolve, xla_convolve)
        )
        assert_close(got, want, jnp.float64)
        y_bar = normal(2, *want.shape, dtype=jnp.float64)
        got, want = (
            jax.jit(partial(made, kernel_size=size, padding=padding))(x, y_bar)
            for made in (_cpu._winograd_kernel_gradient, xla_kernel_gradient)
        )
    assert_close(got, want, jnp.float64)


def test_winograd_where_it_pays():
    assert pays(32, (32, 32), (5, 5, 32, 32))  # 8 products in place of 20
    assert pays(32, (6, 32), (5, 5, 32, 32))  # 16 in place of 30
    assert pays(1, (32, 32), (5, 5, 32, 32))
    assert not pays(32, (5, 32), (3, 3, 32, 32))  # 12 in place of 15
    assert not pays(32, (32, 32), (2, 2, 32, 32))
    assert not pays(32, (32, 32), (7, 7, 32, 32))  # would need larger points
    assert not pays(32, (32, 32), (5, 5, 3, 32))
    assert not pays(32, (32, 32), (5, 5, 32, 4))
    assert not pays(1, (8, 8), (3, 3, 64, 128))  # a sum of taps for every pixel


@given(seed=seeds, size=st.sampled_from([3, 5]), channels=st.sampled_from([16, 64]))
def test_winograd_rounds_a_few_times_as_much_as_the_sum_written_out(
    seed, size, channels
):
    around = ((size // 2, size // 2),) * 2
    x = normal(seed, 4, 16, 16, channels)
    kernel = normal(seed + 1, size, size, channels, channels)
    y_bar = normal(seed + 2, *x.shape)

    def everything(function, x, kernel, y_bar):
        made, vjp = jax.vjp(partial(function, padding=around), x, kernel)
        return made, *vjp(y_bar)

    found = jax.jit(partial(everything, convolve))(x, kernel, y_bar)
    with float64():
        wide = [each.astype(jnp.float64) for each in (x, kernel, y_bar)]
        exact = jax.jit(partial(everything, xla_convolve))(*wide)
    for got, want in zip(found, exact):
        assert largest_error(got, want) < 60 * float(jnp.finfo(jnp.float32).eps)


def test_shifts_go_where_they_make_the_thinnest_stacks():
    assert _cpu._axes_on_x((5, 5), 32, 32) in [(0,), (1,)]  # 160 and 160
    assert _cpu._axes_on_x((5, 5), 3, 32) == (0, 1)  # 75 and 32
    assert _cpu._axes_on_x((3, 3), 32, 4) == ()  # 32 and 36


def test_differentiates_in_any_mode_any_number_of_times():
    with float64():
        check_grads(
            lambda x, kernel: jnp.tanh(ours(jnp.asarray(x), jnp.asarray(kernel))),
            example(dtype=jnp.float64),
            order=2,
            modes=["fwd", "rev"],
        )


def hessian(function, x, kernel):
    return jax.hessian(lambda k: jnp.sum(jnp.tanh(function(x, k))))(kernel)


def backwards_twice(function, x, kernel):
    gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x, kernel))))
    return jax.jit(jax.grad(lambda x: jnp.sum(gradient(x) ** 2)))(x)


def per_example(function, x, kernel):
    one = lambda k, image: jnp.sum(jnp.tanh(function(image[None], k)))
    return jax.vmap(jax.grad(one), (None, 0))(kernel, x)


def over_kernels(function, x, kernel):
    kernels = jnp.stack([kernel, 2 * kernel])
    return jax.vmap(function, (None, 0), 1)(x, kernels)


def over_both(function, x, kernel):
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    return jax.vmap(lambda image, k: function(image[None], k)[0])(x, kernels)


def over_an_axis_in_the_middle(function, x, kernel):
    one = lambda image: function(image[None], kernel)[0]
    return jax.vmap(one, in_axes=2, out_axes=1)(jnp.moveaxis(x, 0, 2))


def over_batches_of_batches(function, x, kernel):
    one = lambda image: function(image[None], kernel)[0]
    return jax.jit(jax.vmap(jax.vmap(one)))(jnp.stack([x, 3 * x]))


def in_half_precision(function, x, kernel):
    half = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    return function(*half).astype(jnp.float32)


def gradients_with_wide_padding(function, x, kernel):
    convolved = convolve if function is ours else xla_convolve
    total = lambda x, kernel: jnp.sum(
        jnp.tanh(convolved(x, kernel, padding=((3, 0), (0, 5))))
    )
    x_bar, kernel_bar = jax.grad(total, argnums=(0, 1))(x, kernel)
    return jnp.concatenate([jnp.ravel(x_bar), jnp.ravel(kernel_bar)])


def of_no_images(function, x, kernel):
    return jnp.sum(function(x[:0], kernel)) + function(x, kernel)


@pytest.mark.parametrize(
    "use",
    [
        hessian,
        backwards_twice,
        per_example,
        over_kernels,
        over_both,
        over_an_axis_in_the_middle,
        over_batches_of_batches,
        in_half_precision,
        gradients_with_wide_padding,
        of_no_images,
    ],
)
def test_does_what_that_of_jax_does(use):
    assert_close(use(ours, *example()), use(theirs, *example()))


def as_compiled(function, *args):
    """The shapes that are convolved on CPU, images first."""
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cpu",))
    text = lowered.as_text()
    found = re.findall(r"stablehlo\.convolution.*?: \(tensor<([\dx]+)x[a-z]", text)
    assert found
    return found


@pytest.fixture
def few_columns(monkeypatch):
    """As before JAX 0.11."""
    monkeypatch.setattr(_cpu, "COLUMNS", 128)


@pytest.mark.usefixtures("few_columns")
def test_a_batch_is_one_wide_image():
    x, kernel = example()
    one = lambda image: ours(image[None], kernel)[0]
    assert as_compiled(jax.vmap(one), x) == ["1x7x39x2"]  # gaps of two columns
    total = lambda x, kernel: jnp.sum(jnp.tanh(ours(x, kernel)))
    # Backwards one more for the images; for the kernel none, but a matrix product.
    grads = jax.grad(total, argnums=(0, 1))
    assert as_compiled(grads, x, kernel) == ["1x7x39x2", "1x7x39x3"]


def test_channels_enough_take_winograds_products():
    x, kernel = normal(0, 8, 12, 12, 16), normal(1, 5, 3, 16, 24)
    padding = ((2, 2), (1, 1))
    # Rows of 3 tiles side by side, all 8 images of them.
    found = as_compiled(lambda x, k: convolve(x, k, padding), x, kernel)
    assert found == 8 * ["1x1x312x16"]
    total = lambda x, k: jnp.sum(jnp.tanh(convolve(x, k, padding)))
    found = as_compiled(jax.grad(total, argnums=(0, 1)), x, kernel)
    assert found == 8 * ["1x1x312x16"] + 8 * ["1x1x312x24"]


@pytest.mark.usefixtures("few_columns")
def test_what_gains_nothing_is_left_to_xla():
    x, kernel = example()
    assert as_compiled(ours, x[:1], kernel) == ["1x7x11x2"]
    half = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert as_compiled(ours, *half) == ["3x7x11x2"]
    assert as_compiled(ours, jnp.zeros((3, 1, 128, 2)), kernel) == ["3x1x128x2"]


def test_other_machines_get_the_usual_convolution():
    traced = jax.jit(jax.grad(lambda x, k: jnp.sum(ours(x, k) ** 2), (0, 1)))
    exported = jax.export.export(traced, platforms=["cuda"])(*example())
    found = re.findall(r"convolution.*?: \(tensor<(\d+)x", exported.mlir_module())
    assert len(found) == 3
    assert "1" not in found


def test_works_where_sharding_is_part_of_the_type():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    x, kernel = example()
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
        got = jax.jit(ours)(x, kernel)
        assert jax.typeof(got).sharding.spec[0] == "batch"
        assert_close(got, theirs(x, kernel))


def test_works_inside_shard_map():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec("batch")
    specs = {"in_specs": (batch, PartitionSpec()), "out_specs": batch}
    mapped = jax.shard_map(ours, mesh=mesh, **specs)

    def grads(function):
        total = lambda x, kernel: jnp.sum(jnp.tanh(function(x, kernel)))
        return jax.jit(jax.grad(total, argnums=(0, 1)))(*example())

    for got, want in zip(grads(mapped), grads(theirs)):
        assert_close(got, want)
