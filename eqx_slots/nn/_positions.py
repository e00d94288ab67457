from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import cast, check_positive, check_shape


def coordinate_grid(
    height: int, width: int, *, dtype: DTypeLike | None = None
) -> Float[Array, "4 {height} {width}"]:
    """Where each pixel is: `y`, `x`, `1 - y`, `1 - x`, each from 0 to 1.

    The first row has `y = 0` and the last `y = 1`. The complements let a linear map
    without negative weights measure the distance from every border (Locatello et al.
    2020).

    **Arguments:**

    - `height`, `width`: Size of the grid in pixels.
    - `dtype`: Of the grid; `None` is JAX's default. (Keyword only argument.)

    **Returns:**

    The four planes, channels first.

    **Example:**

    ```python
    from eqx_slots import nn

    grid = nn.coordinate_grid(2, 3)
    print(grid.shape)  # (4, 2, 3)
    print(grid[0].tolist())  # [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    ```
    """
    check_positive(height=height, width=width)
    y = repeat(jnp.linspace(0, 1, height, dtype=dtype), "h -> h w", w=width)
    x = repeat(jnp.linspace(0, 1, width, dtype=dtype), "w -> h w", h=height)
    return jnp.stack([y, x, 1 - y, 1 - x])


class SoftPositionEmbedding(eqx.Module):
    """Tell each pixel of a feature map where it is: add a linear map of its place.

    Attention sees a set and a broadcast slot is the same everywhere, so position has to
    be written into the features (Locatello et al. 2020). The grid is computed at the
    call: one embedding serves every image size and no table is trained by accident.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    positions = nn.SoftPositionEmbedding(32, key=jr.key(0))
    print(positions(jnp.zeros((32, 8, 8))).shape)  # (32, 8, 8)
    print(positions(jnp.zeros((32, 16, 24))).shape)  # (32, 16, 24)
    ```
    """

    proj: eqx.nn.Linear
    channels: int = eqx.field(static=True)
    grid: Literal["paper", "savi"] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        grid: Literal["paper", "savi"] = "paper",
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channels`: Channels of the features.
        - `grid`: What tells the place: `"paper"`, the four planes of
            [`eqx_slots.nn.coordinate_grid`][], or `"savi"`, two, `y` and `x` from -1 to
            1 (SAVi, Kipf et al. 2022). A linear map can learn the same from either.
            (Keyword only argument, as all that follow.)
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_positive(channels=channels)
        if grid not in ("paper", "savi"):
            raise ValueError(f'`grid` must be "paper" or "savi", got {grid!r}.')
        planes = 4 if grid == "paper" else 2
        self.proj = eqx.nn.Linear(planes, channels, dtype=dtype, key=key)
        self.channels = channels
        self.grid = grid

    def __call__(
        self, features: Float[Array, "{self.channels} height width"]
    ) -> Float[Array, "{self.channels} height width"]:
        """**Arguments:**

        - `features`: One feature map.

        **Returns:**

        The same features plus the embedding of each place.
        """
        check_shape(
            "features", features, "channels height width", (self.channels, -1, -1)
        )
        _, height, width = features.shape
        grid = coordinate_grid(height, width, dtype=features.dtype)
        if self.grid == "savi":
            grid = 2 * grid[:2] - 1
        proj = cast(self.proj, features.dtype)
        along_width = jax.vmap(proj, in_axes=1, out_axes=1)
        return features + jax.vmap(along_width, in_axes=1, out_axes=1)(grid)
