from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import DTypeLike

from .._misc import accumulator_dtype, cast


def compute_in(dtype: DTypeLike, loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss with floating-point parameters and batch in `dtype`.

    The cast is a part of what is differentiated, so gradients have the dtype of the
    parameters.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`compute_dtype` must be floating point, got {jnp.dtype(dtype)}; did you"
            " mean jnp.bfloat16?"
        )

    cast_to = partial(cast, dtype=dtype)

    def computed(model: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        value, aux = loss(cast_to(model), cast_to(batch), key)
        return value.astype(accumulator_dtype(value.dtype)), aux

    return computed
