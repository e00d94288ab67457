from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._misc import check_key
from ..nn import Kept, SlotAttention
from ._decoder import composite
from ._standardization import Standardization


class Reconstruction(NamedTuple):
    """What a [`eqx_slots.models.SlotAutoencoder`][] makes of one image.

    **Fields:**

    - `image`: What the slots paint together, `channels height width`.
    - `rgb`: What each of them paints alone, `slots channels height width`.
    - `masks`: The share of each slot in each pixel, `slots height width`. They sum to 1
        over the slots; the largest names the slot that a pixel belongs to.
    - `slots`: The slots after the last round, `slots slot_size`.
    - `attention`: That of the last round over the encoder's places, `slots inputs`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)))
    segmentation = jnp.argmax(made.masks, axis=0)  # the slot of each pixel
    print(made.image.shape, segmentation.shape)  # (3, 32, 32) (32, 32)
    ```
    """

    image: Float[Array, "channels height width"]
    rgb: Float[Array, "slots channels height width"]
    masks: Float[Array, "slots height width"]
    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]


class SlotAutoencoder(eqx.Module):
    """Finds objects without labels: an image through a few slots and back.

    The encoder makes features, slot attention gathers them into slots, the decoder
    paints each slot alone and softmax masks put the pictures together. Trained on
    nothing but the squared error of the image (Locatello et al. 2020).

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn
    from eqx_slots.models import Encoder, SlotAutoencoder, SpatialBroadcastDecoder

    encoder_key, layer_key, decoder_key = jr.split(jr.key(0), 3)
    encoder = Encoder(32, strides=(2, 2), key=encoder_key)
    layer = nn.SlotAttention(32, 64, num_slots=7, key=layer_key)
    sizes = {"hidden_sizes": (32,), "kernel_sizes": (5, 3), "strides": (2, 2)}
    decoder = SpatialBroadcastDecoder(64, grid_size=(8, 8), **sizes, key=decoder_key)
    model = SlotAutoencoder(encoder, layer, decoder)
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)), key=jr.key(1))
    print(made.image.shape, made.masks.shape)  # (3, 32, 32) (7, 32, 32)
    ```
    """

    encoder: Callable[[Array], Array]
    slot_attention: SlotAttention
    decoder: Callable[[Array], tuple[Array, Array]]
    keep_slots: Callable[..., Kept] | None
    standardization: Standardization | None

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        slot_attention: SlotAttention,
        decoder: Callable[[Array], tuple[Array, Array]],
        *,
        keep_slots: Callable[..., Kept] | None = None,
        standardization: Standardization | None = None,
    ):
        """**Arguments:**

        - `encoder`: One image to a set of features, as
            [`eqx_slots.models.Encoder`][].
        - `slot_attention`: The layer between the two.
        - `decoder`: One slot to its picture and mask logits, as
            [`eqx_slots.models.SpatialBroadcastDecoder`][].
        - `keep_slots`: Which slots to paint with, as [`eqx_slots.nn.KeepSlots`][];
            `None` means all. The masks of the others are 0. How likely each slot is to
            be kept is `model.keep_slots(made.slots).probability`. (Keyword only
            argument.)
        - `standardization`: Encoder and decoder see images through it; image and RGB of
            the result are in the range of the images given. `None` leaves them as they
            are. [`eqx_slots.models.start_from_images`][] measures one. (Keyword only
            argument.)

        [`eqx_slots.models.presets`][] has published combinations by name.
        """
        self.encoder = encoder
        self.slot_attention = slot_attention
        self.decoder = decoder
        self.keep_slots = keep_slots
        self.standardization = standardization

    def __call__(
        self,
        image: Float[Array, "channels height width"],
        *,
        slots: Float[Array, "slots slot_size"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        early_gradient: float | Float[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Reconstruction:
        """**Arguments:**

        - `image`: One image, channels first; `jax.vmap` maps a batch.
        - `slots`, `num_slots`, `num_iters`, `slot_mask`, `early_gradient`: As for
            [`eqx_slots.nn.SlotAttention`][]; a masked slot paints nothing. (Keyword
            only arguments.)
        - `key`: Randomness of the initial slots and of the choice of slots. (Keyword
            only argument.)

        **Returns:**

        A [`eqx_slots.models.Reconstruction`][]. What the parts refuse, such as a
        missing key, is a `ValueError`.
        """
        keep_key = None
        if self.keep_slots is not None and key is not None:
            check_key(key)
            key, keep_key = jr.split(key)
        seen = image if self.standardization is None else self.standardization(image)
        state = self.slot_attention(
            self.encoder(seen),
            slots=slots,
            num_slots=num_slots,
            num_iters=num_iters,
            slot_mask=slot_mask,
            early_gradient=early_gradient,
            key=key,
        )
        rgb, mask_logits = jax.vmap(self.decoder)(state.slots)
        if self.standardization is not None:
            rgb = jax.vmap(self.standardization.inverse)(rgb)
        keep = None
        if self.keep_slots is not None:
            options = {"slot_mask": slot_mask, "key": keep_key}
            keep = self.keep_slots(state.slots, **options).mask
        elif slot_mask is not None:
            keep = jnp.asarray(slot_mask, rgb.dtype)
        whole, masks = composite(rgb, mask_logits, keep=keep)
        return Reconstruction(whole, rgb, masks, state.slots, state.attention)
