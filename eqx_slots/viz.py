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
    """An image in [0, 1], channels first, as `uint8`; values outside are clipped."""
    array = np.asarray(image)
    check_floating("image", array)
    call = "[picture(image) for image in {name}]"
    check_shape("image", array, "rgb height width", (3, -1, -1), batch=call)
    array = array.astype(np.float64)
    scaled = 255 * np.clip(np.nan_to_num(array), 0, 1)
    return rearrange(np.rint(scaled).astype(np.uint8), "rgb h w -> h w rgb")


def segmentation(labels: ArrayLike) -> Picture:
    """A label map `(height, width)` in colours, one for each label; they repeat."""
    array = np.asarray(labels)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            "`labels` must be integers of shape (height, width), got"
            f" {array.dtype} of shape {array.shape}."
        )
    return _PALETTE[array % len(_PALETTE)]


def heatmap(values: ArrayLike) -> Picture:
    """A map `(height, width)` of numbers in [0, 1], from black to white."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"`values` must be (height, width), got shape {array.shape}.")
    return picture(repeat(array, "h w -> rgb h w", rgb=3))


def enlarge(image: Picture, factor: int) -> Picture:
    """Each pixel becomes a square of `factor` by `factor`, edges staying sharp."""
    check_positive(factor=factor)
    return repeat(image, "h w rgb -> (h a) (w b) rgb", a=factor, b=factor)


def grid(
    rows: Sequence[Sequence[Picture]], *, gap: int = 2, fill: int = 255
) -> Picture:
    """Pictures of equal size in rows and columns.

    **Arguments:**

    - `rows`: The pictures, row by row; each row has equally many.
    - `gap`: Pixels between two of them and around. (Keyword only argument.)
    - `fill`: Gray value of the gaps. (Keyword only argument.)

    **Returns:**

    One picture.
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

    - `image`: The input.
    - `reconstruction`: What the slots paint together.
    - `rgb`: The picture of each slot, `slots 3 height width`.
    - `masks`: The share of each slot in each pixel, `slots height width`.

    **Returns:**

    Input, reconstruction, segmentation (the slot with the largest mask), then for each
    slot its picture times its mask.
    """
    shares = np.asarray(masks)
    pictures = np.asarray(rgb)
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

    - `image`: The input, `3 height width`.
    - `attention`: What each slot won of each place, `slots places`; the places are a
        grid over the image, row by row, as [`eqx_slots.models.Encoder`][] lists them.

    **Returns:**

    The input, then for each slot the input darkened where the slot does not look.
    """
    array, shares = np.asarray(image), np.asarray(attention)
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
