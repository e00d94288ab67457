"""Where what a pixel shows was in the frame before, and the colours of that."""

import math

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from .._misc import check_floating, check_shape
from ._scene import rgb_of


def flow_to_rgb(
    flow: Float[Array, "2 height width"],
) -> Float[Array, "3 height width"]:
    r"""Flow as a picture, by the colour wheel of SAVi's targets (Kipf et al. 2022).

    The hue is the direction, $(\mathrm{atan2}(f_1, f_0) / \pi + 1) / 2$ of the way
    round; the saturation is the length in fiftieths of the image's diagonal, at most 1;
    the value is 1, so what rests is white. SAVi's code rounds the result to bytes, this
    does not.

    **Arguments:**

    - `flow`: $(f_0, f_1)$ in pixels, down and to the right, such as a frame of
        [`eqx_slots.data.Video`][]. SAVi's code takes the two components of a file in
        the order in which they lie. A clip is mapped by `jax.vmap`.

    **Returns:**

    Colours in [0, 1], red, green and blue. Another shape, or integers, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import data

    down = jnp.zeros((2, 32, 32)).at[0, :, 16:].set(3.0)
    colours = data.flow_to_rgb(down)
    print(colours[:, 0, 0], colours[:, 0, 31])  # [1. 1. 1.] [0. 1. 1.]
    ```
    """
    call = "jax.vmap(flow_to_rgb)({name})"
    check_shape("flow", flow, "axes height width", (2, -1, -1), batch=call)
    check_floating("flow", flow)
    down, right = flow
    hue = 3 * (jnp.arctan2(right, down) / math.pi + 1)
    length = jnp.sqrt(down**2 + right**2)
    saturation = jnp.clip(50 / math.hypot(*down.shape) * length, 0, 1)
    return rgb_of(hue, saturation, jnp.ones_like(hue))


def rigid_flow(
    segmentation: Int[Array, "frames height width"],
    centre: Float[Array, "frames objects 2"],
    turn: Float[Array, "frames objects"] | None = None,
) -> Float[Array, "frames 2 height width"]:
    """The flow of objects that move, and turn to the left about their centres, in front
    of a background that rests."""
    before = lambda x: jnp.concatenate([x[:1], x[:-1]])
    # The background is object 0 and stays where it is.
    of_pixels = lambda x: _picked(jnp.pad(x, ((0, 0), (1, 0))), segmentation)
    moved = rearrange(before(centre) - centre, "frames objects yx -> yx frames objects")
    down, right = (of_pixels(x) for x in moved)
    if turn is not None:
        _, height, width = segmentation.shape
        back = before(turn) - turn
        cos, sin = of_pixels(jnp.cos(back) - 1), of_pixels(jnp.sin(back))
        centres = rearrange(centre, "frames objects yx -> yx frames objects")
        at_y, at_x = (of_pixels(x) for x in centres)
        y = (jnp.arange(height, dtype=float) + 0.5)[None, :, None] - at_y
        x = (jnp.arange(width, dtype=float) + 0.5)[None, None, :] - at_x
        down, right = down + cos * y - sin * x, right + cos * x + sin * y
    return jnp.stack([down, right], axis=1)


def _picked(
    numbers: Float[Array, "frames labels"], label: Int[Array, "frames height width"]
) -> Float[Array, "frames height width"]:
    """The number of each pixel's label."""
    flat = rearrange(label, "frames h w -> frames (h w)")
    picked = jnp.take_along_axis(numbers, flat, axis=1)
    return picked.reshape(label.shape)
