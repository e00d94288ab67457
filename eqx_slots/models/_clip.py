"""What a user gives of a clip, checked: its frames, and who takes part in which."""

import jax.numpy as jnp
from einops import rearrange
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._misc import as_array, check_floating, check_mask, check_shape


def checked_video(video: Array, channels: int) -> Array:
    """`channels` of what the encoder takes, -1 if it does not say."""
    video = as_array("video", video)
    check_floating("video", video)
    cure = ""
    if video.ndim == 4:
        cure = "A model for other channels has `Encoder(in_channels=...)`."
        if video.shape[3] == channels:
            cure = "Did you mean `jnp.moveaxis(video, -1, 1)`?"
    check_shape(
        "video",
        video,
        "frames channels height width",
        (-1, channels, -1, -1),
        batch="jax.vmap(model)({name})",
        cure=cure,
    )
    if len(video) == 0:
        raise ValueError("`video` has no frame; give one at least.")
    return video


def without_masked(video: Array, frame_mask: Array | None) -> Array:
    """Chosen before any arithmetic: zero times NaN would still be NaN."""
    if frame_mask is None:
        return video
    seen = rearrange(frame_mask, "frames -> frames 1 1 1")
    return jnp.where(jnp.broadcast_to(seen, video.shape), video, 0)


def checked_frame_mask(frame_mask: Array | None, num_frames: int) -> Array | None:
    if frame_mask is None:
        return None
    frame_mask = as_array("frame_mask", frame_mask)
    check_mask("frame_mask", frame_mask, "frames", (num_frames,))
    if not isinstance(frame_mask, Tracer) and not frame_mask[0]:
        raise ValueError(
            "`frame_mask` hides the first frame, which is where slots begin; cut the"
            " video where its first frame is, `video[frame_mask.argmax():]`."
        )
    return frame_mask


def checked_slot_mask(
    slot_mask: Array | None, num_frames: int
) -> Bool[Array, "frames slots"] | None:
    """A row for each frame, whether or not there was one."""
    if slot_mask is None:
        return None
    slot_mask = as_array("slot_mask", slot_mask)
    if slot_mask.ndim == 2:
        check_mask("slot_mask", slot_mask, "frames slots", (num_frames, -1))
        return slot_mask
    check_mask("slot_mask", slot_mask, "slots", (-1,))
    return jnp.broadcast_to(slot_mask[None], (num_frames, len(slot_mask)))


def active_slots(
    slot_mask: Array | None, frame_mask: Array | None, num_slots: int
) -> Bool[Array, "frames slots"] | None:
    """Which slot takes part in which frame; `None` if all do in all."""
    if slot_mask is not None and slot_mask.shape[1] != num_slots:
        raise ValueError(
            f"`slot_mask` is for {slot_mask.shape[1]} slots, but there are {num_slots};"
            " where hints leave a slot to the background, that counts too."
        )
    if frame_mask is None:
        return slot_mask
    shown = jnp.broadcast_to(frame_mask[:, None], (len(frame_mask), num_slots))
    return shown if slot_mask is None else shown & slot_mask
