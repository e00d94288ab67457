"""Convolution of many images with one kernel, so that every core of a CPU has work.

On CPU XLA leaves convolutions to YNNPACK. Until JAX 0.11 it shared out the columns of
an image among threads, but not the images: a batch of 32 x 32 kept one core busy. For
such versions the images are laid side by side first, as one wide image; a gap of zeros
as wide as the padding serves the neighbours on both its sides:

    image 0       gap     image 1       gap     image 2       gap
    o o o o o o o 0 0     o o o o o o o 0 0     o o o o o o o 0 0

The sums are the same ones in the same order. The gradient of the kernel, which XLA of
any version may do at a fifth of the speed of a matrix product, becomes one.

`jax.vmap` shows a convolution one image; what it makes of a batch, the rule of a
primitive decides. Hence the two primitives below. Each is bilinear, and the derivatives
of either are given by both, so they differentiate any number of times, in any mode.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jaxtyping import Array, Float


Padding = tuple[tuple[int, int], tuple[int, int]]
LAST = ("NHWC", "HWIO", "NHWC")
# An image of as many columns has enough of them for all threads; since 0.11 any has.
COLUMNS = 128 if jax.__version_info__ < (0, 11) else 0
# As many pixels go into one matrix product: what they are copied to stays in the cache.
PIXELS = 4096


def convolve(
    x: Float[Array, "images height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels out_channels"],
    padding: Padding,
) -> Float[Array, "images new_height new_width out_channels"]:
    """Cross-correlation with strides of 1, `lax.conv_general_dilated` by its results.

    `padding` is zeros before and after, of rows and of columns.
    """
    most = [size - 1 for size in kernel.shape[:2]]
    usual = all(0 <= p <= m for pair, m in zip(padding, most) for p in pair)
    # Where arrays carry their sharding in their type, JAX's own rules are needed.
    types = {
        each for x in (x, kernel) for each in jax.typeof(x).sharding.mesh.axis_types
    }
    if usual and types <= {AxisType.Auto}:
        return _convolution.bind(x, kernel, padding=padding)
    return _convolve(x, kernel, padding=padding)


def _convolve(x: Array, kernel: Array, *, padding: Padding) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAST)


def _convolve_side_by_side(x: Array, kernel: Array, *, padding: Padding) -> Array:
    images, _, width, _ = x.shape
    if width >= COLUMNS:
        return _convolve(x, kernel, padding=padding)
    rows, (left, right) = padding
    kernel_width = kernel.shape[1]
    gap = max(left, right)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, gap), (0, 0)))
    x = rearrange(x, "images h w channels -> 1 h (images w) channels")
    y = _convolve(x, kernel, padding=(rows, (left, kernel_width - 1 - left)))
    y = rearrange(y, "1 h (images w) channels -> images h w channels", images=images)
    return y[:, :, : width + left + right - kernel_width + 1]


def _kernel_gradient(
    x: Array, y_bar: Array, *, kernel_size: tuple[int, int], padding: Padding
) -> Array:
    """The kernel's gradient, where `y_bar` is that of the convolution of `x`."""
    shape = (*kernel_size, x.shape[-1], y_bar.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    transpose = jax.linear_transpose(partial(_convolve, x, padding=padding), kernel)
    return transpose(y_bar)[0]


def _kernel_gradient_in_blocks(
    x: Array, y_bar: Array, *, kernel_size: tuple[int, int], padding: Padding
) -> Array:
    r"""The same as a matrix product over all pixels `p`, a block of images at a time.

    $$\bar K_{ij} = \sum_p x_{p + (i, j)} \, \bar y_p^\top$$

    All shifts of `x` stacked as channels would make one large factor and one small one,
    and as many copies of `x` as there are taps. But only the difference of the two
    places counts, so `y_bar` may be shifted the other way instead: for each axis
    whichever makes the two stacks together the thinnest. With kernels of 5 and equal
    channels `x` takes the columns' shifts, `y_bar` the rows'.
    """
    images, *in_size, in_channels = x.shape
    _, *out_size, out_channels = y_bar.shape
    on_x = _axes_on_x(kernel_size, in_channels, out_channels)
    pixels = in_size[0] * in_size[1]
    fitting = range(1, max(1, PIXELS // pixels) + 1)
    block = max(size for size in fitting if images % size == 0)

    def add(total: Any, block: tuple[Array, Array]) -> tuple[Array, None]:
        x, y_bar = block
        for axis, (size, (before, after)) in enumerate(zip(kernel_size, padding)):
            if axis in on_x:
                pad, starts = (before, after), range(size)
                x = _stack(x, 1 + axis, pad, starts, out_size[axis])
            else:
                pad, starts = (size - 1 - before, size - 1 - after), range(size)[::-1]
                y_bar = _stack(y_bar, 1 + axis, pad, starts, in_size[axis])
        rows = "block h w channels -> (block h w) channels"
        product = jnp.matmul(rearrange(x, rows).mT, rearrange(y_bar, rows))
        return total + product, None

    # The axis that was stacked last comes first.
    left = " ".join("hw"[axis] for axis in (1, 0) if axis in on_x)
    right = " ".join("hw"[axis] for axis in (1, 0) if axis not in on_x)
    sizes = {"h": kernel_size[0], "w": kernel_size[1], "i": in_channels}
    cut = "(blocks block) h w channels -> blocks block h w channels"
    xs, y_bars = (rearrange(array, cut, block=block) for array in (x, y_bar))
    zeros = jax.eval_shape(add, 0.0, (xs[0], y_bars[0]))[0]
    total, _ = lax.scan(add, jnp.zeros_like(zeros), (xs, y_bars))
    return rearrange(total, f"({left} i) ({right} o) -> h w i o", **sizes)


def _axes_on_x(
    kernel_size: tuple[int, int], in_channels: int, out_channels: int
) -> tuple[int, ...]:
    """The axes along which `x` is shifted rather than the gradient of the result."""

    def thickness(on_x: tuple[int, ...]) -> int:
        x, y_bar = in_channels, out_channels
        for axis, size in enumerate(kernel_size):
            if axis in on_x:
                x *= size
            else:
                y_bar *= size
        return x + y_bar

    return min([(1,), (0,), (0, 1), ()], key=thickness)


def _stack(
    x: Array, axis: int, padding: tuple[int, int], starts: Iterable[int], size: int
) -> Array:
    """Windows of the padded axis, as channels."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = padding
    x = jnp.pad(x, pads)
    windows = [lax.slice_in_dim(x, i, i + size, axis=axis) for i in starts]
    return jnp.concatenate(windows, axis=-1)


def _primitive(
    name: str, anywhere: Callable[..., Array], on_cpu: Callable[..., Array]
) -> Primitive:
    primitive = Primitive(name)

    @primitive.def_impl
    def _(*args: Any, **params: Any) -> Array:
        return jax.jit(partial(primitive.bind, **params))(*args)

    @primitive.def_abstract_eval
    def _(*args: Any, **params: Any) -> Any:
        # The type that JAX gives it, sharding included, without its rules once more.
        return jax.make_jaxpr(partial(anywhere, **params))(*args).out_avals[0]

    def lower_on_cpu(ctx: mlir.LoweringRuleContext, *args: Any, **params: Any) -> Any:
        # Images on many devices are laid side by side by nobody: a device would have to
        # fetch the edges of what its neighbours hold.
        context = ctx.module_context.axis_context
        alone = isinstance(context, mlir.ShardingContext) and context.num_devices == 1
        x: Any = ctx.avals_in[0]
        gains = alone and x.shape[0] > 1 and x.dtype == jnp.float32
        rule = on_cpu if gains else anywhere
        return mlir.lower_fun(rule, multiple_results=False)(ctx, *args, **params)

    mlir.register_lowering(primitive, mlir.lower_fun(anywhere, multiple_results=False))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


_convolution = _primitive("slots_conv", _convolve, _convolve_side_by_side)
_correlation = _primitive(
    "slots_conv_kernel_gradient", _kernel_gradient, _kernel_gradient_in_blocks
)


def _flipped(kernel: Any) -> Array:
    return rearrange(lax.rev(kernel, (0, 1)), "h w i o -> h w o i")


def _back(padding: Padding, kernel_size: tuple[int, int]) -> Padding:
    """The padding of the convolution that carries gradients back."""
    rows, columns = (
        (size - 1 - before, size - 1 - after)
        for size, (before, after) in zip(kernel_size, padding)
    )
    return rows, columns


def _x_bar(y_bar: Any, x: Any, kernel: Any, *, padding: Padding) -> Array:
    back = _back(padding, kernel.shape[:2])
    return _convolution.bind(y_bar, _flipped(kernel), padding=back)


def _kernel_bar(y_bar: Any, x: Any, kernel: Any, *, padding: Padding) -> Array:
    sizes = {"kernel_size": kernel.aval.shape[:2], "padding": padding}
    return _correlation.bind(x, y_bar, **sizes)


def _x_bar_of_gradient(
    bar: Any, x: Any, y: Any, *, kernel_size: tuple[int, int], padding: Padding
) -> Array:
    back = _back(padding, kernel_size)
    return _convolution.bind(y, _flipped(bar), padding=back)


def _y_bar_of_gradient(
    bar: Any, x: Any, y: Any, *, kernel_size: tuple[int, int], padding: Padding
) -> Array:
    return _convolution.bind(x, bar, padding=padding)


def _map_convolution(
    args: tuple[Any, Any], axes: tuple[int | None, int | None], **params: Any
) -> tuple[Array, int]:
    """More images for the same kernel; a kernel for each is XLA's business."""
    (x, kernel), (x_axis, kernel_axis) = args, axes
    if x_axis is None or kernel_axis is not None:
        return _map_any(_convolve, args, axes, **params)
    x = jnp.moveaxis(x, x_axis, 0)
    images = rearrange(x, "batch images ... -> (batch images) ...")
    y = _convolution.bind(images, kernel, **params)
    return rearrange(y, "(batch images) ... -> batch images ...", batch=len(x)), 0


def _map_any(
    function: Callable[..., Array],
    args: tuple[Any, Any],
    axes: tuple[int | None, int | None],
    **params: Any,
) -> tuple[Array, int]:
    return jax.vmap(partial(function, **params), axes)(*args), 0


ad.defbilinear(_convolution, _x_bar, _kernel_bar)
ad.defbilinear(_correlation, _x_bar_of_gradient, _y_bar_of_gradient)
batching.primitive_batchers[_convolution] = _map_convolution
batching.primitive_batchers[_correlation] = partial(_map_any, _kernel_gradient)
