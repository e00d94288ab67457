import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float

from .._misc import accumulator_dtype, as_array, check_floating, check_mask


def mean_squared_error(
    predicted: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """The autoencoder's loss: squared error, averaged over channels and pixels.

    **Arguments:**

    - `predicted`: The reconstructed image.
    - `target`: The image, of the same shape; another shape, or integers, are a
        `ValueError`.

    **Returns:**

    A non-negative number.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    image = jnp.zeros((3, 32, 32))
    print(losses.mean_squared_error(image + 0.5, image))  # 0.25
    ```
    """
    predicted, target = as_array("predicted", predicted), as_array("target", target)
    check_floating("predicted", predicted)
    check_floating("target", target)
    if predicted.shape != target.shape:
        raise ValueError(
            "`predicted` and `target` must have the same shape, got"
            f" {predicted.shape} and {target.shape}; a decoder paints images of one"
            " size, `model.decoder.image_size`, so bring the targets to that."
        )
    return jnp.mean(jnp.square(predicted - target))


def rgb_variance(
    rgb: Float[Array, " slots channels *pixels"],
    *,
    slot_mask: Bool[Array, " slots"] | None = None,
) -> Float[Array, ""]:
    r"""How much what a slot paints changes from place to place, its mask left aside.

    $$\sum_k \frac{1}{C P} \sum_{c, p} \Bigl(r_{kcp} - \frac{1}{P}
    \sum_q r_{kcq}\Bigr)^2$$

    A decoder that can paint any shape has two ways to do it: by the mask, or by an RGB
    that turns to the background's colour beside the object. The second costs nothing,
    and such a slot goes on to paint background of its own all around. With this term
    the shape is the mask's: outside of its mask a slot's RGB is free, so it may as well
    have one colour everywhere, but object and background together have two. It is for
    objects of one colour each; shading costs as well. The term is this library's own.

    The squares are those of the colours, so divide by the variance of the pictures to
    carry a weight from one dataset to another.

    **Arguments:**

    - `rgb`: What each slot paints, before its mask, such as `made.rgb` of a
        [`eqx_slots.models.Reconstruction`][].
    - `slot_mask`: Slots that take part; `None` means all. (Keyword only argument.)

    **Returns:**

    The variance of RGB over the pixels, averaged over channels, summed over slots: 0 if
    each slot has one colour. Integers, RGB without an axis of pixels, or a mask of
    another shape are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    one_colour = jnp.ones((7, 3, 32, 32))
    print(losses.rgb_variance(one_colour))  # 0.0
    half_black = one_colour.at[0, :, :16].set(0)
    print(losses.rgb_variance(half_black))  # 0.25
    ```
    """
    rgb = as_array("rgb", rgb)
    check_floating("rgb", rgb)
    if rgb.ndim < 3:
        axes = "an axis of slots, one of channels, and then one of pixels or more"
        raise ValueError(f"`rgb` must have {axes}, got shape {rgb.shape}.")
    pixels = rearrange(rgb, "slots channels ... -> slots channels (...)")
    pixels = pixels.astype(accumulator_dtype(rgb.dtype))
    if slot_mask is not None:
        slot_mask = as_array("slot_mask", slot_mask)
        check_mask("slot_mask", slot_mask, "slots", rgb.shape[:1])
        pixels = jnp.where(slot_mask[:, None, None], pixels, 0)
    variance = reduce(jnp.var(pixels, axis=-1), "slots channels -> slots", "mean")
    return jnp.sum(variance)
