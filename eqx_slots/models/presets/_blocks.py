import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key, sides
from ...nn import LearnedSlots, paper_weights, SlotAttention
from .._autoencoder import SlotAutoencoder
from .._decoder import SpatialBroadcastDecoder
from .._encoder import Encoder
from .._standardization import Standardization


def blocks(
    *,
    num_slots: int = 7,
    image_size: int | Sequence[int] = 32,
    channels: int = 3,
    halvings: int | None = None,
    kernel_size: int = 3,
    grad_iters: int | None = None,
    decoder_layers: int = 0,
    last_stride: int = 2,
    key: PRNGKeyArray,
) -> SlotAutoencoder:
    """For 32 x 32 images of a few blocks: small enough for minutes on two CPU cores.

    An encoder that halves the image at once, slots that each begin at a learned place,
    a decoder from 8 x 8 in two steps. Images and RGB in [-1, 1], or in any range after
    [`eqx_slots.models.start_from_images`][]. More slots than objects on purpose: with
    few, two blocks share one.

    `image_size` may be any, odd ones included: height and width, or the side of a
    square. Larger images are halved more often, until there are 20 features along a
    side at most, and the decoder takes as many steps more; at 64 there are 16 again.
    A side of less than 8 pixels is a `ValueError`. `halvings` is how often the encoder
    alone halves the image, from 0 to 3 times: with 1 at 64 x 64 slots see 32 x 32
    features, and part small objects and those that touch far better, in training steps
    that take a quarter longer.
    `channels` of the images are 3, or 1 for grays. `kernel_size` is that of the
    encoder's convolutions, and `grad_iters` that of
    [`eqx_slots.nn.SlotAttention`][]: with 1 it pays to let `early_gradient` grow, since
    slots that were good can change hands late in training. `decoder_layers` are layers
    of the decoder before its first step up, 64 channels wide and of one place each:
    without any it paints rectangles well, with 1 other shapes too. `last_stride` is how
    far its last step enlarges what it has: with 4 there is one step fewer, and a
    training step at 64 x 64 takes about two thirds of the time.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)))  # needs no key
    print(made.image.shape, made.masks.shape)  # (3, 32, 32) (7, 32, 32)
    ```
    """
    check_key(key)
    height, width = sides(image_size)
    if min(height, width) < 8:
        raise ValueError(f"`image_size` must be 8 at least, got {image_size}.")
    if decoder_layers < 0:
        raise ValueError(f"`decoder_layers` must be 0 or more, got {decoder_layers}.")
    if last_stride not in (2, 4):
        raise ValueError(f"`last_stride` must be 2 or 4, got {last_stride}.")
    usual = max(1, math.ceil(math.log2(max(height, width) / 20)))
    halvings = usual if halvings is None else halvings
    if not 0 <= halvings <= (most := max(usual, 3)):
        raise ValueError(f"`halvings` must be from 0 to {most}, got {halvings}.")
    scale = 2 ** (usual + 1)
    encoder_key, slots_key, init_key, decoder_key, paper_key = jr.split(key, 5)
    encoder = Encoder(
        32,
        in_channels=channels,
        strides=(2,) * halvings + (1,) * (3 - halvings),
        kernel_size=kernel_size,
        activation=jax.nn.leaky_relu,
        key=encoder_key,
    )
    steps = usual + 1 - last_stride // 2  # by 2 each, before the last
    last_kernel = 3 if last_stride == 2 else 8
    decoder = SpatialBroadcastDecoder(
        64,
        grid_size=(-(-height // scale), -(-width // scale)),
        image_size=(height, width),
        hidden_sizes=(64,) * decoder_layers + (32,) * steps,
        kernel_sizes=(1,) * decoder_layers + (5,) * steps + (last_kernel,),
        strides=(1,) * decoder_layers + (2,) * steps + (last_stride,),
        out_channels=channels,
        rgb_activation=jax.nn.identity,
        key=decoder_key,
    )
    encoder, decoder = paper_weights((encoder, decoder), key=paper_key)
    slot_attention = SlotAttention(
        32,
        64,
        num_slots=num_slots,
        slot_init=LearnedSlots(num_slots, 64, key=init_key),
        grad_iters=grad_iters,
        key=slots_key,
    )
    unchanged = Standardization(jnp.zeros(channels), jnp.ones(()))
    return SlotAutoencoder(encoder, slot_attention, decoder, standardization=unchanged)
