import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float

from .._misc import check_positive, check_shape
from ._convolve import convolve


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
    x = conv_transpose_last(x, weight, stride)
    return rearrange(x, "h w c -> c h w")


def conv_transpose_last(x: Array, weight: Array, stride: int) -> Array:
    """The same with channels last."""
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
