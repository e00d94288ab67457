"""The block of a transformer that reads from slots, and says where it has looked."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import einsum, rearrange, reduce
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import accumulator_dtype
from ..nn import paper_weights
from ._decoded_features import linear, masked_softmax, over_rows


class Attention(eqx.Module):
    """Attention with heads, which gives back its weights too, the mean over heads."""

    query_proj: eqx.nn.Linear
    key_proj: eqx.nn.Linear
    value_proj: eqx.nn.Linear
    output_proj: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __init__(
        self, size: int, *, num_heads: int, dtype: DTypeLike | None, key: PRNGKeyArray
    ):
        keys = jr.split(key, 5)
        layers = (linear(size, size, dtype=dtype, key=k) for k in keys[:4])
        layers = paper_weights(tuple(layers), key=keys[4])
        self.query_proj, self.key_proj, self.value_proj, self.output_proj = layers
        self.num_heads = num_heads

    def __call__(
        self,
        queries: Float[Array, "inputs size"],
        memory: Float[Array, "others size"],
        *,
        mask: Bool[Array, "inputs others"] | None = None,
    ) -> tuple[Float[Array, "inputs size"], Float[Array, "inputs others"]]:
        def heads(layer: eqx.nn.Linear, rows: Array) -> Array:
            made = over_rows(layer, rows)
            return rearrange(made, "n (heads d) -> heads n d", heads=self.num_heads)

        q = heads(self.query_proj, queries)
        k, v = heads(self.key_proj, memory), heads(self.value_proj, memory)
        logits = q.shape[-1] ** -0.5 * einsum(q, k, "h n d, h m d -> h n m")
        if mask is not None:
            mask = jnp.broadcast_to(mask, logits.shape)
        weights = masked_softmax(logits, mask, axis=2)
        taken = einsum(weights, v, "h n m, h m d -> h n d")
        made = over_rows(self.output_proj, rearrange(taken, "h n d -> n (h d)"))
        wide = weights.astype(accumulator_dtype(weights.dtype))
        return made, reduce(wide, "h n m -> n m", "mean").astype(weights.dtype)


class Block(eqx.Module):
    """One layer, pre-norm: look at each other (or not), at the slots, then an MLP."""

    norm_self: eqx.nn.LayerNorm | None
    attend_self: Attention | None
    norm_slots: eqx.nn.LayerNorm
    attend_slots: Attention
    norm_mlp: eqx.nn.LayerNorm
    mlp: tuple[eqx.nn.Linear, eqx.nn.Linear]

    def __init__(
        self,
        size: int,
        *,
        num_heads: int,
        use_self: bool,
        dtype: DTypeLike | None,
        key: PRNGKeyArray,
    ):
        self_key, slots_key, in_key, out_key = jr.split(key, 4)
        options: dict[str, Any] = {"num_heads": num_heads, "dtype": dtype}
        self.norm_self = self.attend_self = None
        if use_self:
            self.norm_self = eqx.nn.LayerNorm(size, dtype=dtype)
            self.attend_self = Attention(size, **options, key=self_key)
        self.norm_slots = eqx.nn.LayerNorm(size, dtype=dtype)
        self.attend_slots = Attention(size, **options, key=slots_key)
        self.norm_mlp = eqx.nn.LayerNorm(size, dtype=dtype)
        self.mlp = (
            linear(size, 4 * size, dtype=dtype, key=in_key),
            linear(4 * size, size, dtype=dtype, key=out_key),
        )

    def __call__(
        self,
        inputs: Float[Array, "inputs size"],
        slots: Float[Array, "slots size"],
        *,
        mask: Bool[Array, "inputs inputs"] | None = None,
        slot_mask: Bool[Array, "inputs slots"] | None = None,
    ) -> tuple[Float[Array, "inputs size"], Float[Array, "inputs slots"]]:
        """The inputs, and where they have looked among the slots."""
        if self.norm_self is not None and self.attend_self is not None:
            normed = jax.vmap(self.norm_self)(inputs)
            inputs = inputs + self.attend_self(normed, normed, mask=mask)[0]
        normed = jax.vmap(self.norm_slots)(inputs)
        taken, weights = self.attend_slots(normed, slots, mask=slot_mask)
        inputs = inputs + taken
        first, last = self.mlp
        hidden = jax.nn.relu(over_rows(first, jax.vmap(self.norm_mlp)(inputs)))
        return inputs + over_rows(last, hidden), weights
