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
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    images = jnp.full((8, 3, 16, 16), 0.5)  # nothing but background
    print(diagnostics.shared_background(images, made))  # 0.5
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
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    labels = jnp.zeros((8, 16, 16), int)  # one object on the left, one on the right
    labels = labels.at[:, :4, :4].set(1).at[:, :4, 12:].set(2)
    print(diagnostics.merged_objects(made, labels, num_true=3))  # 1.0
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
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    print(diagnostics.crowded_images(made))  # 0.0
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
