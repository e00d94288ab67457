"""What the decoders of features have in common."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_mask,
    check_shape,
)


class DecodedFeatures(NamedTuple):
    """What slots make of the features that they were gathered from.

    **Fields:**

    - `features`: The features, made anew, `inputs feature_size`.
    - `masks`: The share of each slot in each of them, `slots inputs`. They sum to 1
        over the slots.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots.models import PatchDecoder

    decoder = PatchDecoder(64, 24, 16, hidden_sizes=(32,), key=jr.key(0))
    features, masks = decoder(jr.normal(jr.key(1), (7, 64)))
    print(features.shape, masks.shape)  # (16, 24) (7, 16)
    ```
    """

    features: Float[Array, "inputs feature_size"]
    masks: Float[Array, "slots inputs"]


def checked_slots(
    slots: Array, slot_size: int, slot_mask: Bool[Array, " slots"] | None
) -> Float[Array, "slots slot_size"]:
    """The slots, zero where they are masked, whatever they held."""
    slots = as_array("slots", slots)
    check_floating("slots", slots)
    batch = "jax.vmap(decoder)({name})"
    check_shape("slots", slots, "slots slot_size", (-1, slot_size), batch=batch)
    if slot_mask is None:
        return slots
    check_mask("slot_mask", slot_mask, "slots", slots.shape[:1])
    return jnp.where(slot_mask[:, None], slots, 0)


def masked_softmax(
    logits: Float[Array, "*shape"], mask: Bool[Array, "*shape"] | None, *, axis: int
) -> Float[Array, "*shape"]:
    """Softmax over what takes part, in float32 at least; exactly 0 for the rest."""
    dtype, wide = logits.dtype, accumulator_dtype(logits.dtype)
    logits = logits.astype(wide)
    if mask is None:
        return jax.nn.softmax(logits, axis=axis).astype(dtype)
    # Not minus infinity: where nothing takes part, that would be NaN.
    logits = jnp.where(mask, logits, jnp.finfo(wide).min)
    return jnp.where(mask, jax.nn.softmax(logits, axis=axis), 0).astype(dtype)


def over_rows(
    layer: eqx.nn.Linear, rows: Float[Array, "*rows in_size"]
) -> Float[Array, "*rows out_size"]:
    """`jax.vmap(layer)(rows)`, as `rows @ weight.T`: XLA then transposes nothing."""
    made = einsum(rows, layer.weight, "... i, o i -> ... o")
    if layer.bias is None:
        return made
    return made + jnp.broadcast_to(layer.bias, made.shape)


def linear(
    in_size: int, out_size: int, *, dtype: DTypeLike | None, key: PRNGKeyArray
) -> eqx.nn.Linear:
    """With the weights that Equinox and PyTorch draw, and DINOSAUR's bias of zero."""
    layer = eqx.nn.Linear(in_size, out_size, dtype=dtype, key=key)
    return eqx.tree_at(lambda x: x.bias, layer, replace_fn=jnp.zeros_like)
