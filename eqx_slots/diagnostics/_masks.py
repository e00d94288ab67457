import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Array, Float

from .._misc import grid_stride
from ..models import Reconstruction
from ._batch import checked_masks, IN_USE, TOO_FEW


def effective_slots(made: Reconstruction) -> Float[Array, ""]:
    r"""How many slots an image is made of, if all had equally many pixels.

    $\exp(-\sum_k p_k \log p_k)$ with $p_k$ the share of the image that slot $k$ paints,
    averaged over images.

    **Arguments:**

    - `made`: What the model made of a batch of images.

    **Returns:**

    A number from 1 (one slot paints everything) to the number of slots.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    print(diagnostics.effective_slots(made).round(3))  # 2.0
    ```
    """
    size = reduce(checked_masks(made), "batch slots h w -> batch slots", "sum")
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

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    print(diagnostics.position_dependence(made).round(3))  # 1.0
    ```
    """
    masks = checked_masks(made)
    batch, _, height, width = masks.shape
    if batch < 2:
        raise ValueError(TOO_FEW.format(batch))
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

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16)).at[:, 0].set(1)  # slot 0: the background
    masks = masks.at[:, :3, :4, :4].set(jnp.array([0, 0.7, 0.3])[:, None, None])
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, jnp.zeros((8, 4, 256)))
    print(diagnostics.duplicate_slots(made))  # 1.0
    ```
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in [0, 1], got {threshold}.")
    masks = rearrange(checked_masks(made), "batch slots h w -> batch slots (h w)")
    share = jnp.mean(masks, axis=2)
    in_use = share >= IN_USE
    size = jnp.sqrt(jnp.sum(jnp.square(masks), axis=2, keepdims=True))
    unit = masks / jnp.where(size > 0, size, 1)
    cosine = einsum(unit, unit, "batch i p, batch j p -> batch i j")
    same = (cosine > threshold) | jnp.eye(cosine.shape[1], dtype=bool)[None]
    same = same & in_use[:, :, None] & in_use[:, None, :]
    # A group of n slots counts n - 1 times: 1 - 1/n for each of its members.
    members = jnp.sum(same, axis=2).astype(masks.dtype)
    spare = jnp.where(in_use, 1 - 1 / jnp.maximum(members, 1), 0)
    return jnp.mean(jnp.sum(spare, axis=1))


def attention_agreement(made: Reconstruction) -> Float[Array, ""]:
    """Whether slots paint where they look: the correlation of attention and masks.

    Both as they differ from their mean over the places of an image, in windows of two
    places of the grid, since a place sees something of what lies beside it and slots
    look wider than they paint; over all slots and images together.

    **Arguments:**

    - `made`: What the model made of a batch of images, with `attention` over a grid of
        places, row by row, as [`eqx_slots.models.Encoder`][] lists them.

    **Returns:**

    A number from -1 to 1; 0 where either is the same everywhere. Places that are no
    grid over the image are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import diagnostics
    from eqx_slots.models import Reconstruction

    masks = jnp.zeros((8, 4, 16, 16))  # two of four slots have a half each
    masks = masks.at[:, 0, :, :8].set(1).at[:, 1, :, 8:].set(1)
    rgb, slots = jnp.zeros((8, 4, 3, 16, 16)), jnp.zeros((8, 4, 64))
    made = Reconstruction(rgb[:, 0], rgb, masks, slots, masks.reshape(8, 4, 256))
    print(diagnostics.attention_agreement(made).round(3))  # 1.0
    ```
    """
    masks = checked_masks(made)
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
        _summed(x - jnp.mean(x, axis=(2, 3), keepdims=True), 2 * stride)
        for x in (looked, masks)
    )
    scale = jnp.sqrt(jnp.sum(jnp.square(looked)) * jnp.sum(jnp.square(painted)))
    common = jnp.sum(looked * painted)
    return jnp.where(scale > 0, common / jnp.where(scale > 0, scale, 1), 0)


def _summed(
    maps: Float[Array, "batch slots height width"], side: int
) -> Float[Array, "batch slots height width"]:
    """The sums over windows around each pixel; beyond the image is nothing."""
    window = (1, 1, side, side)
    nothing = jnp.zeros((), maps.dtype)
    return jax.lax.reduce_window(maps, nothing, jax.lax.add, window, (1,) * 4, "SAME")
