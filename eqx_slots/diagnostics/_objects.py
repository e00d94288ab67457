import jax
import jax.numpy as jnp
from einops import einsum, reduce
from jaxtyping import Array, Bool, Float, Int

from .._misc import check_positive
from ..models import Reconstruction
from ._batch import check_segmentation, checked, checked_masks, IN_USE, owned_pixels


def shared_background(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
) -> Float[Array, ""]:
    """The share of the background that does not belong to its main slot.

    Without a segmentation the background is what has the image's median colour, up to a
    tenth of the range of all values. This is for plain backgrounds: images of which
    this is less than half are left out.

    **Arguments:**

    - `images`, `made`: As for [`eqx_slots.diagnostics.reconstruction_error`][].
    - `segmentation`: The true labels, 0 being the background. (Keyword only argument.)

    **Returns:**

    A mean over images, from 0 (in one slot) to almost 1; NaN if no image has a
    background.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))  # not trained
    images = jr.uniform(jr.key(1), (8, 3, 32, 32))
    made = jax.jit(jax.vmap(model))(images)
    labels = jnp.zeros((8, 32, 32), int).at[:, :8, :8].set(1)  # the truth
    share = diagnostics.shared_background(images, made, segmentation=labels)
    print(0 <= share < 1)  # True
    ```
    """
    images, made = checked(images, made)
    if segmentation is None:
        background = _plain_background(images)
    else:
        check_segmentation(segmentation, images)
        background = segmentation == 0
    owned = einsum(
        owned_pixels(made),
        background.astype(images.dtype),
        "batch slots h w, batch h w -> batch slots",
    )
    total = jnp.sum(owned, axis=1)
    exists = total > 0
    shared = 1 - jnp.max(owned, axis=1) / jnp.where(exists, total, 1)
    return jnp.sum(jnp.where(exists, shared, 0)) / jnp.sum(exists, dtype=shared.dtype)


def merged_objects(
    made: Reconstruction,
    segmentation: Int[Array, "batch height width"],
    *,
    num_true: int,
) -> Float[Array, ""]:
    """The share of the objects that have no slot of their own.

    The main slot of an object has most of its pixels. It is not the object's own if it
    is the main slot of another object, or of the background, as well.

    **Arguments:**

    - `made`: What the model made of a batch of images.
    - `segmentation`: The true labels, in `[0, num_true)`; 0 is the background.
    - `num_true`: How many labels there can be; a Python integer. (Keyword only.)

    **Returns:**

    A share of all objects of the batch; NaN if there is none.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))  # not trained
    images = jr.uniform(jr.key(1), (8, 3, 32, 32))
    made = jax.jit(jax.vmap(model))(images)
    labels = jnp.zeros((8, 32, 32), int).at[:, :8, :8].set(1)  # the truth
    print(0 <= diagnostics.merged_objects(made, labels, num_true=2) <= 1)  # True
    ```
    """
    check_positive(num_true=num_true)
    masks = checked_masks(made)
    check_segmentation(segmentation, masks)
    true = jax.nn.one_hot(segmentation, num_true, dtype=masks.dtype)
    pixels = einsum(
        true, owned_pixels(made), "batch h w true, batch slots h w -> batch true slots"
    )
    most = jnp.max(pixels, axis=2, keepdims=True)
    exists = most[:, :, 0] > 0
    # Of equals all are main slots: the order of the slots must not matter.
    main = ((pixels == most) & (most > 0)).astype(masks.dtype)
    users = jnp.sum(main, axis=1, keepdims=True)
    merged = jnp.any((main > 0) & (users > 1), axis=2)
    objects = jnp.sum(exists[:, 1:], dtype=masks.dtype)
    return jnp.sum(merged[:, 1:], dtype=masks.dtype) / objects


def crowded_images(made: Reconstruction) -> Float[Array, ""]:
    """The share of the images in which every slot is in use, so that none is to spare.

    A slot is in use if a hundredth of the pixels or more belong to it.

    **Arguments:**

    - `made`: What the model made of a batch of images.

    **Returns:**

    A number from 0 to 1.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))  # not trained
    images = jr.uniform(jr.key(1), (8, 3, 32, 32))
    made = jax.jit(jax.vmap(model))(images)
    print(0 <= diagnostics.crowded_images(made) <= 1)  # True
    ```
    """
    owned = reduce(owned_pixels(made), "batch slots h w -> batch slots", "mean")
    return jnp.mean(jnp.all(owned >= IN_USE, axis=1), dtype=owned.dtype)


def _plain_background(
    images: Float[Array, "batch channels height width"],
) -> Bool[Array, "batch height width"]:
    """Where the colour is the median, in images of which that is half at least."""
    colour = jnp.median(images, axis=(2, 3), keepdims=True)
    off = jnp.mean(jnp.square(images - jnp.broadcast_to(colour, images.shape)), axis=1)
    near = jnp.sqrt(off) <= 0.1 * (jnp.max(images) - jnp.min(images))
    return near & (jnp.mean(near, axis=(1, 2), keepdims=True) >= 0.5)
