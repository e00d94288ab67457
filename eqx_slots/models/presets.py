"""Models by name: `presets.clevr(key=key)` is the published architecture.

Every function gives a [`eqx_slots.models.SlotAutoencoder`][], or where its name ends in
`_sets` a [`eqx_slots.models.SlotSetPredictor`][], with the official code's initial
weights. All take the same two arguments, both keyword only: `num_slots`, how many slots
compete, and `key`, the randomness of the weights; `blocks` also comes in 64 x 64.
`equinox.filter_jit` builds a model faster. How to train one is not part of a model; see
`examples/`.
"""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._misc import check_key
from ..nn import LearnedSlots, paper_weights, SlotAttention
from ..properties import BLOCKS, CLEVR, Properties
from ._autoencoder import SlotAutoencoder
from ._decoder import SpatialBroadcastDecoder
from ._encoder import Encoder
from ._set_predictor import SlotSetPredictor


def blocks(
    *, num_slots: int = 7, image_size: int = 32, key: PRNGKeyArray
) -> SlotAutoencoder:
    """For 32 x 32 images of a few blocks: small enough for minutes on two CPU cores.

    An encoder that halves the image at once, slots that each begin at a learned place
    and learn from the last round alone, a decoder from 8 x 8 in two steps. Images and
    RGB in [-1, 1]. More slots than objects on purpose: with few, two blocks share one.

    `image_size`, the side of the images, may be 32 or 64; another is a `ValueError`. At
    64 the encoder halves once more, so that there are 256 features either way, and the
    decoder takes one step more.

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
        strides=(2,) * halvings + (1,) * (3 - halvings),
        kernel_size=3,
        key=encoder_key,
    )
    decoder = SpatialBroadcastDecoder(
        64,
        grid_size=(8, 8),
        hidden_sizes=(32,) * halvings,
        kernel_sizes=(5,) * halvings + (3,),
        strides=(2,) * (halvings + 1),
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
    return SlotAutoencoder(encoder, slot_attention, decoder)


def blog(*, num_slots: int = 5, key: PRNGKeyArray) -> SlotAutoencoder:
    """The plain textbook model at 32 x 32: slots of 64, three rounds, sigmoid RGB.

    No stride in the encoder, Gaussian slots, gradients through all rounds; images and
    RGB in [0, 1]. Not the recipe to start from: it is here for comparison.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.blog, key=jr.key(0))  # shapes alone
    made = eqx.filter_eval_shape(model, jnp.zeros((3, 32, 32)), key=jr.key(1))
    print(made.image.shape, made.masks.shape)  # (3, 32, 32) (5, 32, 32)
    ```
    """
    return _autoencoder(
        hidden_size=32,
        feature_size=64,
        num_slots=num_slots,
        grid_size=(8, 8),
        decoder_sizes=(32, 32),
        decoder_kernels=(5, 5, 3),
        decoder_strides=(2, 2, 1),
        use_sigmoid=True,
        key=key,
    )


def tetrominoes(*, num_slots: int = 4, key: PRNGKeyArray) -> SlotAutoencoder:
    """Tetrominoes at 35 x 35 (Locatello et al. 2020, appendix E): 235,684 parameters.

    Full-resolution broadcast, images and RGB in [-1, 1].

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.tetrominoes, key=jr.key(0))  # shapes alone
    made = eqx.filter_eval_shape(model, jnp.zeros((3, 35, 35)), key=jr.key(1))
    print(made.image.shape, made.masks.shape)  # (3, 35, 35) (4, 35, 35)
    ```
    """
    return _small((35, 35), num_slots=num_slots, key=key)


def multi_dsprites(*, num_slots: int = 6, key: PRNGKeyArray) -> SlotAutoencoder:
    """Multi-dSprites at 64 x 64 (Locatello et al. 2020): 235,684 parameters.

    [`eqx_slots.models.presets.tetrominoes`][] at another size and number of slots.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.multi_dsprites, key=jr.key(0))  # shapes alone
    made = eqx.filter_eval_shape(model, jnp.zeros((3, 64, 64)), key=jr.key(1))
    print(made.image.shape, made.masks.shape)  # (3, 64, 64) (6, 64, 64)
    ```
    """
    return _small((64, 64), num_slots=num_slots, key=key)


def clevr(*, num_slots: int = 7, key: PRNGKeyArray) -> SlotAutoencoder:
    """CLEVR6 at 128 x 128, the paper's official code: 890,180 parameters.

    Images and RGB in [-1, 1]. (The official GRU has a second, redundant bias for two of
    its gates, 128 numbers more.)

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.clevr)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 128, 128)), key=jr.key(1))
    print(made.image.shape, made.masks.shape)  # (3, 128, 128) (7, 128, 128)
    ```
    """
    return _autoencoder(
        hidden_size=64,
        feature_size=64,
        num_slots=num_slots,
        grid_size=(8, 8),
        decoder_sizes=(64, 64, 64, 64, 64),
        decoder_kernels=(5, 5, 5, 5, 5, 3),
        decoder_strides=(2, 2, 2, 2, 1, 1),
        use_sigmoid=False,
        key=key,
    )


def block_sets(*, num_slots: int = 8, key: PRNGKeyArray) -> SlotSetPredictor:
    """Sets of up to six blocks at 32 x 32, for minutes on two CPU cores.

    [`eqx_slots.properties.BLOCKS`][], images in [-1, 1]. As in
    [`eqx_slots.models.presets.blocks`][] the encoder halves the image at once and slots
    begin at learned places, with two to spare.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.block_sets)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)))  # needs no key
    print(made.elements.shape)  # (8, 11)
    ```
    """
    check_key(key)
    init_key, model_key = jr.split(key)
    return _set_predictor(
        BLOCKS,
        strides=(2, 1, 1),
        kernel_size=3,
        num_slots=num_slots,
        slot_init=LearnedSlots(num_slots, 64, key=init_key),
        key=model_key,
    )


def clevr_sets(*, num_slots: int = 10, key: PRNGKeyArray) -> SlotSetPredictor:
    """CLEVR10 at 128 x 128, the paper's official code: 380,627 parameters.

    [`eqx_slots.properties.CLEVR`][], images in [-1, 1]. (The official GRU has 128
    redundant numbers more.)

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.clevr_sets, key=jr.key(0))  # shapes alone
    made = eqx.filter_eval_shape(model, jnp.zeros((3, 128, 128)), key=jr.key(1))
    print(made.elements.shape)  # (10, 19)
    ```
    """
    return _set_predictor(
        CLEVR,
        strides=(1, 2, 2, 1),
        kernel_size=5,
        num_slots=num_slots,
        slot_init=None,
        key=key,
    )


def _set_predictor(
    properties: Properties,
    *,
    strides: tuple[int, ...],
    kernel_size: int,
    num_slots: int,
    slot_init: LearnedSlots | None,
    key: PRNGKeyArray,
) -> SlotSetPredictor:
    """The paper's family: everything 64 wide, 3 rounds."""
    check_key(key)
    encoder_key, slots_key, head_key, paper_key = jr.split(key, 4)
    encoder = Encoder(64, strides=strides, kernel_size=kernel_size, key=encoder_key)
    slot_attention = SlotAttention(
        64, 64, num_slots=num_slots, slot_init=slot_init, key=slots_key
    )
    model = SlotSetPredictor(encoder, slot_attention, properties, key=head_key)
    new = paper_weights((model.encoder, model.head), key=paper_key)
    return eqx.tree_at(lambda m: (m.encoder, m.head), model, new)


def _small(
    image_size: tuple[int, int], *, num_slots: int, key: PRNGKeyArray
) -> SlotAutoencoder:
    return _autoencoder(
        hidden_size=32,
        feature_size=32,
        num_slots=num_slots,
        grid_size=image_size,
        decoder_sizes=(32, 32, 32),
        decoder_kernels=(5, 5, 5, 3),
        decoder_strides=(1, 1, 1, 1),
        use_sigmoid=False,
        key=key,
    )


def _autoencoder(
    *,
    hidden_size: int,
    feature_size: int,
    num_slots: int,
    grid_size: tuple[int, int],
    decoder_sizes: tuple[int, ...],
    decoder_kernels: tuple[int, ...],
    decoder_strides: tuple[int, ...],
    use_sigmoid: bool,
    key: PRNGKeyArray,
) -> SlotAutoencoder:
    """The paper's family: four 5 x 5 convolutions, 64-wide Gaussian slots, 3 rounds."""
    check_key(key)
    encoder_key, slots_key, decoder_key, paper_key = jr.split(key, 4)
    encoder = Encoder(hidden_size, feature_size=feature_size, key=encoder_key)
    decoder = SpatialBroadcastDecoder(
        64,
        grid_size=grid_size,
        hidden_sizes=decoder_sizes,
        kernel_sizes=decoder_kernels,
        strides=decoder_strides,
        rgb_activation=jax.nn.sigmoid if use_sigmoid else jax.nn.identity,
        key=decoder_key,
    )
    encoder, decoder = paper_weights((encoder, decoder), key=paper_key)
    slot_attention = SlotAttention(feature_size, 64, num_slots=num_slots, key=slots_key)
    return SlotAutoencoder(encoder, slot_attention, decoder)
