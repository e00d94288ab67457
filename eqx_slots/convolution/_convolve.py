"""Convolution of many images with one kernel: the one place that decides how.

`jax.vmap` shows a convolution one image; what it makes of a batch, the rule of a
primitive decides. Hence the two primitives below, the convolution and the gradient of
its kernel. Each is bilinear, and the derivatives of either are given by both, so they
differentiate any number of times, in any mode. On one CPU device, in float32, they do
what `_cpu.py` says; elsewhere what XLA does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jaxtyping import Array

from ._cpu import cpu_convolve, cpu_kernel_gradient
from ._xla import (
    Inputs,
    Kernel,
    Outputs,
    Padding,
    xla_convolve,
    xla_kernel_gradient,
)


def convolve(x: Inputs, kernel: Kernel, padding: Padding) -> Outputs:
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
    return xla_convolve(x, kernel, padding=padding)


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
        gains = alone and 0 not in x.shape and x.dtype == jnp.float32
        rule = on_cpu if gains else anywhere
        return mlir.lower_fun(rule, multiple_results=False)(ctx, *args, **params)

    mlir.register_lowering(primitive, mlir.lower_fun(anywhere, multiple_results=False))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


_convolution = _primitive("slots_conv", xla_convolve, cpu_convolve)
_correlation = _primitive(
    "slots_conv_kernel_gradient", xla_kernel_gradient, cpu_kernel_gradient
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
        return _map_any(xla_convolve, args, axes, **params)
    x = jnp.moveaxis(x, x_axis, 0)
    batch, images = x.shape[:2]
    together = rearrange(x, "batch images ... -> (batch images) ...")
    y = _convolution.bind(together, kernel, **params)
    apart = "(batch images) ... -> batch images ..."
    # Both sizes, since of no images at all the one does not tell the other.
    return rearrange(y, apart, batch=batch, images=images), 0


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
batching.primitive_batchers[_correlation] = partial(_map_any, xla_kernel_gradient)
