from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import check_positive, check_shape
from ._convolve import convolve
from ._xla_convolve import LAST


def conv_transpose(
    x: Float[Array, "in_channels height width"],
    weight: Float[Array, "out_channels in_channels kernel_size kernel_size"],
    *,
    stride: int,
) -> Float[Array, "out_channels large_height large_width"]:
    """The transposed convolution with "SAME" padding, without a bias.

    It runs as one ordinary convolution over the small image that computes all
    `stride * stride` sub-pixels of a pixel as channels, then interleaves them (Shi et
    al. 2016). No zeros are inserted, forwards or backwards.

        stride 2, kernel 5: one small pixel m, two large pixels p and q per axis

        small    m-1     m     m+1
                  o      o      o
        large           p q             p takes taps 1, 3    of m-1, m
                                        q takes taps 0, 2, 4 of m-1, m, m+1

    **Arguments:**

    - `x`: One image; `jax.vmap` maps a batch.
    - `weight`: The kernel, laid out as in `equinox.nn.ConvTranspose2d`.
    - `stride`: How many times larger height and width become. (Keyword only argument.)

    **Returns:**

    The image of `stride * height` by `stride * width`, in the dtype of `x`. A
    `ValueError` names what does not fit.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import nn

    x, weight = jnp.ones((64, 8, 8)), jnp.ones((32, 64, 5, 5))
    print(nn.conv_transpose(x, weight, stride=2).shape)  # (32, 16, 16)
    ```
    """
    check_positive(stride=stride)
    side = weight.shape[-1]
    check_shape("weight", weight, "out in height width", (-1, -1, side, side))
    check_shape("x", x, "channels height width", (weight.shape[1], -1, -1))
    x = rearrange(x, "c h w -> h w c")
    x = _conv_transpose_last(x, weight, stride)
    return rearrange(x, "h w c -> c h w")


def convolve_last(conv: Any, x: Array) -> Array:
    """What a convolution does, on an image whose channels are its last axis.

    XLA on CPU convolves in this order; from the other it copies, twice for each.
    """
    if type(conv) is ConvTranspose2d:
        y = _conv_transpose_last(x, conv.weight, conv.stride)
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


def _conv_transpose_last(x: Array, weight: Array, stride: int) -> Array:
    kernel, padding = _subpixel_kernel(weight.astype(x.dtype), stride)
    phases = convolve(x[None], kernel, (padding, padding))
    return rearrange(
        phases,
        "1 h w (ph pw channels) -> (h ph) (w pw) channels",
        ph=stride,
        pw=stride,
    )


def taps_met(
    size: int, kernel_size: int, stride: int
) -> Bool[np.ndarray, "large_size kernel_size"]:
    """Which taps of the kernel meet the small image in each large row, or column."""
    large, taps = np.arange(stride * size)[:, None], np.arange(kernel_size)
    place = large + taps - _padding_before(kernel_size, stride)
    return (place % stride == 0) & (place >= 0) & (place < stride * size)


def _padding_before(kernel_size: int, stride: int) -> int:
    """Before the image with the zeros inserted: "SAME" as XLA defines it here."""
    if stride > kernel_size - 1:
        return kernel_size - 1
    return -((kernel_size + stride - 2) // -2)


def _subpixel_kernel(weight: Array, stride: int) -> tuple[Array, tuple[int, int]]:
    """The kernel of the small convolution, phases first, and its padding.

    Large pixel `s m + p` takes tap `t` of small pixel `m + (p + t - a) / s`, where `a`
    is the padding before the image with the zeros inserted. With `d` the first small
    pixel that any phase needs, tap `t = s j + (s d + a) - p` therefore meets small
    pixel `m + d + j`: cut the padded kernel into groups of `s` taps, `j` counting the
    groups, and phase `p` finds its taps in place `s - 1 - p` of each.
    """
    k, s = weight.shape[-1], stride
    before = _padding_before(k, s)
    first = (s - 1 - before) // s
    head = s - 1 - before - s * first
    groups = -((k + head) // -s)
    edges = (head, s * groups - k - head, 0)
    zero = jnp.zeros((), weight.dtype)
    taps = rearrange(
        lax.pad(weight, zero, ((0, 0, 0), (0, 0, 0), edges, edges)),
        "out channels (h ph) (w pw) -> ph pw out channels h w",
        ph=s,
        pw=s,
    )
    kernel = rearrange(taps[::-1, ::-1], "ph pw out c h w -> h w c (ph pw out)")
    return kernel, (-first, groups - 1 + first)


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
