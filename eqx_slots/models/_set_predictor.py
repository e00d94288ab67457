from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._misc import cast, check_positive
from ..nn import SlotAttention, SlotState
from ..properties import Properties


class SetPrediction(NamedTuple):
    """What a [`eqx_slots.models.SlotSetPredictor`][] makes of one image.

    **Fields:**

    - `elements`: Numbers in [0, 1], a row for each slot, `slots size`;
        [`eqx_slots.properties.Properties.decode`][] says what they mean.
    - `slots`: The slots after the last round, `slots slot_size`.
    - `attention`: That of the last round over the encoder's places, `slots inputs`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.block_sets)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)))
    values = model.properties.decode(made.elements)
    print(values["centre"].shape, values["colour"].shape)  # (8, 2) (8,)
    ```
    """

    elements: Float[Array, "slots size"]
    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]


class SlotSetPredictor(eqx.Module):
    """Predicts the set of objects in an image, in no order.

    The encoder makes features, slot attention gathers them into slots, and one small
    head turns each slot into an element (Locatello et al. 2020, section 2.2). Trained
    with labels, by [`eqx_slots.losses.matched_set_loss`][].

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn
    from eqx_slots.models import Encoder, SlotSetPredictor
    from eqx_slots.properties import BLOCKS

    encoder_key, layer_key, head_key = jr.split(jr.key(0), 3)
    encoder = Encoder(32, strides=(2, 2), key=encoder_key)
    layer = nn.SlotAttention(32, 64, num_slots=8, key=layer_key)
    model = SlotSetPredictor(encoder, layer, BLOCKS, key=head_key)
    made = eqx.filter_jit(model)(jnp.zeros((3, 32, 32)), key=jr.key(1))
    print(made.elements.shape)  # (8, 11)
    ```
    """

    encoder: Callable[[Array], Array]
    slot_attention: SlotAttention
    head: eqx.nn.MLP
    properties: Properties = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        slot_attention: SlotAttention,
        properties: Properties,
        *,
        head_size: int = 64,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `encoder`: One image to a set of features, as
            [`eqx_slots.models.Encoder`][].
        - `slot_attention`: The layer that makes slots of them.
        - `properties`: What an element is made of.
        - `head_size`: Hidden units of the head, an MLP with one hidden layer, ReLU and
            a sigmoid at the end. (Keyword only argument.)
        - `key`: Randomness for initialisation of the head. (Keyword only argument.)

        [`eqx_slots.models.presets`][] has ready combinations by name.
        """
        check_positive(head_size=head_size)
        self.encoder = encoder
        self.slot_attention = slot_attention
        self.head = eqx.nn.MLP(
            slot_attention.slot_size,
            properties.size,
            head_size,
            depth=1,
            final_activation=jax.nn.sigmoid,
            key=key,
        )
        self.properties = properties

    def __call__(
        self,
        image: Float[Array, "channels height width"],
        *,
        slots: Float[Array, "slots slot_size"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SetPrediction:
        """**Arguments:**

        - `image`: One image, channels first; `jax.vmap` maps a batch.
        - `slots`, `num_slots`, `num_iters`, `slot_mask`: As for
            [`eqx_slots.nn.SlotAttention`][]; a masked slot predicts an absent object,
            a row of zeros, to be masked in loss and metric. (Keyword only arguments.)
        - `key`: Randomness of the initial slots. (Keyword only argument.)

        **Returns:**

        A [`eqx_slots.models.SetPrediction`][]. What the parts refuse, such as a
        missing key, is a `ValueError`.
        """
        state = self.slot_attention(
            self.encoder(image),
            slots=slots,
            num_slots=num_slots,
            num_iters=num_iters,
            slot_mask=slot_mask,
            key=key,
        )
        return self._read(state, slot_mask)

    def rounds(
        self,
        image: Float[Array, "channels height width"],
        *,
        slots: Float[Array, "slots slot_size"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SetPrediction:
        """What is predicted after every round: for a loss on each of them.

        With a loss on the last round alone, a gradient comes to the others through all
        that follow, and slots are slow to part. A loss on each, as DETR has it on every
        layer of its decoder (Carion et al. 2020, section 3.2), is a shorter way;
        `examples/set_prediction.py` trains so on solids.

        **Arguments:** As for a call of the model.

        **Returns:**

        A [`eqx_slots.models.SetPrediction`][] whose arrays have an axis of rounds in
        front; its last entry is what a call gives. Rounds before the last `grad_iters`
        of the layer carry no gradient.
        """
        states = self.slot_attention.rounds(
            self.encoder(image),
            slots=slots,
            num_slots=num_slots,
            num_iters=num_iters,
            slot_mask=slot_mask,
            key=key,
        )
        return jax.vmap(lambda state: self._read(state, slot_mask))(states)

    def _read(
        self, state: SlotState, slot_mask: Bool[Array, " slots"] | None
    ) -> SetPrediction:
        """Each slot as an element."""
        head = cast(self.head, state.slots.dtype)
        elements = jax.vmap(head)(state.slots)
        if slot_mask is not None:
            elements = jnp.where(jnp.asarray(slot_mask)[:, None], elements, 0)
        return SetPrediction(elements, state.slots, state.attention)
