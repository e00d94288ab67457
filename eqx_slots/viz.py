"""Pictures of slots: arrays in, `uint8` arrays out.

Images come in as the models have them, channels first with values in [0, 1], and go
out as picture files want them, `height width 3`. Files are written by the caller.
"""

from collections.abc import Sequence

import numpy as np
from einops import rearrange, repeat
from jaxtyping import ArrayLike, UInt8

from ._misc import check_floating, check_positive, check_shape, grid_stride


# Height, width, colour; pictures of one call may differ in size.
Picture = UInt8[np.ndarray, "_ _ 3"]
"""What every function gives: an `uint8` array of `height width 3`, as files want it."""

# Colours that are easy to tell apart, also for the colour-blind (Okabe and Ito 2008),
# the first, for background or slot 0, being a neutral gray.
_PALETTE = np.array(
    [
        (120, 120, 120),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (30, 30, 30),
        (255, 255, 255),
    ],
    dtype=np.uint8,
)


def picture(image: ArrayLike) -> Picture:
    """An image in [0, 1], channels first, as `uint8`; values outside are clipped.

    **Arguments:**

    - `image`: The image, `3 height width`, or `1 height width` for grays. Of one in
        [-1, 1] give `(image + 1) / 2`. NaN becomes 0. Another shape is a `ValueError`.

    **Returns:**

    The picture, `height width 3`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    made = viz.picture(jnp.ones((3, 32, 48)))
    print(made.shape, made.dtype, made.max())  # (32, 48, 3) uint8 255
    ```
    """
    array = _in_colour(image)
    check_floating("image", array)
    call = "[picture(image) for image in {name}]"
    check_shape("image", array, "rgb height width", (3, -1, -1), batch=call)
    array = array.astype(np.float64)
    scaled = 255 * np.clip(np.nan_to_num(array), 0, 1)
    return rearrange(np.rint(scaled).astype(np.uint8), "rgb h w -> h w rgb")


def _in_colour(image: ArrayLike) -> np.ndarray:
    """One channel becomes three alike."""
    array = np.asarray(image)
    is_gray = array.ndim > 2 and array.shape[-3] == 1
    return np.repeat(array, 3, axis=-3) if is_gray else array


def segmentation(labels: ArrayLike) -> Picture:
    """A label map in colours.

    **Arguments:**

    - `labels`: Integers, `height width`; masks become labels by
        `jnp.argmax(masks, axis=0)`. Anything else is a `ValueError`.

    **Returns:**

    The picture. The ten colours repeat.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    masks = jnp.zeros((7, 32, 32)).at[2].set(1)
    print(viz.segmentation(jnp.argmax(masks, axis=0)).shape)  # (32, 32, 3)
    ```
    """
    array = np.asarray(labels)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            "`labels` must be integers of shape (height, width), got"
            f" {array.dtype} of shape {array.shape}."
        )
    return _PALETTE[array % len(_PALETTE)]


def heatmap(values: ArrayLike) -> Picture:
    """A map of numbers in [0, 1], from black to white.

    **Arguments:**

    - `values`: The numbers, `height width`; another shape is a `ValueError`.

    **Returns:**

    The picture, in grays.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    print(viz.heatmap(jnp.full((32, 32), 0.5)).shape)  # (32, 32, 3)
    ```
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"`values` must be (height, width), got shape {array.shape}.")
    return picture(repeat(array, "h w -> rgb h w", rgb=3))


def enlarge(image: Picture, factor: int) -> Picture:
    """Each pixel becomes a square of `factor` by `factor`, edges staying sharp.

    **Arguments:**

    - `image`: A picture, as the other functions give them.
    - `factor`: A positive integer; anything else is a `ValueError`.

    **Returns:**

    The picture, `factor` times as high and as wide.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    small = viz.picture(jnp.zeros((3, 32, 32)))
    print(viz.enlarge(small, 4).shape)  # (128, 128, 3)
    ```
    """
    check_positive(factor=factor)
    return repeat(image, "h w rgb -> (h a) (w b) rgb", a=factor, b=factor)


def grid(
    rows: Sequence[Sequence[Picture]], *, gap: int = 2, fill: int = 255
) -> Picture:
    """Pictures of equal size in rows and columns.

    **Arguments:**

    - `rows`: The pictures, row by row; each row has equally many.
    - `gap`: Pixels between two of them and around. (Keyword only argument.)
    - `fill`: Gray value of the gaps, 0 to 255. (Keyword only argument.)

    **Returns:**

    One picture. Pictures of different sizes, or rows of different lengths, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    black = viz.picture(jnp.zeros((3, 32, 32)))
    print(viz.grid([[black] * 3, [black] * 3]).shape)  # (70, 104, 3)
    ```
    """
    shapes = {np.shape(image) for row in rows for image in row}
    if len(shapes) != 1 or len({len(row) for row in rows}) != 1:
        raise ValueError(
            "`rows` must hold equally many pictures of one size, got"
            f" {[len(row) for row in rows]} a row with shapes {sorted(shapes)}."
        )
    edges = ((gap, 0), (gap, 0), (0, 0))
    padded = [
        [np.pad(image, edges, constant_values=fill) for image in row] for row in rows
    ]
    whole = np.concatenate([np.concatenate(row, axis=1) for row in padded], axis=0)
    return np.pad(whole, ((0, gap), (0, gap), (0, 0)), constant_values=fill)


def slot_row(
    image: ArrayLike, reconstruction: ArrayLike, rgb: ArrayLike, masks: ArrayLike
) -> list[Picture]:
    """What an autoencoder made of one image, as a row for [`eqx_slots.viz.grid`][].

    **Arguments:**

    - `image`: The input, `3 height width` in [0, 1]; one channel does as well.
    - `reconstruction`: What the slots paint together, `3 height width`.
    - `rgb`: The picture of each slot, `slots 3 height width`.
    - `masks`: The share of each slot in each pixel, `slots height width`.

    **Returns:**

    Input, reconstruction, segmentation (the slot with the largest mask), then for each
    slot its picture times its mask.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import viz
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    image = jnp.zeros((3, 32, 32))
    made = eqx.filter_jit(model)(image)
    row = viz.slot_row(image, made.image, made.rgb, made.masks)
    print(len(row), viz.grid([row]).shape)  # 10 (36, 342, 3)
    ```
    """
    shares = np.asarray(masks)
    pictures = _in_colour(rgb)
    call = "[slot_row(*one) for one in zip(image, reconstruction, rgb, masks)]"
    axes = "slots rgb height width"
    check_shape("rgb", pictures, axes, (-1, 3, -1, -1), batch=call)
    slots, _, height, width = pictures.shape
    check_shape("masks", shares, "slots height width", (slots, height, width))
    labels = np.argmax(shares, axis=0)
    painted = pictures * shares[:, None]
    return [
        picture(image),
        picture(reconstruction),
        segmentation(labels),
        *(picture(one) for one in painted),
    ]


def attention_row(image: ArrayLike, attention: ArrayLike) -> list[Picture]:
    """Where each slot looks, as a row for [`eqx_slots.viz.grid`][].

    **Arguments:**

    - `image`: The input, `3 height width` in [0, 1]; one channel does as well.
    - `attention`: What each slot won of each place, `slots places`; the places are a
        grid over the image, row by row, as [`eqx_slots.models.Encoder`][] lists them.

    **Returns:**

    The input, then for each slot the input darkened where the slot does not look.
    Places that are no grid over the image are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import viz

    image, attention = jnp.ones((3, 32, 32)), jnp.full((7, 256), 1 / 7)
    row = viz.attention_row(image, attention)
    print(len(row), row[0].shape)  # 8 (32, 32, 3)
    ```
    """
    array, shares = _in_colour(image), np.asarray(attention)
    call = "[attention_row(*one) for one in zip(image, attention)]"
    check_shape("image", array, "rgb height width", (3, -1, -1), batch=call)
    check_shape("attention", shares, "slots places", (-1, -1), batch=call)
    _, height, width = array.shape
    stride = grid_stride(height, width, shares.shape[1])
    maps = repeat(
        shares,
        "slots (h w) -> slots 1 (h a) (w b)",
        h=-(-height // stride),
        a=stride,
        b=stride,
    )[..., :height, :width]
    return [picture(array), *(picture(array * one) for one in maps)]
