r"""Convolutions with fewer multiplications, by Winograd's short algorithms.

Four rows of a result under a kernel of five take 20 multiplications, row by tap. The
same four rows can be had from 8 products of one sum of rows and one sum of taps each:

$$y = A \, (G k \odot B x)$$

(Winograd 1980; Lavin and Gray 2016 for networks). The matrices say that a product of
two polynomials is known from its values at as many points as it has coefficients.
Rounding grows with the points. There are few of them, and along rows alone: in float32
results and gradients are off by 1e-6 to 4e-6 of the largest, the sums written out by
about 5e-7.

    x   o o o o o o o o            8 rows of a tile; the next begins 4 rows later
        | B: sums of rows
        o o o o o o o o            8 images with a quarter of the rows, each convolved
        | along columns            along columns by its own sum of the kernel's rows
        o o o o o o o o
        | A: sums of products
    y   o o o o                    4 rows
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float
from numpy.polynomial.polynomial import polyfromroots


# Rows of a result in a tile; rows of the kernels that were measured to gain.
ROWS, TAPS = 4, (3, 4, 5)
# Sums are made of each channel before, and after; with fewer they cost what they save.
CHANNELS = 16
# The kernel is summed too; with fewer pixels in all results that costs too much.
LEAST_PIXELS = 1024


def pays(images: int, out_size: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Whether products are far fewer, and channels and pixels enough for the sums."""
    rows, columns = out_size
    taps, _, in_channels, out_channels = kernel
    products = math.ceil(rows / ROWS) * (ROWS + taps - 1)
    return (
        taps in TAPS
        and products <= 0.75 * rows * taps
        and min(in_channels, out_channels) >= CHANNELS
        and images * rows * columns >= LEAST_PIXELS
    )


class Winograd(NamedTuple):
    """The three matrices for a number of taps, each with one row for each product."""

    a: Float[np.ndarray, "products rows"]
    g: Float[np.ndarray, "products taps"]
    b: Float[np.ndarray, "products products"]

    @classmethod
    def of(cls, taps: int) -> "Winograd":
        """By Toom and Cook, with infinity for the last of the points."""
        products = ROWS + taps - 1
        points = np.array([0, 1, -1, 2, -2, 0.5, -0.5])[: products - 1]
        a, g, b = (np.zeros((products, size)) for size in (ROWS, taps, products))
        for i, point in enumerate(points):
            others = np.delete(points, i)
            a[i] = point ** np.arange(ROWS)
            g[i] = point ** np.arange(taps) / np.prod(point - others)
            b[i, :-1] = polyfromroots(others)
        a[-1, -1] = g[-1, -1] = 1
        b[-1] = polyfromroots(points)
        return cls(a, g, b)

    def sums_of_inputs(
        self, x: Float[Array, "images height width channels"], rows: int, top: int
    ) -> list[Float[Array, "images tiles width channels"]]:
        """`B x`, for as many rows of the result and `top` rows of zeros before `x`."""
        tiles = math.ceil(rows / ROWS)
        bottom = ROWS * (tiles + 1) - top - x.shape[1]
        x = jnp.pad(x, ((0, 0), (top, bottom), (0, 0), (0, 0)))
        x = rearrange(x, "images (tiles row) w c -> images tiles row w c", row=ROWS)
        here, below = x[:, :-1], x[:, 1:]
        both = [each[:, :, row] for each in (here, below) for row in range(ROWS)]
        return [_sum(weights, both) for weights in self.b]

    def outputs(
        self, products: Sequence[Float[Array, "images tiles width channels"]], rows: int
    ) -> Float[Array, "images rows width channels"]:
        """`A` of the products, as many rows of it."""
        y = jnp.stack([_sum(weights, products) for weights in self.a.T], axis=2)
        y = rearrange(y, "images tiles row w c -> images (tiles row) w c")
        return y[:, :rows]

    def sums_of_outputs(
        self, y: Float[Array, "images rows width channels"]
    ) -> list[Float[Array, "images tiles width channels"]]:
        """The transpose of `outputs`: what it gives back for gradients of its rows."""
        y = jnp.pad(y, ((0, 0), (0, -y.shape[1] % ROWS), (0, 0), (0, 0)))
        y = rearrange(y, "images (tiles row) w c -> images tiles row w c", row=ROWS)
        rows = [y[:, :, row] for row in range(ROWS)]
        return [_sum(weights, rows) for weights in self.a]


def _sum(weights: Float[np.ndarray, " n"], arrays: Sequence[Array]) -> Array:
    terms = [float(w) * x for w, x in zip(weights, arrays) if w != 0]
    return functools.reduce(operator.add, terms)
