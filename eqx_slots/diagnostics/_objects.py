import jax.numpy as jnp
from einops import einsum, reduce
from jaxtyping import Array, Bool, Float, Int

from .._misc import check_positive, one_hot
from ..models import Reconstruction
from ._batch import (
    background_of,
    check_segmentation,
    checked,
    checked_masks,
    IN_USE,
    is_near,
)


def shared_background(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
) -> Float[Array, ""]:
    """The share of the background that is not painted by its main slot.

    Of the masks as they are: it counts as well if others paint a share of each pixel
    as if they paint some pixels whole. Without a segmentation the background is what
    has the image's median colour, up to a tenth of the range of all values. This is for
    plain backgrounds: images of which this is less than half are left out.

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
    background = background_of(images, segmentation)
    painted = _painted(made.masks, background)
    total = jnp.sum(painted, axis=1)  # 0 as well where no slot was kept
    others = total - jnp.max(painted, axis=1)
    shared = others / jnp.where(total > 0, total, 1)
    exists = jnp.any(background, axis=(1, 2))
    return jnp.sum(shared) / jnp.sum(exists, dtype=shared.dtype)


def lost_objects(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
) -> Float[Array, ""]:
    """The share of the objects that is painted as if there were nothing.

    Of all pixels that are not background: those on which the picture is nearer to what
    the background's main slot paints there than to the image, if that is not the image
    up to a tenth of the range of all values. A model whose encoder no longer tells some
    colour from the background loses all that have it; a slot that paints an object and
    the background right has lost nothing (that is for
    [`eqx_slots.diagnostics.merged_objects`][]).

    **Arguments:**

    - `images`, `made`, `segmentation`: As for
        [`eqx_slots.diagnostics.shared_background`][].

    **Returns:**

    A number from 0 to 1; NaN if no image has objects on a background.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16)).at[:, 0].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    images = jnp.zeros((8, 3, 16, 16)).at[:, 0, :4, :4].set(1)  # a red block
    print(diagnostics.lost_objects(images, made))  # 1.0
    ```
    """
    images, made = checked(images, made)
    background = background_of(images, segmentation)
    painted = _painted(made.masks, background)
    # Of equals all are main slots: the order of the slots must not matter.
    largest = jnp.max(painted, axis=1, keepdims=True)
    main = (painted == jnp.broadcast_to(largest, painted.shape)).astype(images.dtype)
    nothing = einsum(
        main / jnp.sum(main, axis=1, keepdims=True),
        made.rgb,
        "batch slots, batch slots channels h w -> batch channels h w",
    )
    far = lambda picture: jnp.sum(jnp.square(made.image - picture), axis=1)
    exists = jnp.any(background, axis=(1, 2), keepdims=True)
    objects = jnp.broadcast_to(exists, background.shape) & ~background
    lost = objects & ~is_near(images, nothing) & (far(nothing) < far(images))
    return jnp.sum(lost, dtype=images.dtype) / jnp.sum(objects, dtype=images.dtype)


def merged_objects(
    made: Reconstruction,
    segmentation: Int[Array, "batch height width"],
    *,
    num_true: int,
) -> Float[Array, ""]:
    """The share of the objects that have no slot of their own.

    The main slot of an object paints more of it than any other slot. It is not the
    object's own if it paints half or more of another object, or of the background, as
    well. Of the masks as they are.

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
    true = one_hot(segmentation, num_true, masks.dtype)
    pixels = reduce(true, "batch h w true -> batch true 1", "sum")
    painted = einsum(true, masks, "batch h w true, batch slots h w -> batch true slots")
    share = painted / jnp.maximum(pixels, 1)
    # Of equals all are main slots: the order of the slots must not matter.
    most = jnp.max(share, axis=2, keepdims=True)
    main = (share == most) & (most > 0)
    half = (share >= 0.5).astype(masks.dtype)
    others = jnp.sum(half, axis=1, keepdims=True) - half
    merged = jnp.any(main & (others > 0), axis=2)
    exists = pixels[:, 1:, 0] > 0
    objects = jnp.sum(exists, dtype=masks.dtype)
    return jnp.sum(merged[:, 1:] & exists, dtype=masks.dtype) / objects


def crowded_images(made: Reconstruction) -> Float[Array, ""]:
    """The share of the images in which every slot is in use, so that none is to spare.

    A slot is in use if it paints a hundredth of the image or more, in shares of pixels
    or in whole ones.

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
    share = reduce(checked_masks(made), "batch slots h w -> batch slots", "mean")
    return jnp.mean(jnp.all(share >= IN_USE, axis=1), dtype=share.dtype)


def _painted(
    masks: Float[Array, "batch slots height width"],
    where: Bool[Array, "batch height width"],
) -> Float[Array, "batch slots"]:
    """How many of these pixels each slot paints, in shares."""
    return einsum(
        masks, where.astype(masks.dtype), "batch slots h w, batch h w -> batch slots"
    )
