"""Convolutions of many images with one kernel on the cores of a CPU, in float32.

XLA leaves convolutions to YNNPACK. Until JAX 0.11 it shared out the columns of an image
among threads, but not the images: a batch of 32 x 32 kept one core busy. For such
versions the images are laid side by side first, as one wide image; a gap of zeros as
wide as the padding serves the neighbours on both its sides:

    image 0       gap     image 1       gap     image 2       gap
    o o o o o o o 0 0     o o o o o o o 0 0     o o o o o o o 0 0

The gradient of the kernel, which XLA of any version may do at a fifth of the speed of a
matrix product, becomes one. And with channels enough both take Winograd's algorithms
(`_winograd.py`): each product is a convolution along columns, of rows side by side,
with a kernel of its own.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jax import lax
from jaxtyping import Array, Float

from ._winograd import pays, Winograd
from ._xla import (
    Inputs,
    Kernel,
    Outputs,
    Padding,
    xla_convolve,
    xla_kernel_gradient,
)


# An image of as many columns has enough of them for all threads; since 0.11 any has.
COLUMNS = 128 if jax.__version_info__ < (0, 11) else 0
# As many pixels go into one matrix product: what they are copied to stays in the cache.
PIXELS = 4096
# As many numbers of a block of images: all sums that are made of them stay there too.
NUMBERS = 2**19


def cpu_convolve(x: Inputs, kernel: Kernel, *, padding: Padding) -> Outputs:
    if pays(len(x), _out_size(x, kernel, padding), kernel.shape):
        return _winograd_convolve(x, kernel, padding=padding)
    if len(x) == 1 or x.shape[2] >= COLUMNS:
        return xla_convolve(x, kernel, padding=padding)
    return _convolve_side_by_side(x, kernel, padding=padding)


def cpu_kernel_gradient(
    x: Inputs, y_bar: Outputs, *, kernel_size: tuple[int, int], padding: Padding
) -> Kernel:
    kernel = (*kernel_size, x.shape[-1], y_bar.shape[-1])
    if pays(len(x), y_bar.shape[1:3], kernel):
        gradient = _winograd_kernel_gradient
    elif len(x) == 1:
        gradient = xla_kernel_gradient
    else:
        gradient = _kernel_gradient_in_blocks
    return gradient(x, y_bar, kernel_size=kernel_size, padding=padding)


def _out_size(x: Inputs, kernel: Kernel, padding: Padding) -> tuple[int, int]:
    rows, columns = (
        size + before + after - taps + 1
        for size, taps, (before, after) in zip(x.shape[1:3], kernel.shape, padding)
    )
    return rows, columns


def _convolve_side_by_side(x: Inputs, kernel: Kernel, *, padding: Padding) -> Outputs:
    rows, (left, right) = padding
    _, columns = _out_size(x, kernel, padding)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, max(left, right)), (0, 0)))
    wide = rearrange(x, "images h w channels -> 1 h (images w) channels")
    around = (left, kernel.shape[1] - 1 - left)
    y = xla_convolve(wide, kernel, padding=(rows, around))
    y = rearrange(y, "1 h (images w) channels -> images h w channels", images=len(x))
    return y[:, :, :columns]


def _winograd_convolve(x: Inputs, kernel: Kernel, *, padding: Padding) -> Outputs:
    taps, kernel_width, _, out_channels = kernel.shape
    (top, _), (left, right) = padding
    rows, columns = _out_size(x, kernel, padding)
    short = Winograd.of(taps)
    g = jnp.asarray(short.g, x.dtype)
    kernels = einsum(g, kernel, "product tap, tap w i o -> product w i o")

    def one_block(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, max(left, right)), (0, 0)))
        products = []
        for one, kernel in zip(short.sums_of_inputs(x, rows, top), kernels):
            wide = rearrange(one, "images tiles w i -> 1 1 (images tiles w) i")
            around = ((0, 0), (left, kernel_width - 1 - left))
            y = xla_convolve(wide, kernel[None], padding=around)
            apart = "1 1 (images tiles w) o -> images tiles w o"
            sizes = dict(zip(("images", "tiles", "w"), one.shape))
            products.append(rearrange(y, apart, **sizes))
        return short.outputs(products, rows)[:, :, :columns]

    most = NUMBERS // max(x[0].size, rows * columns * out_channels)
    y = lax.map(one_block, _in_blocks(x, most))
    return rearrange(y, "blocks block h w o -> (blocks block) h w o")[: len(x)]


def _winograd_kernel_gradient(
    x: Inputs, y_bar: Outputs, *, kernel_size: tuple[int, int], padding: Padding
) -> Kernel:
    r"""Along rows $\bar K = G^\top (A^\top \bar y \odot B x)$, summed over tiles.

    Along columns one is shifted against the other: that with fewer channels.
    """
    rows = y_bar.shape[1]
    (top, _), columns = padding
    size = kernel_size[1]
    short = Winograd.of(kernel_size[0])
    on_x = x.shape[-1] <= y_bar.shape[-1]

    def pairs(x: Array, y_bar: Array) -> list[tuple[Array, Array]]:
        both = zip(short.sums_of_inputs(x, rows, top), short.sums_of_outputs(y_bar))
        return [_shifted(*pair, 2, size, columns, on_x=on_x) for pair in both]

    most = NUMBERS // (2 * max(x[0].size, y_bar[0].size))  # shifts take room as well
    total = _products_over_pixels(pairs, x, y_bar, most)
    pattern = "product (w i) o" if on_x else "product i (w o)"
    total = rearrange(total, f"{pattern} -> product w i o", w=size)
    g = jnp.asarray(short.g, x.dtype)
    return einsum(g, total, "product tap, product w i o -> tap w i o")


def _kernel_gradient_in_blocks(
    x: Inputs, y_bar: Outputs, *, kernel_size: tuple[int, int], padding: Padding
) -> Kernel:
    r"""The same as a matrix product over all pixels `p`, a block of images at a time.

    $$\bar K_{ij} = \sum_p x_{p + (i, j)} \, \bar y_p^\top$$

    All shifts of `x` stacked as channels would make one large factor and one small one,
    and as many copies of `x` as there are taps. But only the difference of the two
    places counts, so `y_bar` may be shifted the other way instead: for each axis
    whichever makes the two stacks together the thinnest. With kernels of 5 and equal
    channels `x` takes the columns' shifts, `y_bar` the rows'.
    """
    in_channels, out_channels = x.shape[-1], y_bar.shape[-1]
    on_x = _axes_on_x(kernel_size, in_channels, out_channels)

    def pairs(x: Array, y_bar: Array) -> list[tuple[Array, Array]]:
        for i, (size, pad) in enumerate(zip(kernel_size, padding)):
            x, y_bar = _shifted(x, y_bar, 1 + i, size, pad, on_x=i in on_x)
        return [(x, y_bar)]

    most = PIXELS // (x.shape[1] * x.shape[2])
    total = _products_over_pixels(pairs, x, y_bar, most)[0]
    # The axis that was stacked last comes first.
    left = " ".join("hw"[axis] for axis in (1, 0) if axis in on_x)
    right = " ".join("hw"[axis] for axis in (1, 0) if axis not in on_x)
    sizes = {"h": kernel_size[0], "w": kernel_size[1], "i": in_channels}
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


def _shifted(
    x: Array,
    y_bar: Array,
    axis: int,
    size: int,
    padding: tuple[int, int],
    *,
    on_x: bool,
) -> tuple[Array, Array]:
    """Both with as many pixels: one of them has all its shifts stacked as channels."""
    before, after = padding
    if on_x:
        x = _stack(x, axis, padding, range(size), y_bar.shape[axis])
    else:
        around = (size - 1 - before, size - 1 - after)
        y_bar = _stack(y_bar, axis, around, range(size)[::-1], x.shape[axis])
    return x, y_bar


def _stack(
    x: Array, axis: int, padding: tuple[int, int], starts: Iterable[int], size: int
) -> Array:
    """Windows of the padded axis, as channels."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = padding
    x = jnp.pad(x, pads)
    windows = [lax.slice_in_dim(x, i, i + size, axis=axis) for i in starts]
    return jnp.concatenate(windows, axis=-1)


def _products_over_pixels(
    pairs: Callable[[Array, Array], list[tuple[Array, Array]]],
    x: Array,
    y_bar: Array,
    most: int,
) -> Float[Array, "pairs x_channels y_channels"]:
    """The outer products of pairs of images, summed over their pixels.

    `pairs` makes them, from a block of no more than `most` images at a time.
    """
    blocks = [_in_blocks(each, most) for each in (x, y_bar)]
    x_first, y_first = jax.eval_shape(pairs, *(each[0] for each in blocks))[0]
    # YNNPACK is faster with the thinner one on the left.
    swapped = x_first.shape[-1] > y_first.shape[-1]

    def add(total: Array, block: list[Array]) -> tuple[Array, None]:
        products = []
        for pair in pairs(*block):
            left, right = pair[::-1] if swapped else pair
            left, right = (
                rearrange(each, "... c -> (...) c") for each in (left, right)
            )
            products.append(jnp.matmul(left.mT, right))
        return total + jnp.stack(products), None

    shape = jax.eval_shape(add, 0.0, [each[0] for each in blocks])[0]
    total, _ = lax.scan(add, jnp.zeros(shape.shape, shape.dtype), blocks)
    return total.mT if swapped else total


def _in_blocks(x: Array, most: int) -> Array:
    """As few blocks as may be of no more than `most` images, filled up with zeros."""
    blocks = math.ceil(len(x) / max(1, most))
    block = math.ceil(len(x) / blocks)
    x = jnp.pad(x, ((0, blocks * block - len(x)), (0, 0), (0, 0), (0, 0)))
    return rearrange(x, "(blocks block) h w c -> blocks block h w c", block=block)
