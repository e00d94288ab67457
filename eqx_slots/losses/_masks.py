import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Float

from .._misc import accumulator_dtype, as_array, check_floating


def mask_sparsity(
    masks: Float[Array, " slots *pixels"], *, epsilon: float = 1e-4
) -> Float[Array, ""]:
    r"""How far an image is shared out among slots: the sparsity of the masks' areas.

    $$\sum_k \frac{\sqrt{a_k + \epsilon} - \sqrt{\epsilon}}
    {\sqrt{1 + \epsilon} - \sqrt{\epsilon}}, \qquad
    a_k = \text{mean of mask } k \text{ over the pixels}$$

    To the error of the picture it is all the same if one slot paints a plain background
    or four paint a quarter each, so which of them a run ends with is luck. Added to the
    error with a small weight this term decides: the root is steep where an area is
    small, so that the largest of several slots that could paint a pixel wins it, and
    slots that nobody needs paint nothing. It is the $\ell_{1/2}$ penalty of sparse
    regression (Xu et al. 2012) on areas, the Tsallis entropy of order 1/2 of the shares
    up to a constant (Tsallis 1988). $\epsilon$ bounds its slope where an area is 0.

    Too large a weight makes the largest slot paint small objects as well. Give the
    model time to find objects first, and the term its weight while the learning rate is
    high: two slots that have learned to be background, each in some images, do not
    unlearn it late.

    **Arguments:**

    - `masks`: The share of each slot in each pixel, such as `made.masks` of a
        [`eqx_slots.models.Reconstruction`][]. A slot that is masked or not kept paints
        nothing, and costs nothing.
    - `epsilon`: The area, as a share of the image, below which a slot hardly counts.
        (Keyword only argument.)

    **Returns:**

    A number from 1 (one slot paints everything) to at most the root of the number of
    slots (all paint alike), with finite gradients everywhere. Integers, masks without
    an axis of pixels, or an `epsilon` that is not positive are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    whole = jnp.zeros((7, 32, 32)).at[0].set(1)
    print(losses.mask_sparsity(whole).round(2))  # 1.0
    shared = whole.at[:4].set(0.25)
    print(f"{losses.mask_sparsity(shared):.2f}")  # 1.98
    ```
    """
    if not epsilon > 0:
        raise ValueError(f"`epsilon` must be positive, got {epsilon}.")
    area = reduce(_by_pixel(masks), "slots pixels -> slots", "mean")
    most = (1 + epsilon) ** 0.5 - epsilon**0.5
    return jnp.sum((jnp.sqrt(area + epsilon) - epsilon**0.5) / most)


def mask_impurity(masks: Float[Array, " slots *pixels"]) -> Float[Array, ""]:
    r"""How undecided pixels are between slots: the mean Gini impurity of their masks.

    $$1 - \frac{1}{P} \sum_p \sum_k m_{kp}^2$$

    The chance that two draws of a pixel's owner from its masks disagree (Breiman et al.
    1984). Where two slots paint a pixel about alike it falls in proportion to how far
    they differ already, where the root of [`eqx_slots.losses.mask_sparsity`][] is
    nearly flat; that one in turn sees slots that paint different places, which are
    nothing to this one. Together, with small weights, they keep a background in one
    slot throughout training.

    **Arguments:**

    - `masks`: The share of each slot in each pixel, such as `made.masks` of a
        [`eqx_slots.models.Reconstruction`][]. They sum to 1 over the slots; a slot that
        is masked or not kept paints nothing, and counts nothing.

    **Returns:**

    A number from 0 (each pixel is one slot's) to 1 less one over the number of slots
    (all are shared alike). Integers, or masks without an axis of pixels, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    whole = jnp.zeros((7, 32, 32)).at[0].set(1)
    print(losses.mask_impurity(whole))  # 0.0
    shared = whole.at[:4].set(0.25)
    print(losses.mask_impurity(shared))  # 0.75
    ```
    """
    squares = _by_pixel(masks) ** 2
    return 1 - jnp.mean(reduce(squares, "slots pixels -> pixels", "sum"))


def _by_pixel(masks: Array) -> Array:
    masks = as_array("masks", masks)
    check_floating("masks", masks)
    if masks.ndim < 2:
        raise ValueError(
            "`masks` must have an axis of slots and then one of pixels or more, got"
            f" shape {masks.shape}."
        )
    pixels = rearrange(masks, "slots ... -> slots (...)")
    return pixels.astype(accumulator_dtype(masks.dtype))
