"""The transposed convolution of an image that is the same everywhere."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import einsum
from jaxtyping import Array, Float

from ..convolution import taps_met
from ..nn import ConvTranspose2d


def convolve_constant(
    conv: ConvTranspose2d,
    pixel: Float[Array, " in_channels"],
    size: tuple[int, int],
) -> Float[Array, "large_height large_width out_channels"]:
    """What `conv` makes of an image of this `size` with `pixel` everywhere, bias apart.

    Away from the edges all large pixels of a phase are alike, so only the few kinds of
    rows and columns there are, six of each for kernels of 5 and strides of 2, are
    computed and then repeated. Their kernels, sums of those taps that meet the image,
    do not depend on `pixel`: `jax.vmap` sums them once for all.
    """
    rows, columns = (
        _Kinds.of(taps_met(length, conv.kernel_size, conv.stride), conv.stride)
        for length in size
    )
    kernel = conv.weight.astype(pixel.dtype)
    kernel = einsum(
        kernel,
        jnp.asarray(rows.taps, pixel.dtype),
        "out channels i j, row i -> row channels j out",
    )
    kernel = einsum(
        kernel,
        jnp.asarray(columns.taps, pixel.dtype),
        "row channels j out, column j -> row column channels out",
    )
    kinds = einsum(pixel, kernel, "channels, row column channels out -> row column out")
    return rows.repeated(columns.repeated(kinds, axis=1), axis=0)


class _Kinds(NamedTuple):
    """The kinds of large rows, or columns, that such a convolution tells apart.

        edge      as often as there is room       edge
        a b    p q   p q   p q   p q   p q        c d

    `taps` says for each kind which taps of the kernel meet the image: `before` kinds at
    the first edge, one for each of `stride` phases, which come `repeats` times, then
    those at the last edge. `repeats` is 0 if there is nothing but edges.
    """

    taps: np.ndarray
    before: int
    stride: int
    repeats: int

    @classmethod
    def of(cls, taps: np.ndarray, stride: int) -> "_Kinds":
        alike = np.all(taps[:-stride] == taps[stride:], axis=1)
        if not alike.any():
            return cls(taps, len(taps), stride, 0)
        before = int(alike.argmax())
        repeats = 1 + int(alike.sum()) // stride
        after = before + repeats * stride
        taps = np.concatenate([taps[: before + stride], taps[after:]])
        return cls(taps, before, stride, repeats)

    def repeated(self, kinds: Array, *, axis: int) -> Array:
        if self.repeats == 0:
            return kinds
        edges = [self.before, self.before + self.stride]
        before, phases, after = jnp.split(kinds, edges, axis)
        phases = jnp.tile(phases, [self.repeats if a == axis else 1 for a in range(3)])
        return jnp.concatenate([before, phases, after], axis)
