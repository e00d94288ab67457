import equinox as eqx
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import LearnedSlots, paper_weights, SlotAttention
from ...properties import BLOCKS, CLEVR, Properties
from .._encoder import Encoder
from .._set_predictor import SlotSetPredictor


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


def _learned(
    properties: Properties,
    *,
    strides: tuple[int, ...],
    kernel_size: int,
    num_slots: int,
    key: PRNGKeyArray,
) -> SlotSetPredictor:
    """With slots that begin at learned places."""
    check_key(key)
    init_key, model_key = jr.split(key)
    return _set_predictor(
        properties,
        strides=strides,
        kernel_size=kernel_size,
        num_slots=num_slots,
        slot_init=LearnedSlots(num_slots, 64, key=init_key),
        key=model_key,
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
    return _learned(
        BLOCKS, strides=(2, 1, 1), kernel_size=3, num_slots=num_slots, key=key
    )


def solid_sets(*, num_slots: int = 8, key: PRNGKeyArray) -> SlotSetPredictor:
    """Sets of up to six solids at 64 x 64, for half an hour on a CPU core.

    [`eqx_slots.properties.CLEVR`][], images in [-1, 1]. The encoder halves the image
    at once and again by its third convolution, so that the second works at 32 x 32
    places; slots begin at learned places, with two to spare.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.solid_sets)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 64, 64)))  # needs no key
    print(made.elements.shape)  # (8, 19)
    ```
    """
    return _learned(
        CLEVR, strides=(2, 1, 2, 1), kernel_size=3, num_slots=num_slots, key=key
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
