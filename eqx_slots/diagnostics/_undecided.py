import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Bool, Float, Int

from ..models import Reconstruction
from ._batch import background_of, checked


def undecided_background(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
) -> Float[Array, ""]:
    """How much of a pixel of the background is painted by others than its main slot.

    To the picture it is all the same if one slot paints a plain background or several
    paint a share of each pixel; who has the largest share of a pixel does not tell.

    **Arguments:**

    - `images`, `made`, `segmentation`: As for
        [`eqx_slots.diagnostics.shared_background`][].

    **Returns:**

    A mean over all pixels of backgrounds, from 0 (each is one slot's alone) to 1 (each
    is painted by all slots alike); NaN if no image has a background.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots paint half of each pixel
    masks = masks.at[:, :2].set(0.5)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    images = jnp.full((8, 3, 16, 16), 0.5)  # nothing but background
    value = diagnostics.undecided_background(images, made)
    print(f"{value:.2f}")  # 0.67
    ```
    """
    images, made = checked(images, made)
    return _undecided(made, background_of(images, segmentation))


def undecided_objects(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
) -> Float[Array, ""]:
    """The same for all that is not background.

    Of images without a plain background that is all of them.

    **Arguments:**

    - `images`, `made`, `segmentation`: As for
        [`eqx_slots.diagnostics.shared_background`][].

    **Returns:**

    A mean over all pixels of objects, from 0 (each is one slot's alone) to 1 (each is
    painted by all slots alike); NaN if there is no object.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots paint half of each pixel
    masks = masks.at[:, :2].set(0.5)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    images = jr.uniform(jr.key(0), (8, 3, 16, 16))  # nowhere plain
    value = diagnostics.undecided_objects(images, made)
    print(f"{value:.2f}")  # 0.67
    ```
    """
    images, made = checked(images, made)
    return _undecided(made, ~background_of(images, segmentation))


def _undecided(
    made: Reconstruction, where: Bool[Array, "batch height width"]
) -> Float[Array, ""]:
    # The sum is 1, or 0 where no slot was kept.
    total = reduce(made.masks, "batch slots h w -> batch h w", "sum")
    others = jnp.where(where, total - jnp.max(made.masks, axis=1), 0)
    num_slots = made.masks.shape[1]
    share = jnp.sum(others) / jnp.sum(where, dtype=others.dtype)
    return share * num_slots / max(num_slots - 1, 1)
