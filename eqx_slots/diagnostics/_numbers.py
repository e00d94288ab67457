import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Array, Bool, Float, Int

from .._misc import accumulator_dtype, check_positive, check_shape, grid_stride
from ..models import Reconstruction


# The share of the pixels that a slot must have to be in use at all.
_IN_USE = 0.01


def reconstruction_error(
    images: Float[Array, "batch channels height width"], made: Reconstruction
) -> Float[Array, ""]:
    """The error of the picture as a share of the error of the batch's mean image.

    0 is a perfect picture and 1 what a model reaches that ignores its input; painting
    the colour of a plain background everywhere costs a little more than 1.

    **Arguments:**

    - `images`: What the model saw, two different images at least.
    - `made`: What it made of them, mapped over the batch.

    **Returns:**

    A non-negative number; not finite if a pixel of `made` is not, or if all images are
    the same.
    """
    images, made = _checked(images, made)
    error = jnp.mean(jnp.square(made.image - images))
    return error / jnp.mean(jnp.square(images - _mean_image(images)))


def saturated_error(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    rgb_range: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, ""]:
    """The part of [`eqx_slots.diagnostics.reconstruction_error`][] that no longer
    teaches: error on RGB that sits at the ends of a sigmoid's range.

    There the sigmoid's slope, a factor of the gradient, is below 0.01. Saturated colour
    without error is none of it: black painted black is right.

    **Arguments:**

    - `images`, `made`: As for [`eqx_slots.diagnostics.reconstruction_error`][].
    - `rgb_range`: The least and the largest value that RGB can have, `(-1, 1)` for a
        tanh. RGB that leaves it anywhere cannot be saturated. (Keyword only argument.)

    **Returns:**

    A number from 0 to `reconstruction_error(images, made)`.
    """
    images, made = _checked(images, made)
    low, high = rgb_range
    if not low < high:
        raise ValueError(f"`rgb_range` must be (least, largest), got {rgb_range}.")
    margin = 0.01 * (high - low)
    ended = (made.rgb < low + margin) | (made.rgb > high - margin)
    bounded = jnp.all((made.rgb >= low) & (made.rgb <= high))
    share = einsum(
        (ended & bounded).astype(made.masks.dtype),
        made.masks,
        "batch slots channels h w, batch slots h w -> batch channels h w",
    )
    error = jnp.mean(share * jnp.square(made.image - images))
    return error / jnp.mean(jnp.square(images - _mean_image(images)))


def undecided_masks(made: Reconstruction) -> Float[Array, ""]:
    """How much of a pixel is painted by others than the slot that it belongs to.

    **Arguments:**

    - `made`: What the model made of a batch of images.

    **Returns:**

    A mean over all pixels, from 0 (each is one slot's alone) to 1 (each is painted by
    all slots alike).
    """
    masks = _masks(made)
    # The sum is 1, or 0 where no slot was kept.
    others = jnp.sum(masks, axis=1) - jnp.max(masks, axis=1)
    num_slots = masks.shape[1]
    return jnp.mean(others) * num_slots / max(num_slots - 1, 1)


def effective_slots(made: Reconstruction) -> Float[Array, ""]:
    r"""How many slots an image is made of, if all had equally many pixels.

    $\exp(-\sum_k p_k \log p_k)$ with $p_k$ the share of the image that slot $k$ paints,
    averaged over images.

    **Arguments:**

    - `made`: What the model made of a batch of images.

    **Returns:**

    A number from 1 (one slot paints everything) to the number of slots.
    """
    size = reduce(_masks(made), "batch slots h w -> batch slots", "sum")
    total = jnp.sum(size, axis=1, keepdims=True)
    share = size / jnp.where(total > 0, total, 1)
    entropy = jnp.sum(jax.scipy.special.entr(share), axis=1)
    return jnp.mean(jnp.exp(entropy))


def position_dependence(made: Reconstruction) -> Float[Array, ""]:
    r"""How far position alone, whatever the image, says which pixels share a slot.

    Of the variance of $\sum_k m_k(p) \, m_k(q)$ over images and pairs of places $p$,
    $q$, the share that its mean over the images explains, corrected for the size of the
    batch. Stripes, halves and quarters that are the same in every image have 1, whether
    or not the slots change places between images; masks that follow objects have little
    more than 0.

    **Arguments:**

    - `made`: What the model made of a batch of different images, at least two. At most
        8 x 8 places of each are looked at.

    **Returns:**

    A number from 0 to 1; 0 if all places share their slots alike.
    """
    masks = _masks(made)
    batch, _, height, width = masks.shape
    if batch < 2:
        raise ValueError(_TOO_FEW.format(batch))
    down, right = -(-height // 8), -(-width // 8)
    places = masks[:, :, down // 2 :: down, right // 2 :: right]
    places = rearrange(places, "batch slots h w -> batch slots (h w)")
    together = einsum(places, places, "batch slots p, batch slots q -> batch p q")
    first, second = jnp.triu_indices(places.shape[2], 1)
    together = together[:, first, second]
    total = jnp.var(together)
    # An unbiased variance over few images: their mean follows each of them a little.
    within = jnp.mean(jnp.var(together, axis=0, ddof=1))
    plain = total <= 1e-6
    return jnp.where(plain, 0, jnp.maximum(1 - within / jnp.where(plain, 1, total), 0))


def duplicate_slots(
    made: Reconstruction, *, threshold: float = 0.9
) -> Float[Array, ""]:
    """How many slots of an image paint the same pixels as another one.

    Two slots are duplicates if both have a hundredth of the image or more and the
    cosine between their masks is above `threshold`.

    **Arguments:**

    - `made`: What the model made of a batch of images.
    - `threshold`: From 0 to 1. (Keyword only argument.)

    **Returns:**

    The slots that could go, averaged over images: of two that are the same, one.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in [0, 1], got {threshold}.")
    masks = rearrange(_masks(made), "batch slots h w -> batch slots (h w)")
    in_use = jnp.mean(masks, axis=2) >= _IN_USE
    size = jnp.sqrt(jnp.sum(jnp.square(masks), axis=2, keepdims=True))
    unit = masks / jnp.where(size > 0, size, 1)
    cosine = einsum(unit, unit, "batch i p, batch j p -> batch i j")
    same = (cosine > threshold) | jnp.eye(cosine.shape[1], dtype=bool)[None]
    same = same & in_use[:, :, None] & in_use[:, None, :]
    # A group of n slots counts n - 1 times: 1 - 1/n for each of its members.
    members = jnp.sum(same, axis=2).astype(masks.dtype)
    spare = jnp.where(in_use, 1 - 1 / jnp.maximum(members, 1), 0)
    return jnp.mean(jnp.sum(spare, axis=1))


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
    """
    images, made = _checked(images, made)
    if segmentation is None:
        background = _plain_background(images)
    else:
        _check_segmentation(segmentation, images)
        background = segmentation == 0
    owned = einsum(
        _owned(made),
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
    """
    check_positive(num_true=num_true)
    masks = _masks(made)
    _check_segmentation(segmentation, masks)
    true = jax.nn.one_hot(segmentation, num_true, dtype=masks.dtype)
    pixels = einsum(
        true, _owned(made), "batch h w true, batch slots h w -> batch true slots"
    )
    exists = jnp.sum(pixels, axis=2) > 0
    main = jnp.argmax(pixels, axis=2)
    same = (main[:, :, None] == main[:, None, :]) & exists[:, None, :]
    # Each object is the same as itself.
    merged = exists & (jnp.sum(same, axis=2) > 1)
    objects = jnp.sum(exists[:, 1:], dtype=masks.dtype)
    return jnp.sum(merged[:, 1:], dtype=masks.dtype) / objects


def crowded_images(made: Reconstruction) -> Float[Array, ""]:
    """The share of the images in which every slot is in use, so that none is to spare.

    A slot is in use if a hundredth of the pixels or more belong to it.

    **Arguments:**

    - `made`: What the model made of a batch of images.

    **Returns:**

    A number from 0 to 1.
    """
    owned = reduce(_owned(made), "batch slots h w -> batch slots", "mean")
    return jnp.mean(jnp.all(owned >= _IN_USE, axis=1), dtype=owned.dtype)


def attention_agreement(made: Reconstruction) -> Float[Array, ""]:
    """Whether slots paint where they look: the correlation of attention and masks.

    Both as they differ from their mean over the places of an image; over all slots and
    images together.

    **Arguments:**

    - `made`: What the model made of a batch of images, with `attention` over a grid of
        places, row by row, as [`eqx_slots.models.Encoder`][] lists them.

    **Returns:**

    A number from -1 to 1; 0 where either is the same everywhere. Places that are no
    grid over the image are a `ValueError`.
    """
    masks = _masks(made)
    _, _, height, width = masks.shape
    stride = grid_stride(height, width, made.attention.shape[2])
    looked = repeat(
        made.attention.astype(masks.dtype),
        "batch slots (h w) -> batch slots (h a) (w b)",
        h=-(-height // stride),
        a=stride,
        b=stride,
    )[..., :height, :width]
    looked, painted = (
        x - jnp.broadcast_to(jnp.mean(x, axis=(2, 3), keepdims=True), x.shape)
        for x in (looked, masks)
    )
    scale = jnp.sqrt(jnp.sum(jnp.square(looked)) * jnp.sum(jnp.square(painted)))
    common = jnp.sum(looked * painted)
    return jnp.where(scale > 0, common / jnp.where(scale > 0, scale, 1), 0)


_MAPPED = (
    " The diagnostics look at a batch of images and at the mapped model's answer, for"
    " example `jax.vmap(model)(images)`."
)
_TOO_FEW = "A diagnosis compares images: give at least 2 (better 32 or more), got {}."


def _checked(images: Array, made: Reconstruction) -> tuple[Array, Reconstruction]:
    """Both in float32 or wider, if they fit each other."""
    if images.ndim != 4 or images.shape != made.image.shape:
        raise ValueError(
            "`images` and `made.image` must both have the shape (batch, channels,"
            f" height, width), got {images.shape} and {made.image.shape}." + _MAPPED
        )
    if images.shape[0] < 2:
        raise ValueError(_TOO_FEW.format(images.shape[0]))
    with jax.numpy_dtype_promotion("standard"):  # widening on purpose
        wide = accumulator_dtype(jnp.result_type(images, made.image))
    wider = made._replace(
        image=made.image.astype(wide),
        rgb=made.rgb.astype(wide),
        masks=made.masks.astype(wide),
    )
    return images.astype(wide), wider


def _masks(made: Reconstruction) -> Float[Array, "batch slots height width"]:
    if made.masks.ndim != 4:
        raise ValueError(
            "`made.masks` must have the shape (batch, slots, height, width), got"
            f" {made.masks.shape}." + _MAPPED
        )
    return made.masks.astype(accumulator_dtype(made.masks.dtype))


def _owned(made: Reconstruction) -> Float[Array, "batch slots height width"]:
    """1 where a pixel belongs to the slot, else 0."""
    masks = _masks(made)
    return jax.nn.one_hot(
        jnp.argmax(masks, axis=1), masks.shape[1], axis=1, dtype=masks.dtype
    )


def _mean_image(images: Array) -> Array:
    mean = jnp.mean(images, axis=0, keepdims=True)
    return jnp.broadcast_to(mean, images.shape)


def _check_segmentation(segmentation: Array, images: Array) -> None:
    batch, _, height, width = images.shape
    axes = "batch height width"
    check_shape("segmentation", segmentation, axes, (batch, height, width))
    if not jnp.issubdtype(segmentation.dtype, jnp.integer):
        raise ValueError(
            f"`segmentation` must hold integer labels, got {segmentation.dtype}."
        )


def _plain_background(
    images: Float[Array, "batch channels height width"],
) -> Bool[Array, "batch height width"]:
    """Where the colour is the median, in images of which that is half at least."""
    colour = jnp.median(images, axis=(2, 3), keepdims=True)
    off = jnp.mean(jnp.square(images - jnp.broadcast_to(colour, images.shape)), axis=1)
    near = jnp.sqrt(off) <= 0.1 * (jnp.max(images) - jnp.min(images))
    return near & (jnp.mean(near, axis=(1, 2), keepdims=True) >= 0.5)
