from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import cast, check_floating, check_positive, check_shape
from ._attention import inverted_attention
from ._competition import Softmax
from ._reduction import WeightedMean
from ._slot_init import GaussianSlots
from ._weight_init import paper_weights


class SlotState(NamedTuple):
    """Slots, and the attention that led to them.

    `attention` says what share of each input each slot won in the last round, seen
    from the slots *before* that round's update; its columns sum to 1.
    """

    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]


class SlotAttention(eqx.Module):
    r"""A set of feature vectors goes in, a few slots that compete for them come out.

    One round is a soft k-means in a learned space: slots compete for each input (a
    softmax over *slots*) and each slot moves to the weighted mean of what it won; a GRU
    and an MLP decide how far. With $x$ the inputs and $s$ the slots, once

    $$k = W_k \, \mathrm{LN}(x), \quad v = W_v \, \mathrm{LN}(x)$$

    and then, in each of `num_iters` rounds,

    $$q = W_q \, \mathrm{LN}(s), \quad
    A = \mathrm{softmax}_\text{slots}(q k^\top / \sqrt{D}), \quad
    u = \mathrm{WeightedMean}_\text{inputs}(A, v)$$

    $$s \leftarrow \mathrm{GRU}(u, s), \quad
    s \leftarrow s + \mathrm{MLP}(\mathrm{LN}(s))$$

    The defaults follow the paper's official code to the letter: no biases in the
    projections, epsilon inside the weights, LayerNorm epsilon 1e-3, and a GRU that sees
    the slots as they are, not their LayerNorm.

    The bias of `norm_slots` shifts all queries alike, which the softmax over slots
    cancels: no gradient ever reaches it.

    ```python
    layer = SlotAttention(32, 64, num_slots=7, key=jax.random.key(0))
    slots, attention = layer(features, key=jax.random.key(1))
    ```

    ??? cite

        Locatello et al., *Object-Centric Learning with Slot Attention*, NeurIPS 2020.
    """

    slot_init: Callable
    norm_inputs: eqx.nn.LayerNorm
    norm_slots: eqx.nn.LayerNorm
    query_proj: eqx.nn.Linear
    key_proj: eqx.nn.Linear
    value_proj: eqx.nn.Linear
    cell: Callable
    norm_mlp: eqx.nn.LayerNorm | None
    mlp: eqx.nn.MLP | None
    competition: Callable
    reduction: Callable
    input_size: int = eqx.field(static=True)
    slot_size: int = eqx.field(static=True)
    num_slots: int = eqx.field(static=True)
    num_iters: int = eqx.field(static=True)
    scale: float | None = eqx.field(static=True)
    grad_iters: int | None = eqx.field(static=True)
    straight_through: bool = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        *,
        num_slots: int,
        num_iters: int = 3,
        mlp_size: int | None = 128,
        qkv_size: int | None = None,
        use_qkv_bias: bool = False,
        scale: float | None = None,
        layer_norm_eps: float = 1e-3,
        weight_init: Literal["paper", "equinox"] = "paper",
        slot_init: Callable | None = None,
        competition: Callable = Softmax(),
        reduction: Callable = WeightedMean(),
        grad_iters: int | None = None,
        straight_through: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: Width of each input.
        - `slot_size`: Width of each slot.
        - `num_slots`: How many slots compete; one more than there are objects leaves
            one for the background. (Keyword only argument, as all that follow.)
        - `num_iters`: Rounds, at least 1.
        - `mlp_size`: Hidden width of the residual MLP; `None` leaves the MLP out.
        - `qkv_size`: Width of queries, keys and values; `None` means `slot_size`.
        - `use_qkv_bias`: Whether the three projections have biases.
        - `scale`: Factor on the logits; `None` means `qkv_size ** -0.5`.
        - `layer_norm_eps`: Epsilon of the three LayerNorms.
        - `weight_init`: `"paper"` ([`eqx_slots.nn.paper_weights`][]) or `"equinox"`.
        - `slot_init`: Where slots begin, called as `slot_init(num_slots, key=key)`.
            `None` means [`eqx_slots.nn.GaussianSlots`][].
        - `competition`: How slots compete, called with the logits.
        - `reduction`: What a slot takes from its inputs, called with the attention and
            the values.
        - `grad_iters`: Through how many of the last rounds gradients flow; `None` means
            through all of them.
        - `straight_through`: With `grad_iters`, whether the initial slots still get the
            gradient that arrives at the first of those rounds, as if the rounds before
            it were the identity (Jia et al. 2023). Without it they get none.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_positive(
            input_size=input_size,
            slot_size=slot_size,
            num_slots=num_slots,
            num_iters=num_iters,
        )
        if mlp_size is not None:
            check_positive(mlp_size=mlp_size)
        if grad_iters is not None:
            check_positive(grad_iters=grad_iters)
        qkv_size = slot_size if qkv_size is None else qkv_size
        check_positive(qkv_size=qkv_size)
        if weight_init not in ("paper", "equinox"):
            raise ValueError(
                f'`weight_init` must be "paper" or "equinox", got {weight_init!r}.'
            )
        init_key, query_key, key_key, value_key, cell_key, mlp_key, paper_key = (
            jr.split(key, 7)
        )

        def norm(size: int) -> eqx.nn.LayerNorm:
            return eqx.nn.LayerNorm(size, eps=layer_norm_eps, dtype=dtype)

        def proj(size: int, proj_key: PRNGKeyArray) -> eqx.nn.Linear:
            return eqx.nn.Linear(
                size, qkv_size, use_bias=use_qkv_bias, dtype=dtype, key=proj_key
            )

        parts = {
            "norm_inputs": norm(input_size),
            "norm_slots": norm(slot_size),
            "query_proj": proj(slot_size, query_key),
            "key_proj": proj(input_size, key_key),
            "value_proj": proj(input_size, value_key),
            "cell": eqx.nn.GRUCell(qkv_size, slot_size, dtype=dtype, key=cell_key),
            "norm_mlp": None if mlp_size is None else norm(slot_size),
            "mlp": None
            if mlp_size is None
            else eqx.nn.MLP(
                slot_size, slot_size, mlp_size, depth=1, dtype=dtype, key=mlp_key
            ),
        }
        if weight_init == "paper":
            parts = paper_weights(parts, key=paper_key)
        self.norm_inputs = parts["norm_inputs"]
        self.norm_slots = parts["norm_slots"]
        self.query_proj = parts["query_proj"]
        self.key_proj = parts["key_proj"]
        self.value_proj = parts["value_proj"]
        self.cell = parts["cell"]
        self.norm_mlp = parts["norm_mlp"]
        self.mlp = parts["mlp"]
        self.slot_init = (
            GaussianSlots(slot_size, dtype=dtype, key=init_key)
            if slot_init is None
            else slot_init
        )
        self.competition = competition
        self.reduction = reduction
        self.input_size = input_size
        self.slot_size = slot_size
        self.num_slots = num_slots
        self.num_iters = num_iters
        self.scale = scale
        self.grad_iters = grad_iters
        self.straight_through = straight_through
        self._check_slot_init()

    def __call__(
        self,
        inputs: Float[Array, "inputs {self.input_size}"],
        *,
        slots: Float[Array, "slots {self.slot_size}"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SlotState:
        """**Arguments:**

        - `inputs`: One set of feature vectors, in any order. A batch is mapped by
            `jax.vmap`, with one key for each set.
        - `slots`: Initial slots instead of drawn ones. (Keyword only argument, as all
            that follow.)
        - `num_slots`: How many slots to draw; `None` means as at construction.
        - `num_iters`: How many rounds; `None` means as at construction.
        - `key`: Randomness of the initial slots; needed where they are drawn.

        **Returns:**

        A [`eqx_slots.nn.SlotState`][] in the dtype of `inputs`. A `ValueError` names
        the cure for inputs of wrong shape or dtype, a missing key, or a number of
        slots or rounds that cannot be.
        """
        inputs = self._checked(inputs)
        num_iters = self.num_iters if num_iters is None else num_iters
        check_positive(num_iters=num_iters)
        layer = cast(self, inputs.dtype)
        initial = self._initial_slots(slots, num_slots, inputs.dtype, key)
        k, v = layer._keys_and_values(inputs)

        # Rounds whose gradient is cut come first.
        grad_iters = num_iters if self.grad_iters is None else self.grad_iters
        slots = initial
        for _ in range(num_iters - grad_iters):
            slots = jax.lax.stop_gradient(layer._round(slots, k, v).slots)
        if num_iters > grad_iters and self.straight_through:
            # Adds zero to the value and one to the derivative.
            slots = slots + (initial - jax.lax.stop_gradient(initial))
        for _ in range(min(num_iters, grad_iters) - 1):
            slots = layer._round(slots, k, v).slots
        return layer._round(slots, k, v)

    def step(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        inputs: Float[Array, "inputs {self.input_size}"],
    ) -> SlotState:
        """One round: for video, one's own loops, or watching slots converge.

        **Arguments:**

        - `slots`: The slots before the round.
        - `inputs`: One set of feature vectors.

        **Returns:**

        The slots after the round, and the attention of those before it.
        """
        inputs = self._checked(inputs)
        layer = cast(self, inputs.dtype)
        slots = self._initial_slots(slots, None, inputs.dtype, None)
        return layer._round(slots, *layer._keys_and_values(inputs))

    def _keys_and_values(self, inputs: Array) -> tuple[Array, Array]:
        normed = jax.vmap(self.norm_inputs)(inputs)
        return jax.vmap(self.key_proj)(normed), jax.vmap(self.value_proj)(normed)

    def _round(self, slots: Array, k: Array, v: Array) -> SlotState:
        q = jax.vmap(self.query_proj)(jax.vmap(self.norm_slots)(slots))
        updates, attention = inverted_attention(
            q,
            k,
            v,
            scale=self.scale,
            competition=self.competition,
            reduction=self.reduction,
        )
        slots = jax.vmap(self.cell)(updates, slots)
        if self.mlp is not None and self.norm_mlp is not None:
            slots = slots + jax.vmap(self.mlp)(jax.vmap(self.norm_mlp)(slots))
        return SlotState(slots, attention)

    def _initial_slots(
        self,
        slots: Array | None,
        num_slots: int | None,
        dtype: DTypeLike,
        key: PRNGKeyArray | None,
    ) -> Array:
        if slots is None:
            num_slots = self.num_slots if num_slots is None else num_slots
            check_positive(num_slots=num_slots)
            # Drawn in the dtype of the parameters: the same slots whatever the inputs.
            return self.slot_init(num_slots, key=key).astype(dtype)
        slots = jnp.asarray(slots)
        check_floating("slots", slots)
        check_shape(
            "slots",
            slots,
            "slots slot_size",
            (-1, self.slot_size),
            batch="jax.vmap(lambda x, slots: layer(x, slots=slots))(inputs, slots)",
        )
        check_positive(num_slots=slots.shape[0])
        if num_slots not in (None, slots.shape[0]):
            raise ValueError(
                f"`slots` holds {slots.shape[0]} slots but num_slots={num_slots};"
                " pass only one of the two."
            )
        return slots.astype(dtype)

    def _checked(self, inputs: Array) -> Array:
        inputs = jnp.asarray(inputs)  # NumPy's float64 becomes JAX's default
        check_floating("inputs", inputs)
        check_shape(
            "inputs",
            inputs,
            "inputs input_size",
            (-1, self.input_size),
            batch="jax.vmap(lambda x, key: layer(x, key=key))"
            "(inputs, jax.random.split(key, len(inputs)))",
        )
        if inputs.shape[0] == 0:
            raise ValueError("`inputs` is an empty set; give at least one vector.")
        return inputs

    def _check_slot_init(self) -> None:
        """Try the initialiser once, in shapes alone, so that it fails at the door."""
        fixed = getattr(self.slot_init, "num_slots", self.num_slots)
        if fixed != self.num_slots:
            raise ValueError(
                f"`slot_init` has {fixed} slots but num_slots={self.num_slots}; pass"
                f" num_slots={fixed}."
            )
        made = eqx.filter_eval_shape(self.slot_init, self.num_slots, key=jr.key(0))
        wanted = (self.num_slots, self.slot_size)
        if getattr(made, "shape", None) != wanted:
            raise ValueError(
                f"`slot_init` must give slots of shape {wanted} for"
                f" num_slots={self.num_slots}, got {made}."
            )
