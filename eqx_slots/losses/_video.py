import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce
from jaxtyping import Array, Bool, Float

from .._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_mask,
    check_shape,
)


def frames_squared_error(
    predicted: Float[Array, "frames *shape"],
    target: Float[Array, "frames *shape"],
    *,
    frame_mask: Bool[Array, " frames"] | None = None,
) -> Float[Array, ""]:
    """Squared error of pictures or of flow, averaged over the frames that are there.

    For the frames that a [`eqx_slots.models.SlotVideo`][] paints, and as well for what
    it predicted of frames that came: `model.paint(made.predicted[:-1]).images` against
    `video[1:]`. (SAVi's code sums over a clip instead of averaging: times the number of
    elements it is that.)

    **Arguments:**

    - `predicted`: What was painted, frame by frame.
    - `target`: What should have been, of the same shape.
    - `frame_mask`: Which frames count; `None` means all. What the others hold, NaN
        included, reaches nothing. (Keyword only argument.)

    **Returns:**

    A non-negative number, 0 where no frame counts. Another shape, or integers, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    video = jnp.zeros((6, 3, 32, 32))
    painted = video.at[0].set(0.5)
    print(losses.frames_squared_error(painted, video))  # 0.041666668
    later = jnp.arange(6) > 0
    print(losses.frames_squared_error(painted, video, frame_mask=later))  # 0.0
    ```
    """
    predicted, target = as_array("predicted", predicted), as_array("target", target)
    check_floating("predicted", predicted)
    check_floating("target", target)
    if predicted.shape != target.shape or predicted.ndim < 2:
        raise ValueError(
            "`predicted` and `target` must have the same shape, frames first, got"
            f" {predicted.shape} and {target.shape}."
        )
    if frame_mask is None:
        frame_mask = jnp.ones(len(predicted), bool)
    frame_mask = as_array("frame_mask", frame_mask)
    check_mask("frame_mask", frame_mask, "frames", predicted.shape[:1])
    wide = accumulator_dtype(predicted.dtype)
    rows = (rearrange(x.astype(wide), "t ... -> t (...)") for x in (predicted, target))
    counts = jnp.broadcast_to(frame_mask[:, None], (len(predicted), 1))
    apart = [jnp.where(jnp.broadcast_to(counts, x.shape), x, 0) for x in rows]
    errors = reduce(
        jnp.square(apart[0] - apart[1]), "frames elements -> frames", "mean"
    )
    return jnp.sum(errors) / jnp.maximum(jnp.sum(frame_mask, dtype=wide), 1)


def slot_contrast(
    slots: Float[Array, "batch frames slots slot_size"],
    *,
    temperature: float = 0.1,
    slot_mask: Bool[Array, "batch frames slots"] | None = None,
) -> Float[Array, ""]:
    r"""Each slot is to be more like itself in the next frame than like any other slot.

    $$-\frac{1}{N} \sum_{b, t, k} \log \frac{\exp(s_{bt}^k \cdot s_{b,t+1}^k / \tau)}
    {\sum_{c, j} \exp(s_{bt}^k \cdot s_{c,t+1}^j / \tau)}$$

    of slots of length 1: the contrast of SlotContrast (Manasyan et al. 2025), which has
    it with a weight of 0.5. (Its released code has the slots of frame $t$ below the
    line: `slots[:, ::-1]` gives that.) The others are the slots of *all* videos of a
    batch, or slots that differ between videos alone would do. So this is the one loss
    here that takes a whole batch and not an example: call it outside of `jax.vmap`.

    **Arguments:**

    - `slots`: The slots of a batch of videos, such as `made.slots`.
    - `temperature`: The smaller, the more the most alike of the others matters. Not
        positive is a `ValueError`. (Keyword only argument.)
    - `slot_mask`: Which slots are there in which frame; `None` means all. One counts
        where it is there in both frames, and as another where it is in the later.
        (Keyword only argument.)

    **Returns:**

    A non-negative number: the logarithm of the number of all slots of a frame where all
    are alike, and 0 where nothing counts. Videos of one frame are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    alike = jnp.ones((8, 6, 7, 64))
    print(f"{losses.slot_contrast(alike):.2f} {jnp.log(8 * 7):.2f}")  # 4.03 4.03
    ```
    """
    slots = as_array("slots", slots)
    axes = "batch frames slots slot_size"
    check_shape("slots", slots, axes, (-1, -1, -1, -1), batch=_WHOLE)
    check_floating("slots", slots)
    if slots.shape[1] < 2:
        raise ValueError(
            "`slots` must be of two frames at least, which are compared, got one."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if slot_mask is None:
        slot_mask = jnp.ones(slots.shape[:3], bool)
    slot_mask = as_array("slot_mask", slot_mask)
    check_mask("slot_mask", slot_mask, "batch frames slots", slots.shape[:3])
    wide = accumulator_dtype(slots.dtype)
    exists = rearrange(slot_mask, "b t k -> t (b k)")
    every = rearrange(slots.astype(wide), "b t k d -> t (b k) d")
    every = jnp.where(jnp.broadcast_to(exists[..., None], every.shape), every, 0)
    # A slot of zeros has no direction, and a plain norm of it no gradient.
    squares = jnp.sum(jnp.square(every), axis=-1, keepdims=True)
    size = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    unit = every / jnp.broadcast_to(size, every.shape)
    logits = einsum(unit[:-1], unit[1:], "t i d, t j d -> t i j") / temperature
    there = jnp.broadcast_to(exists[1:, None], logits.shape)
    logits = jnp.where(there, logits, jnp.finfo(wide).min / 2)
    log_share = jax.nn.log_softmax(logits, axis=-1)
    itself = jnp.diagonal(log_share, axis1=1, axis2=2)
    counts = exists[:-1] & exists[1:]
    total = -jnp.sum(jnp.where(counts, itself, 0))
    return total / jnp.maximum(jnp.sum(counts, dtype=wide), 1)


_WHOLE = "losses.slot_contrast({name}[0])"
