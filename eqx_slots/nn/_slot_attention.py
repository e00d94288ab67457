import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import cast, check_early_gradient, check_key, check_positive
from ._arguments import (
    check_options,
    check_parts,
    check_stopping,
    checked_arguments,
    fixed_num_slots,
    Given,
)
from ._competition import Softmax
from ._fixed_point import residual, settle, without_gradient
from ._inputs import seen_by
from ._reduction import WeightedMean
from ._rounds import cut_rounds, has_own_vjp, Parts, rounds, Setting
from ._slot_init import GaussianSlots
from ._slot_state import Converged, SlotState
from ._weight_init import paper_weights


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

    The bias of `norm_slots` shifts all queries of a head alike, which a softmax over
    its slots cancels: no gradient reaches it. The recurrence is the public field
    `cell`, with the signature of `equinox.nn.GRUCell`: `equinox.tree_at` puts in yours.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import SlotAttention

    layer = SlotAttention(32, 64, num_slots=7, key=jr.key(0))
    features = jr.normal(jr.key(1), (256, 32))
    slots, attention = layer(features, key=jr.key(2))
    print(slots.shape, attention.shape)  # (7, 64) (7, 256)
    ```

    ??? cite

        Locatello et al., *Object-Centric Learning with Slot Attention*, NeurIPS 2020.
    """

    slot_init: Callable[..., Array]
    norm_inputs: eqx.nn.LayerNorm
    norm_slots: eqx.nn.LayerNorm
    query_proj: eqx.nn.Linear
    key_proj: eqx.nn.Linear
    value_proj: eqx.nn.Linear
    output_proj: eqx.nn.Linear | None
    cell: Callable[[Array, Array], Array]
    norm_mlp: eqx.nn.LayerNorm | None
    mlp: eqx.nn.MLP | None
    competition: Callable[..., Array]
    reduction: Callable[..., Array]
    input_size: int = eqx.field(static=True)
    slot_size: int = eqx.field(static=True)
    num_slots: int | None = eqx.field(static=True)
    num_iters: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    scale: float | None = eqx.field(static=True)
    grad_iters: int | None = eqx.field(static=True)
    straight_through: bool = eqx.field(static=True)
    use_custom_vjp: bool = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        *,
        num_slots: int | None = None,
        num_iters: int = 3,
        mlp_size: int | None = 128,
        num_heads: int = 1,
        qkv_size: int | None = None,
        use_qkv_bias: bool = False,
        use_output_proj: bool | None = None,
        scale: float | None = None,
        layer_norm_eps: float = 1e-3,
        weight_init: Literal["paper", "equinox"] = "paper",
        slot_init: Callable[..., Array] | None = None,
        competition: Callable[..., Array] = Softmax(),
        reduction: Callable[..., Array] = WeightedMean(),
        grad_iters: int | None = None,
        straight_through: bool = True,
        use_custom_vjp: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: Width of each input.
        - `slot_size`: Width of each slot.
        - `num_slots`: How many slots compete: one for each object, one for the
            background, and two to spare do well. `None` leaves it to `slot_init`, or
            to each call. (Keyword only argument, as all that follow.)
        - `num_iters`: Rounds, at least 1.
        - `mlp_size`: Hidden width of the residual MLP; `None` leaves it out (SAVi).
        - `num_heads`: Heads, each with a competition of its own (SAVi, Kipf et al.
            2022) unless `competition` says otherwise. It has to divide `qkv_size`.
        - `qkv_size`: Width of queries, keys and values, all heads together; `None`
            means `slot_size`.
        - `use_qkv_bias`: Whether the three projections have biases (lucidrains).
        - `use_output_proj`: Whether a linear map, with bias, brings what the heads took
            to `slot_size`. `None` means where there are several (SLATE has none).
        - `scale`: Factor on the logits; `None` means `(qkv_size / num_heads) ** -0.5`
            (lucidrains before 1.5 has `slot_size ** -0.5` for any number of heads).
        - `layer_norm_eps`: Epsilon of the three LayerNorms (PyTorch's is 1e-5).
        - `weight_init`: `"paper"` ([`eqx_slots.nn.paper_weights`][]) or `"equinox"`.
        - `slot_init`: Where slots begin, called as `slot_init(num_slots, key=key)`.
            `None` means [`eqx_slots.nn.GaussianSlots`][].
        - `competition`: How slots compete, called as
            `competition(logits, mask=mask, key=key)`. One with an attribute `needs_key`
            that is true gets a new key for each round, others get `None`.
        - `reduction`: What a slot takes from its inputs, called as
            `reduction(attention, values, mask=mask)`.
        - `grad_iters`: Through how many of the last rounds gradients flow (Chang et al.
            2022: one); `None` means through all. Fewer need less time and memory.
        - `straight_through`: With `grad_iters`, whether the initial slots still get the
            gradient that arrives at the first of those rounds, as if the rounds before
            it were the identity (Jia et al. 2023). Without it they get none.
        - `use_custom_vjp`: Whether gradients come from a backward pass that is written
            out: the same, in less time and memory. It knows reverse mode alone;
            `jax.jvp` and `jax.jacfwd` need it off. Parts that are bare functions, and
            reductions without `weights`, get plain autodiff whatever this says.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        qkv_size = slot_size if qkv_size is None else qkv_size
        check_key(key)
        check_positive(
            input_size=input_size,
            slot_size=slot_size,
            num_iters=num_iters,
            num_heads=num_heads,
            qkv_size=qkv_size,
            mlp_size=1 if mlp_size is None else mlp_size,
            grad_iters=1 if grad_iters is None else grad_iters,
        )
        num_slots = fixed_num_slots(slot_init, num_slots)
        check_options(num_heads, qkv_size, weight_init)
        use_output_proj = num_heads > 1 if use_output_proj is None else use_output_proj
        cell_size = slot_size if use_output_proj else qkv_size
        init_key, q_key, k_key, v_key, cell_key, mlp_key, paper_key, out_key = jr.split(
            key, 8
        )
        norm = partial(eqx.nn.LayerNorm, eps=layer_norm_eps, dtype=dtype)
        linear = partial(eqx.nn.Linear, dtype=dtype)
        proj = partial(linear, out_features=qkv_size, use_bias=use_qkv_bias)
        parts: dict[str, Any] = {
            "norm_inputs": norm(input_size),
            "norm_slots": norm(slot_size),
            "query_proj": proj(slot_size, key=q_key),
            "key_proj": proj(input_size, key=k_key),
            "value_proj": proj(input_size, key=v_key),
            "output_proj": None,
            "cell": eqx.nn.GRUCell(cell_size, slot_size, dtype=dtype, key=cell_key),
            "norm_mlp": None,
            "mlp": None,
        }
        if use_output_proj:
            parts["output_proj"] = linear(qkv_size, slot_size, key=out_key)
        if mlp_size is not None:
            parts["norm_mlp"] = norm(slot_size)
            parts["mlp"] = eqx.nn.MLP(
                slot_size, slot_size, mlp_size, depth=1, dtype=dtype, key=mlp_key
            )
        if weight_init == "paper":
            parts = paper_weights(parts, key=paper_key)
        for name, part in parts.items():
            setattr(self, name, part)
        if slot_init is None:
            slot_init = GaussianSlots(slot_size, dtype=dtype, key=init_key)
        self.slot_init = slot_init
        self.competition = competition
        self.reduction = reduction
        self.input_size = input_size
        self.slot_size = slot_size
        self.num_slots = num_slots
        self.num_iters = operator.index(num_iters)
        self.num_heads = num_heads
        self.scale = scale
        self.grad_iters = None if grad_iters is None else operator.index(grad_iters)
        self.straight_through = straight_through
        self.use_custom_vjp = use_custom_vjp
        check_parts(self, qkv_size // num_heads)

    def __call__(
        self,
        inputs: Float[Array, "inputs {self.input_size}"],
        *,
        slots: Float[Array, "slots {self.slot_size}"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        input_mask: Bool[Array, " inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        early_gradient: float | Float[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SlotState:
        """**Arguments:**

        - `inputs`: One set of feature vectors, in any order. A batch is mapped by
            `jax.vmap`, with one key for each set.
        - `slots`: Initial slots instead of drawn ones. (Keyword only argument, as all
            that follow.)
        - `num_slots`: How many slots to draw; `None` means as at construction.
        - `num_iters`: How many rounds; `None` means as at construction.
        - `input_mask`: Which inputs take part; `None` means all. The others might as
            well not be there: whatever they hold, NaN included, reaches nothing.
        - `slot_mask`: Which slots take part; `None` means all. The others come back as
            zeros. Changing a mask never recompiles.
        - `early_gradient`: How much of the gradient flows through the rounds before the
            last `grad_iters` as well, from 0 to 1; it may change from step to step
            without recompiling. `None` is 0, in less time and memory.
        - `key`: Randomness of the initial slots, and of a competition that draws;
            needed where there are any.

        **Returns:**

        A [`eqx_slots.nn.SlotState`][] in the dtype of `inputs`. A `ValueError` names
        the cure for arguments of wrong shape or dtype, a missing key, or a number of
        slots or rounds that cannot be.
        """
        num_iters = self.num_iters if num_iters is None else num_iters
        check_positive(num_iters=num_iters)
        check_early_gradient(early_gradient)
        given = checked_arguments(
            self, inputs, slots, num_slots, input_mask, slot_mask, key
        )
        parts, setting = self._prepared(given, num_iters)
        return cut_rounds(
            parts, setting, num_iters, every=False, early_gradient=early_gradient
        )

    def rounds(
        self,
        inputs: Float[Array, "inputs {self.input_size}"],
        *,
        slots: Float[Array, "slots {self.slot_size}"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        input_mask: Bool[Array, " inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SlotState:
        """The states after every round: for a loss on each of them, or for pictures.

        **Arguments:** As for a call of the layer.

        **Returns:**

        A [`eqx_slots.nn.SlotState`][] whose arrays have an axis of rounds in front; its
        last entry is what a call gives. Rounds before the last `grad_iters` carry no
        gradient.
        """
        num_iters = self.num_iters if num_iters is None else num_iters
        check_positive(num_iters=num_iters)
        given = checked_arguments(
            self, inputs, slots, num_slots, input_mask, slot_mask, key
        )
        parts, setting = self._prepared(given, num_iters)
        return cut_rounds(parts, setting, num_iters, every=True)

    def converge(
        self,
        inputs: Float[Array, "inputs {self.input_size}"],
        *,
        tol: float,
        max_iters: int,
        slots: Float[Array, "slots {self.slot_size}"] | None = None,
        num_slots: int | None = None,
        input_mask: Bool[Array, " inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Converged:
        r"""Rounds until the slots hardly move.

        The residual of a round is $\lVert s_t - s_{t-1} \rVert / \lVert s_t \rVert$
        over all slots. After it falls to `tol` the layer makes the `grad_iters` rounds
        (one, if that is `None`) that gradients flow through: at a fixed point these are
        the first terms of the Neumann series of the implicit gradient (Chang et al.
        2022 take one). Memory does not grow with the rounds before.

        **Arguments:**

        - `inputs`: One set of feature vectors.
        - `tol`: Residual to stop at, at least 0. (Keyword only argument, as all that
            follow.)
        - `max_iters`: Most rounds in all, at least `grad_iters`.
        - `slots`, `num_slots`, `input_mask`, `slot_mask`, `key`: As for a call.

        **Returns:**

        A [`eqx_slots.nn.Converged`][]. Slots that never settle show as a `residual`
        above `tol`. Arguments that cannot be are a `ValueError`.
        """
        grad_iters = 1 if self.grad_iters is None else self.grad_iters
        check_stopping(tol, max_iters, grad_iters)
        given = checked_arguments(
            self, inputs, slots, num_slots, input_mask, slot_mask, key
        )
        parts, setting = self._prepared(given, max_iters)
        # No gradient flows through the loop; its memory does not grow with the rounds.
        frozen = without_gradient(parts)

        def move(slots: Array, count: Array) -> Array:
            now = setting._replace(first=count)
            return rounds(frozen._replace(slots=slots), now, 1, every=False).slots

        slots, count, _ = settle(
            move, frozen.slots, tol=tol, max_iters=max_iters - grad_iters
        )
        if self.straight_through:
            slots = slots + (given.slots - frozen.slots)
        parts, setting = parts._replace(slots=slots), setting._replace(first=count)
        states = rounds(parts, setting, grad_iters, every=True)
        before = slots if grad_iters == 1 else states.slots[-2]
        state = SlotState(states.slots[-1], states.attention[-1])
        return Converged(state, count + grad_iters, residual(before, state.slots))

    def step(
        self,
        slots: Float[Array, "slots {self.slot_size}"],
        inputs: Float[Array, "inputs {self.input_size}"],
        *,
        input_mask: Bool[Array, " inputs"] | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> SlotState:
        """One round: for video, one's own loops, or watching slots converge.

        **Arguments:**

        - `slots`: The slots before the round.
        - `inputs`: One set of feature vectors.
        - `input_mask`, `slot_mask`: As for a call. (Keyword only arguments.)
        - `key`: Randomness for a competition that draws. (Keyword only argument.)

        **Returns:**

        A [`eqx_slots.nn.SlotState`][]: the slots after the round, and the attention of
        those before it.
        """
        given = checked_arguments(self, inputs, slots, None, input_mask, slot_mask, key)
        parts, setting = self._prepared(given, 1)
        return rounds(parts, setting, 1, every=False)

    def _prepared(self, given: Given, num_iters: int) -> tuple[Parts, Setting]:
        """The layer in the dtype of the inputs, and those as its slots see them."""
        layer, num_slots = cast(self, given.inputs.dtype), given.slots.shape[0]
        projections, seen = seen_by(
            layer, given.inputs, num_slots, num_iters, widen=not has_own_vjp(layer)
        )
        done = lambda m: (m.slot_init, m.norm_inputs, m.key_proj, m.value_proj)
        layer = eqx.tree_at(done, layer, (None,) * 4)
        parts = Parts(layer, projections, seen, given.slots)
        return parts, Setting(given.mask, given.slot_mask, given.key)
