import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import einsum, rearrange
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_key,
    check_positive,
    check_shape,
)
from ..convolution import convolve_last
from ..nn import ConvTranspose2d, SoftPositionEmbedding
from ._broadcast import convolve_constant


class Decoded(NamedTuple):
    """What one slot paints.

    **Fields:**

    - `rgb`: A picture, `channels height width`.
    - `mask_logits`: How much the slot wants each pixel, `height width`.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    rgb, mask_logits = jax.jit(jax.vmap(model.decoder))(jnp.ones((7, 64)))
    print(rgb.shape, mask_logits.shape)  # (7, 3, 32, 32) (7, 32, 32)
    ```
    """

    rgb: Float[Array, "channels height width"]
    mask_logits: Float[Array, "height width"]


class Composite(NamedTuple):
    """Many slots in one image, as [`eqx_slots.models.composite`][] gives them back.

    **Fields:**

    - `image`: The image, `channels height width`.
    - `masks`: The share of each slot in each pixel, `slots height width`. They sum to 1
        over the slots, or are 0 where no slot is kept.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import composite

    rgb = jr.uniform(jr.key(0), (7, 3, 32, 32))
    without_last = jnp.ones(7).at[-1].set(0)
    made = composite(rgb, jnp.zeros((7, 32, 32)), keep=without_last)
    print(made.image.shape, made.masks[-1].any())  # (3, 32, 32) False
    ```
    """

    image: Float[Array, "channels height width"]
    masks: Float[Array, "slots height width"]


def composite(
    rgb: Float[Array, "slots channels height width"],
    mask_logits: Float[Array, "slots height width"],
    *,
    keep: Float[Array, " slots"] | None = None,
) -> Composite:
    r"""Put what the slots have painted into one image.

    $$m_k = \frac{z_k \exp(l_k)}{\sum_j z_j \exp(l_j)}, \qquad
    \text{image} = \sum_k m_k \, \text{rgb}_k$$

    with $z = 1$ unless `keep` says otherwise.

    **Arguments:**

    - `rgb`: The picture of each slot.
    - `mask_logits`: How much each slot wants each pixel.
    - `keep`: Factor on each slot's numerator in the softmax, from 0 (the slot is not
        there) to 1, such as the mask of [`eqx_slots.nn.KeepSlots`][]. (Keyword only
        argument.)

    **Returns:**

    A [`eqx_slots.models.Composite`][]: the image, and the masks that weight the
    pictures in it; both 0 where no slot is kept. Arrays that do not fit each
    other are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import composite

    rgb = jr.uniform(jr.key(0), (7, 3, 32, 32))
    mask_logits = jr.normal(jr.key(1), (7, 32, 32))
    image, masks = composite(rgb, mask_logits)
    print(image.shape, jnp.allclose(masks.sum(axis=0), 1))  # (3, 32, 32) True
    ```
    """
    check_shape("rgb", rgb, "slots channels height width", (-1, -1, -1, -1))
    slots, _, height, width = rgb.shape
    axes = "slots height width"
    check_shape("mask_logits", mask_logits, axes, (slots, height, width))
    wide = accumulator_dtype(rgb.dtype)
    logits = mask_logits.astype(wide)
    if keep is None:
        masks = jax.nn.softmax(logits, axis=0)
    else:
        check_shape("keep", keep, "slots", (slots,))
        masks = _weighted_softmax(logits, keep.astype(wide)[:, None, None])
    image = einsum(
        rgb.astype(wide), masks, "slots channels h w, slots h w -> channels h w"
    )
    return Composite(image.astype(rgb.dtype), masks.astype(rgb.dtype))


def _weighted_softmax(logits: Array, weights: Array) -> Array:
    """`weights * exp(logits)`, divided by its sum over the first axis."""
    weights = jnp.broadcast_to(weights, logits.shape)
    largest = jnp.max(jnp.where(weights > 0, logits, -jnp.inf), axis=0, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    # A slot that is not kept may want a pixel more than all others. Its numerator is
    # zero, but not its gradient: what it would paint if it were kept; hence the bound.
    powers = jnp.exp(jnp.minimum(logits - jnp.broadcast_to(largest, logits.shape), 30))
    numerators = weights * powers
    total = jnp.sum(numerators, axis=0, keepdims=True)
    return numerators / jnp.broadcast_to(jnp.where(total > 0, total, 1), logits.shape)


class SpatialBroadcastDecoder(eqx.Module):
    """One slot becomes a picture and a mask.

    The slot is copied to every place of a small grid, places are told apart by a soft
    position embedding, and transposed convolutions with ReLU between them enlarge the
    grid to the image (Watters et al. 2019, Locatello et al. 2020). A grid as large as
    the image with strides of 1 is full-resolution broadcast.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import SpatialBroadcastDecoder

    sizes = {"hidden_sizes": (32,), "kernel_sizes": (5, 3), "strides": (2, 2)}
    decoder = SpatialBroadcastDecoder(64, grid_size=(8, 8), **sizes, key=jr.key(0))
    rgb, mask_logits = decoder(jnp.ones(64))
    print(rgb.shape, mask_logits.shape)  # (3, 32, 32) (32, 32)
    ```
    """

    positions: SoftPositionEmbedding
    convs: tuple[ConvTranspose2d, ...]
    rgb_activation: Callable[[Array], Array]
    slot_size: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    grid_size: tuple[int, int] = eqx.field(static=True)
    image_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        *,
        grid_size: tuple[int, int],
        hidden_sizes: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        image_size: tuple[int, int] | None = None,
        out_channels: int = 3,
        rgb_activation: Callable[[Array], Array] = jax.nn.sigmoid,
        grid: Literal["paper", "savi"] = "paper",
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of a slot.
        - `grid_size`: Height and width of the grid that the slot is copied to. (Keyword
            only argument, as all that follow.)
        - `hidden_sizes`: Channels after each transposed convolution but the last.
        - `kernel_sizes`, `strides`: Of each transposed convolution, the last included.
            The grid times the product of the strides is what they paint.
        - `image_size`: Height and width of the image, where that is more: what is too
            much on the right and at the bottom is cut off, so that a grid rounded up
            serves any size. `None` is all of it; more is a `ValueError`.
        - `out_channels`: Channels of the picture; the mask comes on top.
        - `rgb_activation`: Function on the picture: `jax.nn.sigmoid` for images in
            [0, 1], `jax.nn.identity` for the linear output of the official code.
        - `grid`: As for [`eqx_slots.nn.SoftPositionEmbedding`][].
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        height, width = grid_size
        check_key(key)
        check_positive(
            slot_size=slot_size,
            grid_height=height,
            grid_width=width,
            out_channels=out_channels,
        )
        if not len(kernel_sizes) == len(strides) == len(hidden_sizes) + 1:
            raise ValueError(
                "`kernel_sizes` and `strides` need one entry for each transposed"
                f" convolution, that is {len(hidden_sizes) + 1} for"
                f" {len(hidden_sizes)} `hidden_sizes`; got {len(kernel_sizes)} and"
                f" {len(strides)}."
            )
        for hidden_size in hidden_sizes:
            check_positive(hidden_sizes=hidden_size)
        for kernel_size, stride in zip(kernel_sizes, strides):
            check_positive(kernel_sizes=kernel_size, strides=stride)
        position_key, *conv_keys = jr.split(key, 1 + len(strides))
        sizes = (slot_size, *hidden_sizes, out_channels + 1)
        self.positions = SoftPositionEmbedding(
            slot_size, grid=grid, dtype=dtype, key=position_key
        )
        self.convs = tuple(
            ConvTranspose2d(*channels, kernel, stride, dtype=dtype, key=conv_key)
            for channels, kernel, stride, conv_key in zip(
                pairwise(sizes), kernel_sizes, strides, conv_keys
            )
        )
        self.rgb_activation = rgb_activation
        self.slot_size = slot_size
        self.out_channels = out_channels
        self.grid_size = (height, width)
        scale = math.prod(strides)
        painted = (scale * height, scale * width)
        height, width = painted if image_size is None else image_size
        self.image_size = (height, width)
        for size, most in zip(self.image_size, painted, strict=True):
            check_positive(image_size=size)
            if size > most:
                raise ValueError(
                    f"`image_size` must be {painted} at most, what `grid_size` times"
                    f" the product of `strides` paints, got {self.image_size}; a larger"
                    " grid paints more."
                )

    def __call__(self, slot: Float[Array, " {self.slot_size}"]) -> Decoded:
        """**Arguments:**

        - `slot`: One slot; `jax.vmap` maps all of them.

        **Returns:**

        A [`eqx_slots.models.Decoded`][] of size `image_size`.
        """
        slot = as_array("slot", slot)
        check_floating("slot", slot)
        check_shape("slot", slot, "slot_size", (self.slot_size,))
        first, *others = self.convs
        features = self._broadcast_and_convolve(first, slot)
        for conv in others:
            features = convolve_last(conv, jax.nn.relu(features))
        height, width = self.image_size
        features = rearrange(features[:height, :width], "h w c -> c h w")
        return Decoded(
            rgb=self.rgb_activation(features[: self.out_channels]),
            mask_logits=features[self.out_channels],
        )

    def _broadcast_and_convolve(self, conv: ConvTranspose2d, slot: Array) -> Array:
        """`conv(positions(broadcast(slot)))`, sharing all that it can.

        Nothing bends between the broadcast and the first convolution, so the two parts
        of their sum can be convolved apart: the positions, which are the same for all
        slots (`jax.vmap` then does this once, not once a slot), and the slot, which is
        the same everywhere.
        """
        nothing = jnp.zeros((self.slot_size, *self.grid_size), slot.dtype)
        places = rearrange(self.positions(nothing), "slot h w -> h w slot")
        return convolve_last(conv, places) + convolve_constant(
            conv, slot, self.grid_size
        )
