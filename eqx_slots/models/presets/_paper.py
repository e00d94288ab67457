import jax
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import paper_weights, SlotAttention
from .._autoencoder import SlotAutoencoder
from .._decoder import SpatialBroadcastDecoder
from .._encoder import Encoder


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
