"""Blocks on a canvas: gray or black, smooth or striped, with noise."""

import math
from typing import get_args, Literal, NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._scene import paint


Background = Literal["gray", "black", "gradient", "stripes"]


class Blocks(NamedTuple):
    """Blocks to be painted, and what is behind them."""

    gray: Float[Array, "height width"]
    colours: Float[Array, "objects channels"]
    size: Float[Array, "objects 2"]
    background: Background
    noise_on: str

    def __call__(
        self,
        corner: Float[Array, "objects 2"],
        grain: Float[Array, "channels height width"],
    ) -> tuple[Float[Array, "channels height width"], Int[Array, "height width"]]:
        everywhere = self.noise_on == "everything"
        canvas = jnp.broadcast_to(self.gray, grain.shape)
        if self.background != "black" and not everywhere:
            canvas = jnp.clip(canvas + grain, 0, 1)
        height, width = self.gray.shape
        boxes = _boxes(corner, self.size, (height, width))
        image, segmentation = paint(canvas, boxes, self.colours)
        if everywhere:
            image = jnp.clip(image + grain, 0, 1)
        return image, segmentation


def gray_canvas(
    background: Background, image_size: tuple[int, int], *, key: PRNGKeyArray
) -> Float[Array, "height width"]:
    """What is behind the blocks, without noise."""
    if background in ("gray", "black"):
        return jnp.full(image_size, 0.5 if background == "gray" else 0.0)
    angle_key, width_key, start_key = jr.split(key, 3)
    angle = jr.uniform(angle_key, maxval=2 * math.pi)
    down, right = jnp.sin(angle), jnp.cos(angle)
    height, width = image_size
    if background == "gradient":
        # From -1 to 1 along each axis, and after the division from corner to corner.
        y, x = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
        along = down * y[:, None] + jnp.broadcast_to(right * x[None], image_size)
        return 0.5 + 0.25 * along / (jnp.abs(down) + jnp.abs(right))
    y, x = jnp.arange(height, dtype=float), jnp.arange(width, dtype=float)
    along = down * y[:, None] + jnp.broadcast_to(right * x[None], image_size)
    stripe = jr.uniform(width_key, minval=2, maxval=6)
    start = 2 * jr.uniform(start_key)
    return 0.35 + 0.3 * (jnp.floor(along / stripe + start) % 2)


def _boxes(
    corner: Float[Array, "objects 2"],
    size: Float[Array, "objects 2"],
    image_size: tuple[int, int],
) -> Bool[Array, "objects height width"]:
    """The pixels whose middle lies in each block."""

    def along(axis: int) -> Bool[Array, "objects pixels"]:
        pixel = (jnp.arange(image_size[axis], dtype=float) + 0.5)[None, :]
        start = corner[:, axis, None]
        return (pixel >= start) & (pixel < start + size[:, axis, None])

    return along(0)[:, :, None] & along(1)[:, None, :]


def check_canvas(background: str, noise: float, noise_on: str) -> None:
    for name, value, choices in (
        ("background", background, get_args(Background)),
        ("noise_on", noise_on, ("background", "everything")),
    ):
        if value not in choices:
            listed = ", ".join(f'"{choice}"' for choice in choices)
            raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
    if not noise >= 0:
        raise ValueError(f"`noise` must not be negative, got {noise}.")
