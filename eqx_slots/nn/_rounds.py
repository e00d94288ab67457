"""The rounds of slot attention, and their backward pass written out."""

import inspect
import operator
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange, reduce
from jaxtyping import Array, PRNGKeyArray

from .._misc import accumulator_dtype, cast, derivative_alone, partial_gradient
from ._arguments import zero_outside
from ._fixed_point import without_gradient
from ._inputs import split
from ._reduction import AbstractLinearReduction
from ._slot_state import SlotState


class Setting(NamedTuple):
    """What rounds need beside what they are differentiated by.

    `first` rounds came before: the key of a round depends on how many there were.
    """

    mask: Array | None
    slot_mask: Array | None
    key: PRNGKeyArray | None
    first: int | Array = 0

    def key_of(self, count: Array) -> PRNGKeyArray | None:
        return None if self.key is None else jr.fold_in(self.key, count)


class Parts(NamedTuple):
    """All that gradients flow to; what is seen of the inputs is nearly all of it."""

    layer: Any
    projections: Any
    seen: Any
    slots: Array


def rounds(parts: Parts, setting: Setting, num: int, *, every: bool) -> SlotState:
    """Make `num` rounds; the state after the last, or after `every` one of them."""
    num = operator.index(num)  # Equinox takes NumPy's integers for arrays
    if has_own_vjp(parts.layer):
        return _rounds(parts, setting, num, every)
    return _forward(parts, setting, num, every)[0]


def cut_rounds(
    parts: Parts,
    setting: Setting,
    num: int,
    *,
    every: bool,
    early_gradient: float | Array | None = None,
) -> SlotState:
    """As `rounds`, with no more gradient through the first than the layer lets."""
    layer = parts.layer
    cut = 0 if layer.grad_iters is None else max(num - layer.grad_iters, 0)
    if cut == 0:
        return rounds(parts, setting, num, every=every)
    early = without_gradient(parts) if early_gradient is None else parts
    before = rounds(early, setting, cut, every=every)
    made = before.slots[-1] if every else before.slots
    share = 0.0 if early_gradient is None else early_gradient
    slots = partial_gradient(made, share)
    if layer.straight_through:
        share = jnp.asarray(share, made.dtype)
        slots = slots + (1 - share) * derivative_alone(parts.slots)
    parts, setting = parts._replace(slots=slots), setting._replace(first=cut)
    after = rounds(parts, setting, num - cut, every=every)
    if not every:
        return after
    return SlotState(*map(jnp.concatenate, zip(before, after)))


def _forward(
    parts: Parts, setting: Setting, num: int, every: bool
) -> tuple[SlotState, Any]:
    layer, projections, seen, slots = parts

    def once(state: SlotState, count: Array) -> tuple[SlotState, Any]:
        before, key = state.slots, setting.key_of(count)
        rows, offset = _asked(layer, projections, before)
        scores = seen.scores(rows)
        if isinstance(layer.reduction, AbstractLinearReduction):
            attention, weights = _won(layer, scores, offset, setting.mask, key)
            taken, total = seen.taken(weights)
        else:
            attention = layer.competition(scores, mask=setting.mask, key=key)
            taken = layer.reduction(attention, seen.v, mask=setting.mask)
            attention, total = _shown(layer, attention), None
        slots = _moved(layer, projections, taken, total, before, setting.slot_mask)
        state = SlotState(slots, attention.astype(slots.dtype))
        return state, (state if every else None, (before, taken, total))

    nothing = jnp.zeros((slots.shape[0], seen[0].shape[-2]), slots.dtype)
    start = SlotState(slots, nothing)
    counts = setting.first + jnp.arange(num)
    last, (states, residuals) = jax.lax.scan(once, start, counts)
    return (states if every else last), residuals


# A round in three: what the slots look for, what each wins, and where that moves it.
# The first and the last are about a few slots, the middle one about all inputs.
def _asked(layer: Any, projections: Any, slots: Array) -> tuple[Array, Array | None]:
    # Queries are few: rounded to half precision they would lose more than they save.
    wide = accumulator_dtype(slots.dtype)
    norm, proj = cast((layer.norm_slots, layer.query_proj), wide)
    q = split(jax.vmap(proj)(jax.vmap(norm)(slots.astype(wide))), layer.num_heads)
    scale = q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
    return projections.rows(q * scale)


def _won(
    layer: Any,
    scores: Array,
    offset: Array | None,
    mask: Array | None,
    key: PRNGKeyArray | None,
) -> tuple[Array, Array]:
    logits = scores if offset is None else scores + offset[..., None]
    attention = layer.competition(logits, mask=mask, key=key)
    weights = layer.reduction.weights(attention, mask=mask)
    return _shown(layer, attention), weights


def _shown(layer: Any, attention: Array) -> Array:
    if layer.num_heads == 1:
        return attention
    joint = getattr(layer.competition, "over_heads", False)
    return reduce(attention, "h k n -> k n", "sum" if joint else "mean")


def _moved(
    layer: Any,
    projections: Any,
    taken: Array,
    total: Array | None,
    slots: Array,
    slot_mask: Array | None,
) -> Array:
    updates = projections.updates(taken, total).astype(slots.dtype)
    if layer.num_heads > 1:
        updates = rearrange(updates, "heads slots d -> slots (heads d)")
    if layer.output_proj is not None:
        updates = jax.vmap(layer.output_proj)(updates)
    slots = jax.vmap(layer.cell)(updates, slots)
    if layer.mlp is not None and layer.norm_mlp is not None:
        slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
    return zero_outside(slot_mask, slots)


def has_own_vjp(layer: Any) -> bool:
    """Whether gradients are taken by the backward pass that is written out here.

    All arrays that a round depends on have to be leaves of the layer: a bare function
    may close over others, whose gradients only autodiff would find.
    """
    parts = (
        layer.norm_slots,
        layer.query_proj,
        layer.competition,
        layer.output_proj,
        layer.cell,
        layer.norm_mlp,
        layer.mlp,
    )
    linear = isinstance(layer.reduction, AbstractLinearReduction)
    return (
        layer.use_custom_vjp
        and linear
        and all(
            part is None or (isinstance(part, eqx.Module) and not _closes_over(part))
            for part in (*parts, layer.reduction)
        )
    )


def _closes_over(module: eqx.Module) -> bool:
    """Whether one of the functions in a module does, such as its activation."""
    return any(map(_hides_arrays, jax.tree.leaves(module)))


def _hides_arrays(leaf: Any) -> bool:
    """Whether a leaf is a function that may hold arrays, which are no leaves then."""
    if isinstance(leaf, partial):
        held = jax.tree.leaves((leaf.func, leaf.args, leaf.keywords))
        return any(eqx.is_array(x) or _hides_arrays(x) for x in held)
    if not callable(leaf):
        return False
    # What `jax.jit` has wrapped for example.
    leaf = inspect.unwrap(leaf, stop=lambda inner: isinstance(inner, FunctionType))
    if not isinstance(leaf, FunctionType):  # an object, or a method of one
        return True
    defaults = jax.tree.leaves((leaf.__defaults__, leaf.__kwdefaults__))
    return leaf.__closure__ is not None or any(map(eqx.is_array, defaults))


@eqx.filter_custom_vjp
def _rounds(parts: Parts, setting: Setting, num: int, every: bool) -> SlotState:
    return _forward(parts, setting, num, every)[0]


@_rounds.def_fwd
def _rounds_fwd(
    perturbed: Any, parts: Parts, setting: Setting, num: int, every: bool
) -> tuple[SlotState, Any]:
    del perturbed
    return _forward(parts, setting, num, every)


@_rounds.def_bwd
def _rounds_bwd(
    residuals: Any,
    d_state: SlotState,
    perturbed: Parts,
    parts: Parts,
    setting: Setting,
    num: int,
    every: bool,
) -> Parts:
    """From the last round to the first, each made again from the slots before it.

    Autodiff would keep the attention of every round and write a gradient of all inputs
    for each. Here a round leaves behind what that gradient is a product of, two numbers
    for a slot and an input, and the product is made once for all rounds; or, if that
    much left behind would be more than the inputs are themselves, added up as it comes.
    """
    params, static = eqx.partition(
        (parts.layer, parts.projections), eqx.is_inexact_array
    )
    wanted = any(jax.tree.leaves(perturbed.seen))

    def back(carry: tuple[Array, Any], at: tuple[Any, ...]) -> tuple[Any, Any]:
        d_slots, d_params = carry
        made, count, d_now = at
        if every:
            d_slots = d_slots if d_now.slots is None else d_slots + d_now.slots
            d_attention = d_now.attention
        elif d_state.attention is not None:
            d_attention = jnp.where(count == counts[-1], d_state.attention, 0)
        else:
            d_attention = None
        d_slots, d_round, factors = _round_bwd(
            params, static, parts.seen, setting, made, count, d_slots, d_attention
        )
        return (d_slots, _added(d_params, d_round)), factors if wanted else None

    def back_and_add(carry: tuple[Any, Any], at: Any) -> tuple[Any, None]:
        inner, total = carry
        inner, factors = back(inner, at)
        return (inner, parts.seen.plus_product(total, factors)), None

    d_slots = None if every else d_state.slots
    if d_slots is None:
        d_slots = jnp.zeros_like(parts.slots)
    carry = d_slots, jax.tree.map(jnp.zeros_like, params)
    counts = setting.first + jnp.arange(num)
    at = residuals, counts, d_state if every else None
    d_seen = jax.tree.map(lambda _: None, parts.seen)
    if not wanted or _is_little_left(parts, num):
        (d_slots, d_params), factors = jax.lax.scan(back, carry, at, reverse=True)
        if wanted:
            d_seen = parts.seen.cotangent(parts.seen.product(factors))
    else:
        carry = carry, parts.seen.no_product()
        carry, _ = jax.lax.scan(back_and_add, carry, at, reverse=True)
        (d_slots, d_params), total = carry
        d_seen = parts.seen.cotangent(total, in_place=True)
    d_layer, d_projections = d_params
    return Parts(d_layer, d_projections, d_seen, d_slots)


def _round_bwd(
    params: Any,
    static: Any,
    seen: Any,
    setting: Setting,
    made: tuple[Array, Array, Array | None],
    count: Array,
    d_slots: Array,
    d_attention: Array | None,
) -> tuple[Array, Any, Any]:
    """Gradients of the slots before and of the parameters, factors of the inputs'."""
    before, taken, total = made

    def asked(params: Any, before: Array) -> tuple[Array, Array | None]:
        layer, projections = eqx.combine(params, static)
        return _asked(layer, projections, before)

    def won(params: Any, scores: Array, offset: Array | None) -> tuple[Array, Array]:
        layer, _ = eqx.combine(params, static)
        return _won(layer, scores, offset, setting.mask, setting.key_of(count))

    def moved(params: Any, taken: Array, total: Array | None, before: Array) -> Array:
        layer, projections = eqx.combine(params, static)
        return _moved(layer, projections, taken, total, before, setting.slot_mask)

    _, pull_moved = jax.vjp(moved, params, taken, total, before)
    d_moved, d_taken, d_total, d_before = pull_moved(d_slots)
    (rows, offset), pull_asked = jax.vjp(asked, params, before)
    scores, d_weights = seen.scores_and_d_weights(rows, d_taken)
    if d_total is not None:
        d_weights = d_weights + d_total[..., None]
    (attention, weights), pull_won = jax.vjp(won, params, scores, offset)
    if d_attention is None:
        d_attention = jnp.zeros_like(attention)
    d_won, d_scores, d_offset = pull_won(
        (d_attention.astype(attention.dtype), d_weights.astype(weights.dtype))
    )
    d_asked, d_also_before = pull_asked((seen.d_rows(d_scores), d_offset))
    factors = seen.factors(rows, d_taken, d_scores, weights)
    return d_before + d_also_before, _added(d_moved, d_won, d_asked), factors


def _added(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def _is_little_left(parts: Parts, num: int) -> bool:
    """Whether all rounds leave no more behind than the inputs are themselves."""
    heads_and_slots = parts.layer.num_heads * parts.slots.shape[0]
    width = sum(x.size for x in jax.tree.leaves(parts.seen)) // parts.seen[0].shape[-2]
    return 2 * heads_and_slots * num <= width
