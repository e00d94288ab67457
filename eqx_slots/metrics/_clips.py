"""Clips: one assignment for all frames, and who keeps hold of whom."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float, Int

from .._misc import as_array, check_shape
from ._counts import count_labels


class Clip(NamedTuple):
    """A clip as one large picture, for every metric of pictures.

    `true` are the true labels and `labels` the slots with the largest masks,
    `frames height width`; `masks` are as they were, `slots frames height width`.
    """

    true: Int[Array, "frames height width"]
    masks: Float[Array, "slots frames height width"]
    labels: Int[Array, "frames height width"]


def whole_clip(
    true: Int[Array, "frames height width"],
    masks: Float[Array, "frames slots height width"],
    *,
    first_frame: bool,
) -> Clip:
    """What to score where a clip is scored as a whole.

    To the metrics a clip is a picture with more pixels: a slot that changes its object
    between two frames has two objects, and an assignment is one for all frames. That is
    the field's ARI of videos; scores of single frames, averaged, do not see a change.

    **Arguments:**

    - `true`: The true labels, such as `segmentation` of a [`eqx_slots.data.Video`][].
    - `masks`: The share of each slot in each pixel, frames in front.
    - `first_frame`: Whether the first frame counts. In SAVi's code it does; in the
        papers it does not, as slots begin at hints of that frame: there is no default.
        (Keyword only argument.)

    **Returns:**

    [`eqx_slots.metrics.Clip`][]. Other shapes, or nothing left to score, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([[[1, 2]], [[1, 2]], [[1, 2]]])  # three frames of two pixels
    swapped = jnp.array([[[1, 0]], [[1, 0]], [[0, 1]]])
    masks = jnp.stack([swapped, 1 - swapped], axis=1).astype(float)
    clip = metrics.whole_clip(true, masks, first_frame=True)
    score = metrics.mean_iou(clip.true, clip.labels, num_true=3, num_predicted=2)
    soft = metrics.soft_mean_iou(clip.true, clip.masks, num_true=3)
    print(f"{score.value:.2f} {soft.value:.2f}")  # 0.50 0.50
    ```
    """
    true, masks = as_array("true", true), as_array("masks", masks)
    call = "jax.vmap(partial(whole_clip, first_frame=...))(true, masks)"
    check_shape("true", true, "frames height width", (-1, -1, -1), batch=call)
    frames, height, width = true.shape
    axes = "frames slots height width"
    check_shape("masks", masks, axes, (frames, -1, height, width), batch=call)
    if not first_frame:
        true, masks = true[1:], masks[1:]
    if not len(true):
        raise ValueError(
            f"Nothing is left to score: `true` has {frames} frames, and `first_frame`"
            f" is {first_frame}."
        )
    masks = rearrange(masks, "frames slots h w -> slots frames h w")
    return Clip(true, masks, jnp.argmax(masks, axis=0))


class Identities(NamedTuple):
    """How well slots keep hold of objects over a clip; every field is a count.

    A slot holds an object in a frame where their IoU is above `min_iou`.

    **Fields:**

    - `seen`: Frames in which an object is seen, summed over objects.
    - `held`: In how many of them a slot holds it.
    - `switches`: How often that is another slot than the last that held it.
    - `lost`: How often a held object is held by none in the next frame that shows it.
    - `found`: How often a lost one is held again.
    - `hidden`: How often a held object is not to be seen, and then is again.
    - `kept`: How often the slot that holds it next, before it is hidden anew, is the
        one that held it before.
    - `valid`: Whether all labels are in range.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]])  # hidden once
    slots = jnp.array([[4, 4, 0], [0, 0, 0], [4, 4, 0], [3, 3, 0]])
    counts = metrics.identities(true, slots, num_true=2, num_predicted=5)
    print(counts.seen, counts.held, counts.switches)  # 3 3 1
    print(counts.hidden, counts.kept)  # 1 1
    ```
    """

    seen: Int[Array, ""]
    held: Int[Array, ""]
    switches: Int[Array, ""]
    lost: Int[Array, ""]
    found: Int[Array, ""]
    hidden: Int[Array, ""]
    kept: Int[Array, ""]
    valid: Bool[Array, ""]


class _Track(NamedTuple):
    """What is known of each object from the frames before."""

    slot: Int[Array, " objects"]  # that held it last, -1 for none
    was_held: Bool[Array, " objects"]  # when it was last seen
    was_lost: Bool[Array, " objects"]  # and not yet found
    is_away: Bool[Array, " objects"]  # not to be seen, and held before that
    returned: Bool[Array, " objects"]  # seen again, and not yet held


def identities(
    true: Int[Array, "frames *pixels"],
    predicted: Int[Array, "frames *pixels"],
    *,
    num_true: int,
    num_predicted: int,
    min_iou: float = 0.5,
) -> Identities:
    """Count how often slots let go of objects, over the frames of a clip.

    `switches`, `seen - held` and `found` are the switches, misses and fragmentations of
    CLEAR MOT (Bernardin and Stiefelhagen 2008), where a slot may hold an object if
    their IoU is above `min_iou`. From one half on that is true of one pair at most: no
    assignment is needed. False alarms are not counted, since some slot has the
    background.

    **Arguments:**

    - `true`: The true labels of each frame, in `[0, num_true)`; 0, the background, is
        no object.
    - `predicted`: The predicted labels, in `[0, num_predicted)`, such as the slots with
        the largest masks.
    - `num_true`, `num_predicted`: How many labels there can be; Python integers.
        (Keyword only arguments, as all that follow.)
    - `min_iou`: In [0.5, 1).

    **Returns:**

    [`eqx_slots.metrics.Identities`][]. Sum the counts of many clips before dividing:
    `jnp.sum(counts.kept) / jnp.sum(counts.hidden)`. A `ValueError` says so if shapes
    differ or `min_iou` is out of range.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([[1, 1, 2, 2]] * 4)
    slots = jnp.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0]])
    counts = metrics.identities(true, slots, num_true=3, num_predicted=2)
    print(counts.switches, counts.lost, counts.found)  # 2 1 1
    ```
    """
    if not 0.5 <= min_iou < 1:
        raise ValueError(
            f"`min_iou` must lie in [0.5, 1), got {min_iou}: below one half two slots"
            " can hold an object at once."
        )
    true, predicted = as_array("true", true), as_array("predicted", predicted)
    if true.ndim < 2 or true.shape != predicted.shape:
        raise ValueError(
            "`true` and `predicted` must label the same pixels, frames in front, got"
            f" shapes {true.shape} and {predicted.shape}."
        )
    count = lambda t, p: count_labels(t, p, num_true, num_predicted)
    pixels, _, valid = jax.vmap(count)(true, predicted)
    sizes = reduce(pixels, "frames true predicted -> frames true 1", "sum")
    slot_sizes = reduce(pixels, "frames true predicted -> frames 1 predicted", "sum")
    # IoU above the threshold, without a division by nothing.
    holds = (pixels > min_iou * (sizes + slot_sizes - pixels))[:, 1:]
    is_seen = sizes[:, 1:, 0] > 0
    holder = jnp.where(jnp.any(holds, axis=2), jnp.argmax(holds, axis=2), -1)

    nobody = jnp.zeros(num_true - 1, bool)
    start = _Track(jnp.full(num_true - 1, -1), *[nobody] * 4)
    _, events = jax.lax.scan(_follow, start, (is_seen, holder))
    counts = (jnp.sum(x, dtype=jnp.int32) for x in (is_seen, holder >= 0, *events))
    seen, held, switches, lost, found, hidden, kept = counts
    valid = jnp.all(valid)
    return Identities(seen, held, switches, lost, found, hidden, kept, valid)


def _follow(
    track: _Track, frame: tuple[Bool[Array, " objects"], Int[Array, " objects"]]
) -> tuple[_Track, tuple[Bool[Array, " objects"], ...]]:
    """Whether each object is switched, lost, found, back from where it was hidden, and
    then in its slot."""
    is_seen, holder = frame
    is_held = holder >= 0
    known = track.slot >= 0
    switched = is_held & known & (holder != track.slot)
    lost = is_seen & ~is_held & track.was_held
    found = is_held & track.was_lost
    back = is_seen & track.is_away
    returned = back | (track.returned & is_seen)
    kept = is_held & returned & (holder == track.slot)
    after = _Track(
        slot=jnp.where(is_held, holder, track.slot),
        was_held=jnp.where(is_seen, is_held, track.was_held),
        was_lost=jnp.where(is_seen, ~is_held & (lost | track.was_lost), track.was_lost),
        is_away=~is_seen & (track.is_away | track.was_held),
        returned=returned & ~is_held,
    )
    return after, (switched, lost, found, back, kept)
