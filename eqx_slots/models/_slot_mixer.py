from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import einsum, rearrange
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import cast, check_key, check_positive
from ..nn import paper_weights
from ._decoded_features import (
    checked_slots,
    DecodedFeatures,
    linear,
    masked_softmax,
    over_rows,
)
from ._transformer import Block


class SlotMixer(eqx.Module):
    r"""Each place mixes the slots into one vector, and one MLP makes the feature of it.

    Learned places $p_n$ look at the slots through a few blocks of a transformer, which
    gives a query for each; with $q$ of these and $k$ of the slots,

    $$m_{kn} = \mathrm{softmax}_\text{slots}(q_n \cdot k_k / \sqrt{D}), \quad
    \hat{x}_n = \mathrm{MLP}\Bigl(p_n + \sum_k m_{kn} \, s_k\Bigr)$$

    The MLP is applied once a place, not once a slot and place: the cost hardly grows
    with slots. The price is that nothing holds a slot to paint anything alone. It comes
    from the scene representations of Sajjadi et al. (2022); VideoSAUR (Zadaianchuk et
    al. 2023) decodes by it. (The released code of VideoSAUR multiplies the logits
    within the blocks by the root of the width, where here, as usual, they are divided
    by it.)

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.models import SlotMixer

    decoder = SlotMixer(64, 24, 16, hidden_sizes=(32,), key=jr.key(0))
    features, masks = decoder(jr.normal(jr.key(1), (7, 64)))
    print(features.shape, masks.shape)  # (16, 24) (7, 16)
    ```

    ??? cite

        Zadaianchuk et al., *Object-Centric Learning for Real-World Videos by Predicting
        Temporal Feature Similarities*, NeurIPS 2023.
    """

    places: Float[Array, "inputs slot_size"]
    norm_memory: eqx.nn.LayerNorm
    blocks: tuple[Block, ...]
    norm_places: eqx.nn.LayerNorm
    norm_slots: eqx.nn.LayerNorm
    query_proj: eqx.nn.Linear
    key_proj: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    slot_size: int = eqx.field(static=True)
    feature_size: int = eqx.field(static=True)
    num_inputs: int = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        feature_size: int,
        num_inputs: int,
        *,
        hidden_sizes: Sequence[int] = (1024, 1024, 1024, 1024),
        num_layers: int = 2,
        num_heads: int = 4,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of a slot, and of the transformer.
        - `feature_size`: Width of what is made at each place.
        - `num_inputs`: How many places there are.
        - `hidden_sizes`: Of the MLP, with ReLU. (Keyword only argument, as all that
            follow.)
        - `num_layers`: Blocks by which places look at slots.
        - `num_heads`: Of their attention; it has to divide `slot_size`.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_key(key)
        check_positive(
            slot_size=slot_size,
            feature_size=feature_size,
            num_inputs=num_inputs,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        for hidden_size in hidden_sizes:
            check_positive(hidden_sizes=hidden_size)
        if slot_size % num_heads:
            raise ValueError(
                f"`num_heads` must divide `slot_size`, got {num_heads} heads for"
                f" {slot_size}."
            )
        place_key, q_key, k_key, paper_key, *keys = jr.split(
            key, 5 + num_layers + len(hidden_sizes)
        )
        block_keys, layer_keys = keys[:num_layers], keys[num_layers:]
        dtype = jnp.result_type(float) if dtype is None else dtype
        places = jr.normal(place_key, (num_inputs, slot_size), dtype)
        self.places = slot_size**-0.5 * places
        self.norm_memory = eqx.nn.LayerNorm(slot_size, dtype=dtype)
        options: dict[str, Any] = {
            "num_heads": num_heads,
            "use_self": False,
            "dtype": dtype,
        }
        self.blocks = tuple(Block(slot_size, **options, key=k) for k in block_keys)
        self.norm_places = eqx.nn.LayerNorm(slot_size, dtype=dtype)
        self.norm_slots = eqx.nn.LayerNorm(slot_size, dtype=dtype)
        projs = (
            eqx.nn.Linear(slot_size, slot_size, use_bias=False, dtype=dtype, key=k)
            for k in (q_key, k_key)
        )
        self.query_proj, self.key_proj = paper_weights(tuple(projs), key=paper_key)
        sizes = (slot_size, *hidden_sizes, feature_size)
        self.layers = tuple(
            linear(*widths, dtype=dtype, key=layer_key)
            for widths, layer_key in zip(pairwise(sizes), layer_keys)
        )
        self.slot_size = slot_size
        self.feature_size = feature_size
        self.num_inputs = num_inputs

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
        - `features`, `attention`, `key`: Not used: all decoders are called alike.
            (Keyword only arguments.)
        - `slot_mask`: Which slots take part; `None` means all. The others are mixed
            into nothing. (Keyword only argument.)

        **Returns:**

        [`eqx_slots.models.DecodedFeatures`][] in the dtype of `slots`. Arrays of other
        shapes are a `ValueError`.
        """
        del features, attention, key
        slots = checked_slots(slots, self.slot_size, slot_mask)
        decoder = cast(self, slots.dtype)
        if slot_mask is not None:
            slot_mask = jnp.broadcast_to(slot_mask, (self.num_inputs, slots.shape[0]))
        memory = jax.vmap(decoder.norm_memory)(slots)
        looking = decoder.places
        for block in decoder.blocks:
            looking, _ = block(looking, memory, slot_mask=slot_mask)
        q = over_rows(decoder.query_proj, jax.vmap(decoder.norm_places)(looking))
        k = over_rows(decoder.key_proj, jax.vmap(decoder.norm_slots)(slots))
        logits = self.slot_size**-0.5 * einsum(
            q, k, "inputs d, slots d -> inputs slots"
        )
        masks = masked_softmax(logits, slot_mask, axis=1)
        hidden = einsum(masks, slots, "inputs slots, slots d -> inputs d")
        first, *others = decoder.layers
        hidden = over_rows(first, hidden + decoder.places)
        for layer in others:
            hidden = over_rows(layer, jax.nn.relu(hidden))
        return DecodedFeatures(hidden, rearrange(masks, "inputs slots -> slots inputs"))
