"""Places on the ground by the rule of CLEVR (Johnson et al. 2017)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


_BOUND = 3.0  # places go from -3 to 3 in both directions
_GAP = 0.25  # least, between the circles that two objects stand on
_MARGIN = 0.4  # least, between their middles, to the side and in depth


def find_places(
    radius: Float[Array, " objects"],
    camera: Float[Array, "3"],
    numbers: Float[Array, "objects tries 2"],
) -> tuple[Float[Array, "objects 2"], Bool[Array, " objects"]]:
    """Places, one object after the other, and whether each keeps the rule: the first of
    its tries that does, or the last. Tries are numbers in [0, 1)."""
    tries = _BOUND * (2 * numbers - 1)
    number = len(radius)
    x, y = camera[:2] / jnp.sqrt(jnp.sum(camera[:2] ** 2))

    def put(places: Array, index: Array) -> tuple[Array, Array]:
        apart = tries[index][:, None] - places[None]  # tries objects 2
        gap = jnp.sqrt(jnp.sum(apart**2, axis=-1)) - (radius[index] + radius)[None]
        in_depth = jnp.abs(x * apart[..., 0] + y * apart[..., 1])
        aside = jnp.abs(y * apart[..., 0] - x * apart[..., 1])
        clear = (gap >= _GAP) & (jnp.minimum(in_depth, aside) >= _MARGIN)
        is_later = jnp.arange(number) >= index
        good = jnp.all(clear | is_later[None], axis=1)
        found = jnp.any(good)
        place = tries[index][jnp.where(found, jnp.argmax(good), -1)]
        return places.at[index].set(place), found

    return jax.lax.scan(put, jnp.zeros((number, 2)), jnp.arange(number))
