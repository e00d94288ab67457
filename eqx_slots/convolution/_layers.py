from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jax import lax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import check_positive
from ._convolve import convolve
from ._transpose import conv_transpose, conv_transpose_last
from ._xla import LAST


class ConvTranspose2d(eqx.Module):
    """A transposed convolution that makes an image `stride` times as large.

    It equals `equinox.nn.ConvTranspose2d(..., padding="SAME")`, weight for weight, and
    is several times faster (see [`eqx_slots.nn.conv_transpose`][]).

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    conv = nn.ConvTranspose2d(64, 32, kernel_size=5, stride=2, key=jr.key(0))
    print(conv(jnp.ones((64, 8, 8))).shape)  # (32, 16, 16)
    ```
    """

    weight: Float[Array, "out_channels in_channels kernel_size kernel_size"]
    bias: Float[Array, "out_channels 1 1"] | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_channels`, `out_channels`: Channels before and after.
        - `kernel_size`: Side of the square kernel.
        - `stride`: How many times larger height and width become.
        - `use_bias`: Whether to add one number per channel. (Keyword only argument.)
        - `dtype`: Of the parameters; `None` is JAX's default. (Keyword only argument.)
        - `key`: Randomness for initialisation, which is that of Equinox. (Keyword only
            argument.)
        """
        check_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        weight_key, bias_key = jr.split(key)
        dtype = jnp.result_type(float) if dtype is None else dtype
        limit = (in_channels * kernel_size**2) ** -0.5
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = jr.uniform(weight_key, shape, dtype, -limit, limit)
        self.bias = (
            jr.uniform(bias_key, (out_channels, 1, 1), dtype, -limit, limit)
            if use_bias
            else None
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride

    def __call__(
        self, x: Float[Array, "{self.in_channels} height width"]
    ) -> Float[Array, "{self.out_channels} large_height large_width"]:
        """**Arguments:**

        - `x`: One image; `jax.vmap` maps a batch.

        **Returns:**

        The image of `stride * height` by `stride * width`.
        """
        y = conv_transpose(x, self.weight, stride=self.stride)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


def convolve_last(conv: Any, x: Array) -> Array:
    """What a convolution does, on an image whose channels are its last axis.

    XLA on CPU convolves in this order; from the other it copies, twice for each.
    """
    if type(conv) is ConvTranspose2d:
        y = conv_transpose_last(x, conv.weight, conv.stride)
    elif type(conv) is eqx.nn.Conv2d and conv.padding_mode == "ZEROS":
        y = _conv_last(conv, x[None], rearrange(conv.weight, "o i h w -> h w i o"))[0]
    else:
        y = conv(rearrange(x, "h w c -> c h w"))
        return rearrange(y, "c h w -> h w c")
    if conv.bias is None:
        return y
    bias = rearrange(conv.bias, "channels 1 1 -> channels").astype(y.dtype)
    return y + jnp.broadcast_to(bias, y.shape)


def _conv_last(conv: eqx.nn.Conv2d, x: Array, kernel: Array) -> Array:
    if conv.stride == conv.dilation == (1, 1) and conv.groups == 1:
        padding = conv.padding
        if isinstance(padding, str):
            sizes = (x.shape[1:3], kernel.shape[:2])
            padding = lax.padtype_to_pads(*sizes, conv.stride, padding)
        (top, bottom), (left, right) = padding
        return convolve(x, kernel, ((top, bottom), (left, right)))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=conv.stride,
        padding=conv.padding,
        rhs_dilation=conv.dilation,
        feature_group_count=conv.groups,
        dimension_numbers=LAST,
    )
