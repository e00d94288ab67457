from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from .._misc import as_array, cast, check_key, check_positive, check_shape
from ..nn import paper_weights
from ._decoded_features import checked_slots, DecodedFeatures, linear, over_rows
from ._transformer import Block


class AutoregressiveDecoder(eqx.Module):
    """A transformer foretells each feature from those before it, and from the slots.

    It is shown the features themselves, one place late (teacher forcing), so it has
    most to learn from the slots where something new begins. Pre-norm blocks of causal
    self-attention, attention to the slots and an MLP; the attention to the slots in the
    last block, averaged over heads, are the masks. This is the transformer decoder of
    DINOSAUR (Seitzer et al. 2023), after SLATE (Singh et al. 2022).

    In raster order every feature but the first follows its left neighbour, and the
    decoder may lean on that more than on the slots. `order="random"` draws another
    order for each example and tells the decoder, by a learned vector, which place comes
    next. SPOT (Kakogeorgiou et al. 2024) draws one of nine scans, and DIAS (Zhao et al.
    2025) shows a random part and asks for all the rest at once: in all of them no
    feature is seen by those before it.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots.models import AutoregressiveDecoder

    decoder = AutoregressiveDecoder(64, 24, 16, num_heads=4, key=jr.key(0))
    slots, tokens = jr.normal(jr.key(1), (7, 64)), jr.normal(jr.key(2), (16, 24))
    features, masks = eqx.filter_jit(decoder)(slots, features=tokens)
    print(features.shape, masks.shape)  # (16, 24) (7, 16)
    ```

    ??? cite

        Singh et al., *Illiterate DALL-E Learns to Compose*, ICLR 2022.
    """

    start: Float[Array, " feature_size"]
    input_proj: eqx.nn.Linear
    norm_inputs: eqx.nn.LayerNorm
    slot_proj: eqx.nn.Linear
    norm_slots: eqx.nn.LayerNorm
    places: Float[Array, "inputs hidden_size"] | None
    blocks: tuple[Block, ...]
    output_proj: eqx.nn.Linear | None
    slot_size: int = eqx.field(static=True)
    feature_size: int = eqx.field(static=True)
    num_inputs: int = eqx.field(static=True)
    inference: bool

    def __init__(
        self,
        slot_size: int,
        feature_size: int,
        num_inputs: int,
        *,
        hidden_size: int | None = None,
        num_layers: int = 4,
        num_heads: int = 8,
        order: Literal["raster", "random"] = "raster",
        inference: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of a slot.
        - `feature_size`: Width of a feature of the backbone.
        - `num_inputs`: How many features there are.
        - `hidden_size`: Width of the transformer; `None` means `feature_size`, and then
            there is no linear map behind it. (Keyword only argument, as all that
            follow.)
        - `num_layers`: Blocks.
        - `num_heads`: Of all attention; it has to divide the width.
        - `order`: `"raster"`, or `"random"` where there is a key.
        - `inference`: Whether to go in raster order even with a key;
            `equinox.nn.inference_mode(model)` sets it.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        size = feature_size if hidden_size is None else hidden_size
        check_key(key)
        check_positive(
            slot_size=slot_size,
            feature_size=feature_size,
            num_inputs=num_inputs,
            hidden_size=size,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        if size % num_heads:
            raise ValueError(
                f"`num_heads` must divide the width of the transformer, got {num_heads}"
                f" heads for {size}."
            )
        if order not in ("raster", "random"):
            raise ValueError(f'`order` must be "raster" or "random", got {order!r}.')
        start_key, place_key, *keys = jr.split(key, 6 + num_layers)
        in_key, slot_key, paper_key, out_key, *block_keys = keys
        dtype = jnp.result_type(float) if dtype is None else dtype
        projs = (
            eqx.nn.Linear(feature_size, size, use_bias=False, dtype=dtype, key=in_key),
            eqx.nn.Linear(slot_size, size, use_bias=False, dtype=dtype, key=slot_key),
        )
        self.input_proj, self.slot_proj = paper_weights(projs, key=paper_key)
        self.norm_inputs = eqx.nn.LayerNorm(size, dtype=dtype)
        self.norm_slots = eqx.nn.LayerNorm(size, dtype=dtype)
        self.start = feature_size**-0.5 * jr.normal(start_key, (feature_size,), dtype)
        self.places = None
        if order == "random":
            self.places = size**-0.5 * jr.normal(place_key, (num_inputs, size), dtype)
        options: dict[str, Any] = {
            "num_heads": num_heads,
            "use_self": True,
            "dtype": dtype,
        }
        self.blocks = tuple(Block(size, **options, key=k) for k in block_keys)
        self.output_proj = None
        if hidden_size is not None:
            self.output_proj = linear(size, feature_size, dtype=dtype, key=out_key)
        self.slot_size = slot_size
        self.feature_size = feature_size
        self.num_inputs = num_inputs
        self.inference = inference

    def __call__(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        *,
        features: Float[Array, "{self.num_inputs} {self.feature_size}"] | None = None,
        attention: Float[Array, "slots inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> DecodedFeatures:
        """**Arguments:**

        - `slots`: The slots of one example; `jax.vmap` maps a batch.
        - `features`: What is to be made; needed, for teacher forcing. (Keyword only
            argument, as all that follow.)
        - `attention`: Not used: all decoders are called alike.
        - `slot_mask`: Which slots take part; `None` means all. Nobody looks at the
            others.
        - `key`: Randomness of the order; without it, or with `inference`, that is
            raster order.

        **Returns:**

        [`eqx_slots.models.DecodedFeatures`][] in the dtype of `slots`, in raster order
        in any case. A `ValueError` says so if `features` are missing, or if arrays are
        of other shapes.
        """
        del attention
        slots = checked_slots(slots, self.slot_size, slot_mask)
        features = self._checked(features).astype(slots.dtype)
        decoder = cast(self, slots.dtype)
        order = self._order(key)
        before = jnp.concatenate([decoder.start[None], _taken(features, order)[:-1]])
        inputs = jax.vmap(decoder.norm_inputs)(over_rows(decoder.input_proj, before))
        if decoder.places is not None:
            inputs = inputs + _taken(decoder.places, order)
        seen = jax.vmap(decoder.norm_slots)(over_rows(decoder.slot_proj, slots))
        causal = jnp.tril(jnp.ones((self.num_inputs, self.num_inputs), bool))
        if slot_mask is not None:
            slot_mask = jnp.broadcast_to(slot_mask, (self.num_inputs, slots.shape[0]))
        for block in decoder.blocks:
            inputs, weights = block(inputs, seen, mask=causal, slot_mask=slot_mask)
        if decoder.output_proj is not None:
            inputs = over_rows(decoder.output_proj, inputs)
        back = None if order is None else jnp.argsort(order)
        masks = rearrange(_taken(weights, back), "inputs slots -> slots inputs")
        return DecodedFeatures(_taken(inputs, back), masks)

    def _checked(self, features: Array | None) -> Array:
        if features is None:
            raise ValueError(
                "`AutoregressiveDecoder` foretells each feature from those before it"
                " and got none: pass `features`, what is to be made."
            )
        features = as_array("features", features)
        shape = (self.num_inputs, self.feature_size)
        check_shape("features", features, "inputs feature_size", shape)
        return features

    def _order(self, key: PRNGKeyArray | None) -> Int[Array, " inputs"] | None:
        """The places in the order in which they are made; None is as they are."""
        if self.places is None or self.inference or key is None:
            return None
        check_key(key)
        return jr.permutation(key, self.num_inputs)


def _taken(rows: Array, order: Array | None) -> Array:
    return rows if order is None else rows[order]
