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

    def __init__(
        self, channels: int, *, dtype: DTypeLike | None = None, key: PRNGKeyArray
    ):
        """**Arguments:**

        - `channels`: Channels of the features.
        - `dtype`: Of the parameters; `None` is JAX's default. (Keyword only argument.)
        - `key`: Randomness for initialisation. (Keyword only argument.)
        """
        check_positive(channels=channels)
        self.proj = eqx.nn.Linear(4, channels, dtype=dtype, key=key)
        self.channels = channels

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
        proj = cast(self.proj, features.dtype)
        along_width = jax.vmap(proj, in_axes=1, out_axes=1)
        return features + jax.vmap(along_width, in_axes=1, out_axes=1)(grid)
