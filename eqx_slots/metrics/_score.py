from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Score(NamedTuple):
    """A figure, and whether it means anything on this example.

    `value` is finite even where `valid` is False, so that `jnp.where` can drop it.
    """

    value: Float[Array, "*batch"]
    valid: Bool[Array, "*batch"]


def mean(score: Score) -> Float[Array, ""]:
    """Mean over the valid examples of a batch of scores; NaN if there are none."""
    if not isinstance(score, Score):
        raise ValueError(
            "`score` must be a `Score`, such as a metric mapped by `jax.vmap` gives,"
            f" got {type(score).__name__}; for plain numbers take `jnp.mean`."
        )
    total = jnp.sum(jnp.where(score.valid, score.value, 0))
    return total / jnp.sum(score.valid.astype(total.dtype))
