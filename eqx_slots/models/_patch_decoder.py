from collections.abc import Callable, Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import einsum, rearrange
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import as_array, cast, check_key, check_positive, check_shape
from ._decoded_features import (
    checked_slots,
    DecodedFeatures,
    linear,
    masked_softmax,
    over_rows,
)


class PatchDecoder(eqx.Module):
    r"""Slots make the features of a backbone: an MLP for each slot and each place.

    With $p_n$ a learned vector for each place,

    $$(y_{kn}, l_{kn}) = \mathrm{MLP}(s_k + p_n), \quad
    m_{kn} = \mathrm{softmax}_\text{slots}(l_{kn}), \quad
    \hat{x}_n = \sum_k m_{kn} \, y_{kn}$$

    This is the MLP decoder of DINOSAUR (Seitzer et al. 2023). Its cost grows with slots
    times places, and `top_k` bounds the slots (FT-DINOSAUR, Didolkar et al. 2025): each
    place is decoded from those alone that won most of it in slot attention, and the
    others have no share in it. No gradient flows through that choice.

    Nothing bends between the sum and the first layer, so that one is applied to slots
    and to places apart, and their results are added: the same in a fraction of the
    multiplications.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn
    from eqx_slots.models import PatchDecoder

    layer = nn.SlotAttention(24, 64, num_slots=7, key=jr.key(0))
    tokens = jr.normal(jr.key(1), (16, 24))  # of 4 x 4 patches
    state = layer(tokens, key=jr.key(2))
    decoder = PatchDecoder(64, 24, 16, hidden_sizes=(32,), top_k=3, key=jr.key(3))
    features, masks = decoder(state.slots, attention=state.attention)
    print(features.shape, (masks > 0).sum(axis=0).max())  # (16, 24) 3
    ```

    ??? cite

        Seitzer et al., *Bridging the Gap to Real-World Object-Centric Learning*, ICLR
        2023.
    """

    places: Float[Array, "inputs slot_size"]
    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array]
    slot_size: int = eqx.field(static=True)
    feature_size: int = eqx.field(static=True)
    num_inputs: int = eqx.field(static=True)
    top_k: int | None = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        feature_size: int,
        num_inputs: int,
        *,
        hidden_sizes: Sequence[int] = (2048, 2048, 2048),
        activation: Callable[[Array], Array] = jax.nn.relu,
        top_k: int | None = None,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of a slot.
        - `feature_size`: Width of a feature of the backbone.
        - `num_inputs`: How many features there are: 196 for 14 x 14 patches.
        - `hidden_sizes`: Of the MLP. (Keyword only argument, as all that follow.)
        - `activation`: Function between its layers.
        - `top_k`: How many slots a place is decoded from, at most; `None` means all.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation: places from a Gaussian of deviation
            0.02, weights within `fan_in ** -0.5`, biases zero, as DINOSAUR's.
        """
        check_key(key)
        check_positive(
            slot_size=slot_size,
            feature_size=feature_size,
            num_inputs=num_inputs,
            top_k=1 if top_k is None else top_k,
        )
        for hidden_size in hidden_sizes:
            check_positive(hidden_sizes=hidden_size)
        place_key, *layer_keys = jr.split(key, 2 + len(hidden_sizes))
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.places = 0.02 * jr.normal(place_key, (num_inputs, slot_size), dtype)
        sizes = (slot_size, *hidden_sizes, feature_size + 1)
        self.layers = tuple(
            linear(*widths, dtype=dtype, key=layer_key)
            for widths, layer_key in zip(pairwise(sizes), layer_keys)
        )
        self.activation = activation
        self.slot_size = slot_size
        self.feature_size = feature_size
        self.num_inputs = num_inputs
        self.top_k = top_k

    def __call__(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        *,
        features: Float[Array, "inputs feature_size"] | None = None,
        attention: Float[Array, "slots inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> DecodedFeatures:
        """**Arguments:**

        - `slots`: The slots of one example; `jax.vmap` maps a batch.
        - `features`: Not used: all decoders are called alike. (Keyword only argument,
            as all that follow.)
        - `attention`: That of the layer, which `top_k` chooses by; without `top_k` it
            is not used.
        - `slot_mask`: Which slots take part; `None` means all. The others have no share
            in anything.
        - `key`: Not used.

        **Returns:**

        [`eqx_slots.models.DecodedFeatures`][] in the dtype of `slots`. `top_k` without
        `attention` is a `ValueError`, as are arrays of other shapes.
        """
        del features, key
        slots = checked_slots(slots, self.slot_size, slot_mask)
        decoder = cast(self, slots.dtype)
        first, *others = decoder.layers
        from_slots = einsum(slots, first.weight, "slots d, hidden d -> slots hidden")
        from_places = over_rows(first, decoder.places)
        chosen = self._chosen(slots, attention, slot_mask)
        if chosen is None:
            hidden = rearrange(from_slots, "slots hidden -> slots 1 hidden")
        else:
            # A product, not a gather, whose gradient would scatter.
            axes = "choices inputs slots, slots hidden -> choices inputs hidden"
            hidden = einsum(chosen, from_slots, axes)
        hidden = hidden + rearrange(from_places, "inputs hidden -> 1 inputs hidden")
        for layer in others:
            hidden = over_rows(layer, self.activation(hidden))
        made, logits = hidden[..., :-1], hidden[..., -1]
        masks = masked_softmax(logits, _taking_part(chosen, slot_mask, logits), axis=0)
        whole = einsum(masks, made, "choices inputs, choices inputs d -> inputs d")
        if chosen is not None:
            axes = "choices inputs slots, choices inputs -> slots inputs"
            masks = einsum(chosen, masks, axes)
        return DecodedFeatures(whole, masks)

    def _chosen(
        self,
        slots: Float[Array, "slots slot_size"],
        attention: Float[Array, "slots inputs"] | None,
        slot_mask: Bool[Array, " slots"] | None,
    ) -> Float[Array, "choices inputs slots"] | None:
        """For each place the slots that it is decoded from, as rows of 0 and one 1."""
        if self.top_k is None or self.top_k >= slots.shape[0]:
            return None
        if attention is None:
            raise ValueError(
                f"`top_k`={self.top_k} needs `attention`, that of the layer, to choose"
                " by: `decoder(state.slots, attention=state.attention)`."
            )
        won = as_array("attention", attention)
        shape = (slots.shape[0], self.num_inputs)
        check_shape("attention", won, "slots inputs", shape)
        if slot_mask is not None:
            won = jnp.where(slot_mask[:, None], won, -1)
        won = rearrange(jax.lax.stop_gradient(won), "slots inputs -> inputs slots")
        _, index = jax.lax.top_k(won, self.top_k)
        index = rearrange(index, "inputs choices -> choices inputs")
        return jax.nn.one_hot(index, slots.shape[0], dtype=slots.dtype)


def _taking_part(
    chosen: Float[Array, "choices inputs slots"] | None,
    slot_mask: Bool[Array, " slots"] | None,
    logits: Float[Array, "choices inputs"],
) -> Bool[Array, "choices inputs"] | None:
    """Which choices are no masked slots."""
    if slot_mask is None:
        return None
    if chosen is None:
        return jnp.broadcast_to(slot_mask[:, None], logits.shape)
    mask = slot_mask.astype(chosen.dtype)
    return einsum(chosen, mask, "choices inputs slots, slots -> choices inputs") > 0
