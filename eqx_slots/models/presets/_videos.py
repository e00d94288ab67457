from typing import Literal

import equinox as eqx
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import GivenSlots, SlotPredictor
from .._hints import BoxHints
from .._video import SlotVideo
from ._blocks import blocks


def block_videos(
    *,
    num_slots: int = 7,
    image_size: int | tuple[int, int] = 32,
    channels: int = 3,
    hints: Literal["none", "boxes"] = "none",
    key: PRNGKeyArray,
) -> SlotVideo:
    """For videos of a few moving blocks at 32 x 32, those of `blocks` carried along.

    The parts of [`eqx_slots.models.presets.blocks`][], whose `image_size` and
    `channels` these are; three rounds in the first frame and one in each that follows;
    between frames a transformer block. Slots begin at learned places, or with
    `hints="boxes"` at the boxes of the first frame: those of absent objects are then
    best masked by `slot_mask`. Other `hints` are a `ValueError`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.block_videos)(key=jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((6, 3, 32, 32)))  # needs no key
    print(made.images.shape, made.masks.shape)  # (6, 3, 32, 32) (6, 7, 32, 32)
    ```
    """
    check_key(key)
    if hints not in ("none", "boxes"):
        raise ValueError(f'`hints` must be "none" or "boxes", got {hints!r}.')
    parts_key, predictor_key, start_key = jr.split(key, 3)
    parts = blocks(
        num_slots=num_slots, image_size=image_size, channels=channels, key=parts_key
    )
    corrector, start = parts.slot_attention, None
    if hints == "boxes":
        corrector = eqx.tree_at(lambda c: c.slot_init, corrector, GivenSlots())
        start = BoxHints(64, hidden_size=64, num_slots=num_slots, key=start_key)
    return SlotVideo(
        parts.encoder,
        corrector,
        SlotPredictor(64, mlp_size=128, key=predictor_key),
        parts.decoder,
        start,
        num_iters=1,
        first_iters=3,
        standardization=parts.standardization,
    )
