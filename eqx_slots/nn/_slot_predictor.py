from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    cast,
    check_floating,
    check_key,
    check_mask,
    check_positive,
    check_shape,
)
from ._arguments import check_options, zero_outside
from ._weight_init import paper_weights


class SlotPredictor(eqx.Module):
    r"""Between two frames slots look at each other and move on: a transformer block.

    Self-attention $\mathrm{A}$ between slots and an MLP, with a LayerNorm after each
    (SAVi, Kipf et al. 2022)

    $$s \leftarrow \mathrm{LN}(s + \mathrm{A}(s)), \quad
    s \leftarrow \mathrm{LN}(s + \mathrm{MLP}(s))$$

    or before each, which leaves a path without any norm from frame to frame (STEVE,
    Singh et al. 2022; VideoSAUR, Zadaianchuk et al. 2023)

    $$s \leftarrow s + \mathrm{A}(\mathrm{LN}(s)), \quad
    s \leftarrow s + \mathrm{MLP}(\mathrm{LN}(s))$$

    The softmax runs over the slots that are looked at, as in any transformer: here
    nothing competes. The defaults are SAVi's, but for the width of its slots, 128. (The
    released code of VideoSAUR multiplies the logits by the root of a head's width, by
    which they are divided here, as usual.)

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    predictor = nn.SlotPredictor(128, mlp_size=256, num_heads=4, key=jr.key(0))
    slots = jr.normal(jr.key(1), (7, 128))
    print(predictor(slots).shape)  # (7, 128)
    ```
    """

    attention: eqx.nn.MultiheadAttention
    norm_attention: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    norm_mlp: eqx.nn.LayerNorm
    slot_size: int = eqx.field(static=True)
    norm_first: bool = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        *,
        mlp_size: int = 256,
        num_heads: int = 4,
        qkv_size: int | None = None,
        norm_first: bool = False,
        layer_norm_eps: float = 1e-6,
        weight_init: Literal["paper", "equinox"] = "paper",
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of each slot.
        - `mlp_size`: Hidden width of the MLP. (Keyword only argument, as all that
            follow.)
        - `num_heads`: Heads of the self-attention. It has to divide `qkv_size`.
        - `qkv_size`: Width of queries, keys and values, all heads together; `None`
            means `slot_size`.
        - `norm_first`: Whether the LayerNorms come before attention and MLP rather
            than after them. Then nothing holds the scale of the slots, and it can grow
            with every frame.
        - `layer_norm_eps`: Epsilon of both LayerNorms; the default is that of Flax.
        - `weight_init`: `"paper"` ([`eqx_slots.nn.paper_weights`][]) or `"equinox"`.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        qkv_size = slot_size if qkv_size is None else qkv_size
        check_key(key)
        check_positive(
            slot_size=slot_size,
            mlp_size=mlp_size,
            num_heads=num_heads,
            qkv_size=qkv_size,
        )
        check_options(num_heads, qkv_size, weight_init)
        attention_key, mlp_key, paper_key = jr.split(key, 3)
        biases = ("query", "key", "value", "output")
        attention = eqx.nn.MultiheadAttention(
            num_heads,
            slot_size,
            qk_size=qkv_size // num_heads,
            vo_size=qkv_size // num_heads,
            **{f"use_{name}_bias": True for name in biases},
            dtype=dtype,
            key=attention_key,
        )
        mlp: Any = eqx.nn.MLP(
            slot_size, slot_size, mlp_size, depth=1, dtype=dtype, key=mlp_key
        )
        if weight_init == "paper":
            attention, mlp = paper_weights((attention, mlp), key=paper_key)
        norm = partial(eqx.nn.LayerNorm, slot_size, eps=layer_norm_eps, dtype=dtype)
        self.attention = attention
        self.norm_attention = norm()
        self.mlp = mlp
        self.norm_mlp = norm()
        self.slot_size = slot_size
        self.norm_first = norm_first

    def __call__(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        *,
        slot_mask: Bool[Array, " slots"] | None = None,
    ) -> Float[Array, "slots {self.slot_size}"]:
        """**Arguments:**

        - `slots`: The slots of one frame; `jax.vmap` maps a batch.
        - `slot_mask`: Which slots take part; `None` means all. The others might as well
            not be there: whatever they hold, NaN included, reaches nothing. (Keyword
            only argument.)

        **Returns:**

        The slots as the next frame should find them, in their dtype; zeros for those
        that are masked. Slots or a mask of another shape or dtype are a `ValueError`.
        """
        slots = as_array("slots", slots)
        check_floating("slots", slots)
        check_shape("slots", slots, "slots slot_size", (-1, self.slot_size))
        seen = None
        if slot_mask is not None:
            slot_mask = as_array("slot_mask", slot_mask)
            check_mask("slot_mask", slot_mask, "slots", slots.shape[:1])
            seen = jnp.broadcast_to(slot_mask[None], (len(slots), len(slots)))
        wide = accumulator_dtype(slots.dtype)
        block = cast(self, wide)
        attend = lambda x: block.attention(x, x, x, mask=seen)
        moved = zero_outside(slot_mask, slots.astype(wide))
        for norm, move in (
            (jax.vmap(block.norm_attention), attend),
            (jax.vmap(block.norm_mlp), jax.vmap(block.mlp)),
        ):
            if self.norm_first:
                moved = moved + move(norm(moved))
            else:
                moved = norm(moved + move(moved))
        return zero_outside(slot_mask, moved).astype(slots.dtype)
