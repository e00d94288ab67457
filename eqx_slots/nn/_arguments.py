"""What a user gives to the layer, checked: every slip gets an error with its cure."""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import repeat
from jaxtyping import Array, PRNGKeyArray

from .._misc import (
    as_array,
    check_floating,
    check_key,
    check_mask,
    check_positive,
    check_shape,
    given_slots,
)


_CALLS = {
    "slot_init": "num_slots, key=key",
    "competition": "logits, mask=mask, key=key",
    "reduction": "weights, values, mask=mask",
}


class Given(NamedTuple):
    """The arguments of one call; what is masked is zero in all of them."""

    inputs: Array
    slots: Array
    mask: Array | None
    slot_mask: Array | None
    key: PRNGKeyArray | None


def checked_arguments(
    layer: Any,
    inputs: Array,
    slots: Array | None,
    num_slots: int | None,
    input_mask: Array | None,
    slot_mask: Array | None,
    key: PRNGKeyArray | None,
) -> Given:
    """Check all, draw the slots if none were given, and join the two masks."""
    round_key = None
    if key is not None:
        check_key(key)
    if key is not None and getattr(layer.competition, "needs_key", False):
        key, round_key = jr.split(key)
    inputs = _checked_inputs(inputs, layer.input_size)
    if slots is None:
        slots = _drawn_slots(layer, num_slots, key)
    else:
        call = "jax.vmap(lambda x, slots: layer(x, slots=slots))(inputs, slots)"
        slots = given_slots(slots, layer.slot_size, num_slots, batch=call)
    # Drawn in the dtype of the parameters: the same slots whatever the inputs.
    slots = slots.astype(inputs.dtype)
    mask = None
    if input_mask is not None:
        input_mask = as_array("input_mask", input_mask)
        check_mask("input_mask", input_mask, "inputs", inputs.shape[:1])
        mask = repeat(input_mask, "inputs -> slots inputs", slots=slots.shape[0])
    if slot_mask is not None:
        slot_mask = as_array("slot_mask", slot_mask)
        check_mask("slot_mask", slot_mask, "slots", slots.shape[:1])
        own = repeat(slot_mask, "slots -> slots inputs", inputs=inputs.shape[0])
        mask = own if mask is None else mask & own
    return Given(
        inputs=zero_outside(input_mask, inputs),
        slots=zero_outside(slot_mask, slots),
        mask=mask,
        slot_mask=slot_mask,
        key=round_key,
    )


def zero_outside(mask: Array | None, x: Array) -> Array:
    """Chosen before any arithmetic: zero times NaN would still be NaN."""
    if mask is None:
        return x
    return jnp.where(jnp.broadcast_to(mask[:, None], x.shape), x, 0)


def _drawn_slots(layer: Any, num_slots: int | None, key: PRNGKeyArray | None) -> Array:
    num_slots = layer.num_slots if num_slots is None else num_slots
    if num_slots is None:
        raise ValueError(
            "The layer was built without a number of slots: pass the initial slots by"
            " `slots=...`, or `num_slots=...` if `slot_init` can draw them."
        )
    check_positive(num_slots=num_slots)
    return layer.slot_init(num_slots, key=key)


def _checked_inputs(inputs: Array, input_size: int) -> Array:
    inputs = as_array("inputs", inputs)
    check_floating("inputs", inputs)
    cure = otherwise = ""
    if inputs.ndim == 2:
        built = f"`SlotAttention({inputs.shape[1]}, ...)`"
        otherwise = f"A layer for inputs of this width is {built}."
    elif inputs.ndim == 3 and inputs.shape[2] != input_size == inputs.shape[0]:
        flat = f"inputs.reshape({input_size}, -1).T"
        cure = f"A map of features becomes a set of them by `{flat}`."
    check_shape(
        "inputs",
        inputs,
        "inputs input_size",
        (-1, input_size),
        batch="jax.vmap(layer)({name}, key=jax.random.split(key, len({name})))",
        cure=cure,
        otherwise=otherwise,
    )
    if inputs.shape[0] == 0:
        raise ValueError("`inputs` is an empty set; give at least one vector.")
    return inputs


def fixed_num_slots(
    slot_init: Callable[..., Array] | None, num_slots: int | None
) -> int | None:
    """The number of slots: the initialiser's where it has one, else as given."""
    if num_slots is not None:
        check_positive(num_slots=num_slots)
    if slot_init is None and num_slots is None:
        raise ValueError(
            "`num_slots` is missing: say how many slots are to compete, for example"
            " num_slots=7 for four objects, the background and two to spare."
        )
    fixed = getattr(slot_init, "num_slots", num_slots)
    if num_slots not in (None, fixed):
        raise ValueError(
            f"`slot_init` has {fixed} slots but num_slots={num_slots}; pass"
            f" num_slots={fixed} or leave it out."
        )
    return None if fixed is None else operator.index(fixed)


def check_parts(layer: Any, head_size: int) -> None:
    """Try the parts once, in shapes alone, so that they fail at the door."""
    slots, inputs = layer.num_slots, 2
    if slots is None:  # nothing to try them with
        return
    heads = (layer.num_heads,) if layer.num_heads > 1 else ()
    weights = jax.ShapeDtypeStruct((*heads, slots, inputs), jnp.float32)
    values = jax.ShapeDtypeStruct((*heads, inputs, head_size), jnp.float32)
    key = jr.key(0)
    round_key = key if getattr(layer.competition, "needs_key", False) else None
    asked = {
        "slot_init": ((slots,), {"key": key}, (slots, layer.slot_size)),
        "competition": ((weights,), {"mask": None, "key": round_key}, weights.shape),
        "reduction": ((weights, values), {"mask": None}, (*heads, slots, head_size)),
    }
    for name, (arguments, options, wanted) in asked.items():
        part = getattr(layer, name)
        _check_call(name, part, arguments, options)
        result = eqx.filter_eval_shape(part, *arguments, **options)
        if getattr(result, "shape", None) != wanted:
            raise ValueError(
                f"`{name}` must give an array of shape {wanted} for num_slots={slots},"
                f" got {result}."
            )


def _check_call(
    name: str, part: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    try:
        inspect.signature(part).bind(*arguments, **options)
    except ValueError:  # what is written in C may not have one
        return
    except TypeError as error:
        given = getattr(part, "__name__", type(part).__name__)
        raise ValueError(
            f"`{name}` must be callable as `{name}({_CALLS[name]})`, got {given}:"
            f" {error}; give an instance of a class, or a function around yours."
        ) from error


def check_options(num_heads: int, qkv_size: int, weight_init: str) -> None:
    if qkv_size % num_heads:
        raise ValueError(
            "`num_heads` must divide the width of queries, keys and values, got"
            f" num_heads={num_heads} and qkv_size={qkv_size}."
        )
    if weight_init not in ("paper", "equinox"):
        raise ValueError(
            f'`weight_init` must be "paper" or "equinox", got {weight_init!r}.'
        )


def check_stopping(tol: float, max_iters: int, grad_iters: int) -> None:
    check_positive(max_iters=max_iters)
    if max_iters < grad_iters:
        raise ValueError(
            f"`max_iters` must be at least grad_iters={grad_iters}, the rounds that"
            f" gradients flow through, got {max_iters}."
        )
    if not tol >= 0:
        raise ValueError(f"`tol` must not be negative, got {tol}.")
