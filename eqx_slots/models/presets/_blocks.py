import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import LearnedSlots, paper_weights, SlotAttention
from .._autoencoder import SlotAutoencoder
from .._decoder import SpatialBroadcastDecoder
from .._encoder import Encoder
from .._standardization import Standardization


def blocks(
    *, num_slots: int = 7, image_size: int = 32, channels: int = 3, key: PRNGKeyArray
) -> SlotAutoencoder:
    """For 32 x 32 images of a few blocks: small enough for minutes on two CPU cores.

    An encoder that halves the image at once, slots that each begin at a learned place
    and learn from the last round alone, a decoder from 8 x 8 in two steps. Images and
    RGB in [-1, 1], or in any range after [`eqx_slots.models.start_from_images`][]. More
    slots than objects on purpose: with few, two blocks share one.

    `image_size`, the side of the images, may be 32 or 64; another is a `ValueError`. At
    64 the encoder halves once more, so that there are 256 features either way, and the
    decoder takes one step more. `channels` of the images are 3, or 1 for grays.

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
    if image_size not in (32, 64):
        raise ValueError(
            f"`image_size` must be 32 or 64, got {image_size}. For images of any "
            "other size put a model together from `Encoder`, `SlotAttention` and "
            "`SpatialBroadcastDecoder`."
        )
    halvings = image_size // 32
    encoder_key, slots_key, init_key, decoder_key, paper_key = jr.split(key, 5)
    encoder = Encoder(
        32,
        in_channels=channels,
        strides=(2,) * halvings + (1,) * (3 - halvings),
        kernel_size=3,
        activation=jax.nn.leaky_relu,
        key=encoder_key,
    )
    decoder = SpatialBroadcastDecoder(
        64,
        grid_size=(8, 8),
        hidden_sizes=(32,) * halvings,
        kernel_sizes=(5,) * halvings + (3,),
        strides=(2,) * (halvings + 1),
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
        grad_iters=1,
        key=slots_key,
    )
    unchanged = Standardization(jnp.zeros(channels), jnp.ones(()))
    return SlotAutoencoder(encoder, slot_attention, decoder, standardization=unchanged)
