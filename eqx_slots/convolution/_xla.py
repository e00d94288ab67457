"""Convolutions as XLA has them, channels last, with strides of 1."""

from functools import partial

import jax
from jax import lax
from jaxtyping import Array, Float


Padding = tuple[tuple[int, int], tuple[int, int]]
Inputs = Float[Array, "images height width in_channels"]
Kernel = Float[Array, "kernel_height kernel_width in_channels out_channels"]
Outputs = Float[Array, "images out_height out_width out_channels"]
LAST = ("NHWC", "HWIO", "NHWC")


def xla_convolve(x: Inputs, kernel: Kernel, *, padding: Padding) -> Outputs:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAST)


def xla_kernel_gradient(
    x: Inputs, y_bar: Outputs, *, kernel_size: tuple[int, int], padding: Padding
) -> Kernel:
    """The kernel's gradient, where `y_bar` is that of the convolution of `x`."""
    shape = (*kernel_size, x.shape[-1], y_bar.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    transpose = jax.linear_transpose(partial(xla_convolve, x, padding=padding), kernel)
    return transpose(y_bar)[0]
