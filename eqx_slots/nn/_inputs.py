from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce
from jaxtyping import Array, PRNGKeyArray

from .._misc import accumulator_dtype
from ._attention import attend, Attended
from ._reduction import AbstractLinearReduction


class Projected(NamedTuple):
    """A key and a value of every input, made once: the definition."""

    k: Array
    v: Array

    def attend(
        self, layer: Any, q: Array, mask: Array | None, key: PRNGKeyArray | None
    ) -> Attended:
        parts = (layer.scale, layer.competition, layer.reduction)
        return attend(q, self.k, self.v, *parts, mask, key)


class Absorbed(NamedTuple):
    r"""The inputs after their LayerNorm, but without its scale and shift.

    Keys and values are linear in these: $k_n = A_k x_n + c_k$ with
    $A_k = W_k \, \mathrm{diag}(\gamma)$ and $c_k = W_k \beta + b_k$, and values alike.
    So neither has to be made. The few queries are taken back into the space of the
    inputs, the inputs themselves are averaged, and the few averages projected:

    $$q^\top k_n = (A_k^\top q)^\top x_n + q^\top c_k, \qquad
    \sum_n w_n v_n = A_v \Big(\sum_n w_n x_n\Big) + c_v \sum_n w_n$$

    The offset of a logit differs from slot to slot, so the softmax over slots does not
    cancel it, and the sum of weights is 1 for the weighted mean alone.
    """

    inputs: Array
    key_weight: Array
    key_offset: Array
    value_weight: Array
    value_offset: Array

    def attend(
        self, layer: Any, q: Array, mask: Array | None, key: PRNGKeyArray | None
    ) -> Attended:
        factor = q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
        scaled = q.astype(self.inputs.dtype) * factor
        rows = einsum(scaled, self.key_weight, "... k d, ... d i -> ... k i")
        offset = einsum(scaled, self.key_offset, "... k d, ... d -> ... k")
        logits = einsum(rows, self.inputs, "... k i, n i -> ... k n")
        attention = layer.competition(logits + offset[..., None], mask=mask, key=key)
        weights = layer.reduction.weights(attention, mask=mask)
        taken = einsum(weights, self.inputs, "... k n, n i -> ... k i")
        total = reduce(weights, "... k n -> ... k", "sum")
        updates = einsum(taken, self.value_weight, "... k i, ... d i -> ... k d")
        updates += einsum(total, self.value_offset, "... k, ... d -> ... k d")
        return Attended(updates.astype(q.dtype), attention.astype(q.dtype))


def seen_by(layer: Any, inputs: Array, num_slots: int, num_iters: int) -> Any:
    """The inputs as the slots of a layer attend to them, in the cheaper order."""
    if not _absorbs(layer, num_slots, num_iters):
        normed = jax.vmap(layer.norm_inputs)(inputs)
        k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
        return Projected(split(k, layer.num_heads), split(v, layer.num_heads))
    norm = layer.norm_inputs
    plain = eqx.nn.LayerNorm(norm.shape, norm.eps, use_weight=False, use_bias=False)
    wide = accumulator_dtype(inputs.dtype)

    def absorbed(proj: eqx.nn.Linear) -> tuple[Array, Array]:
        weight = proj.weight.astype(wide)
        if norm.bias is None:
            offset = jnp.zeros(weight.shape[0], wide)
        else:
            offset = einsum(weight, norm.bias.astype(wide), "d i, i -> d")
        if proj.bias is not None:
            offset = offset + proj.bias.astype(wide)
        if norm.weight is not None:
            weight = weight * norm.weight.astype(wide)[None, :]
        if layer.num_heads > 1:
            heads = {"heads": layer.num_heads}
            weight = rearrange(weight, "(heads d) i -> heads d i", **heads)
            offset = rearrange(offset, "(heads d) -> heads d", **heads)
        return weight, offset

    return Absorbed(
        jax.vmap(plain)(inputs.astype(wide)),
        *absorbed(layer.key_proj),
        *absorbed(layer.value_proj),
    )


def split(x: Array, heads: int) -> Array:
    """The part of each head, in front; one head needs no axis."""
    if heads == 1:
        return x
    return rearrange(x, "n (heads d) -> heads n d", heads=heads)


def _absorbs(layer: Any, num_slots: int, num_iters: int) -> bool:
    """Whether absorbing is possible and takes fewer multiplications.

    For each input, keys and values take 2 D Q, and each round 2 K Q for logits and
    averages; absorbed, a round takes 2 K H D and there is nothing before. D is the
    width of an input, Q that of all heads together, H their number, K that of slots.
    """
    # Anything but the plain modules may do as it likes: it is called.
    plain = type(layer.norm_inputs) is eqx.nn.LayerNorm and all(
        type(proj) is eqx.nn.Linear for proj in (layer.key_proj, layer.value_proj)
    )
    if not plain or not isinstance(layer.reduction, AbstractLinearReduction):
        return False
    qkv_size, input_size = layer.key_proj.weight.shape
    a_round = num_slots * (layer.num_heads * input_size - qkv_size)
    return num_iters * a_round < input_size * qkv_size
