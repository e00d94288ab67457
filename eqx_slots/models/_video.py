from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._misc import (
    as_array,
    check_early_gradient,
    check_floating,
    check_key,
    check_positive,
    check_shape,
    given_slots,
    partial_gradient,
)
from ..nn import SlotAttention
from ._clip import (
    active_slots,
    checked_frame_mask,
    checked_slot_mask,
    checked_video,
    without_masked,
)
from ._decoder import composite
from ._standardization import Standardization
from ._video_reconstruction import Painted, VideoReconstruction


_BATCH = "jax.vmap(lambda video, slots: model(video, slots=slots))(video, slots)"


class _Followed(NamedTuple):
    """The part of it that the loop over frames makes."""

    slots: Array
    attention: Array
    predicted: Array


class SlotVideo(eqx.Module):
    """Follows objects through a video without labels: slots are carried along.

    In each frame the corrector, a round of slot attention, moves the slots to what the
    encoder sees there; the decoder paints them; the predictor moves them on to the next
    frame (SAVi, Kipf et al. 2022). So slot `k` is the same object all along. Encoder
    and decoder are mapped over all frames, outside of the loop, but for
    `use_checkpoint`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn
    from eqx_slots.models import presets, SlotVideo

    @eqx.filter_jit
    def make(key):
        parts_key, predictor_key = jr.split(key)
        parts = presets.blocks(key=parts_key)
        predictor = nn.SlotPredictor(64, key=predictor_key)
        modules = (parts.encoder, parts.slot_attention, predictor, parts.decoder)
        return SlotVideo(*modules, num_iters=1, first_iters=3)

    model = make(jr.key(0))
    made = eqx.filter_jit(model)(jnp.zeros((6, 3, 32, 32)))
    print(made.images.shape, made.masks.shape)  # (6, 3, 32, 32) (6, 7, 32, 32)
    ahead = eqx.filter_jit(model.ahead)(made.predicted[-1], 2)  # frames to come
    print(ahead.images.shape)  # (2, 3, 32, 32)
    ```
    """

    encoder: Callable[[Array], Array]
    corrector: SlotAttention
    predictor: Callable[..., Array]
    decoder: Callable[[Array], tuple[Array, Array]]
    slot_start: Callable[..., Array] | None
    standardization: Standardization | None
    num_iters: int = eqx.field(static=True)
    first_iters: int = eqx.field(static=True)
    use_checkpoint: bool = eqx.field(static=True)

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        corrector: SlotAttention,
        predictor: Callable[..., Array],
        decoder: Callable[[Array], tuple[Array, Array]],
        slot_start: Callable[..., Array] | None = None,
        *,
        num_iters: int | None = None,
        first_iters: int | None = None,
        standardization: Standardization | None = None,
        use_checkpoint: bool = False,
    ):
        """**Arguments:**

        - `encoder`: One image to a set of features, as
            [`eqx_slots.models.Encoder`][].
        - `corrector`: The slot attention of each frame.
        - `predictor`: Slots to those of the next frame, as
            [`eqx_slots.nn.SlotPredictor`][], called as
            `predictor(slots, slot_mask=slot_mask)`.
        - `decoder`: One slot to its picture and mask logits, as
            [`eqx_slots.models.SpatialBroadcastDecoder`][].
        - `slot_start`: Hints to initial slots, as [`eqx_slots.models.BoxHints`][],
            called as `slot_start(hints, num_slots=num_slots, slot_mask=slot_mask)`;
            `None` means that they begin where those of the corrector do, without hints.
        - `num_iters`: Rounds in a frame; `None` means as the corrector makes them.
            (Keyword only argument, as all that follow.)
        - `first_iters`: Rounds in the first frame, where slots have yet to find their
            objects; `None` means as in the others.
        - `standardization`: As for [`eqx_slots.models.SlotAutoencoder`][].
        - `use_checkpoint`: Whether frames are encoded and painted one after the other,
            and a second time for the gradient, so that it keeps nothing of a frame but
            its slots: less memory for more time, much more on a CPU.
        """
        num_iters = corrector.num_iters if num_iters is None else num_iters
        first_iters = num_iters if first_iters is None else first_iters
        check_positive(num_iters=num_iters, first_iters=first_iters)
        self.encoder = encoder
        self.corrector = corrector
        self.predictor = predictor
        self.decoder = decoder
        self.slot_start = slot_start
        self.standardization = standardization
        self.num_iters = num_iters
        self.first_iters = first_iters
        self.use_checkpoint = use_checkpoint

    def __call__(
        self,
        video: Float[Array, "frames channels height width"],
        *,
        hints: Array | None = None,
        slots: Float[Array, "slots slot_size"] | None = None,
        num_slots: int | None = None,
        slot_mask: Bool[Array, " slots"] | Bool[Array, "frames slots"] | None = None,
        frame_mask: Bool[Array, " frames"] | None = None,
        early_gradient: float | Float[Array, ""] = 1.0,
        key: PRNGKeyArray | None = None,
    ) -> VideoReconstruction:
        """**Arguments:**

        - `video`: The frames of one video; `jax.vmap` maps a batch.
        - `hints`: Where the objects are in the first frame: what `slot_start` takes.
            (Keyword only argument, as all that follow.)
        - `slots`: Slots to go on with instead of such as begin, from
            `made.predicted[-1]` of the frames before: two halves are the whole. No
            further rounds are made in the first frame then.
        - `num_slots`: How many slots to begin with; `None` leaves it to the corrector,
            or to hints.
        - `slot_mask`: Which slots take part, in all frames or, with an axis of frames
            in front, in each. Where one does not it is carried on as it is, paints
            nothing, and has no gradient.
        - `frame_mask`: Which frames take part; `None` means all. A frame that does not
            might as well not be there, whatever it holds: no slot takes part in it.
        - `early_gradient`: How much of the gradient flows on to the frames before, from
            0 to 1; it may change from step to step without recompiling. With 0 a
            frame's error reaches its own rounds and the predictor before them, and no
            more: early in training slots part sooner so.
        - `key`: Randomness of the initial slots, and of a competition that draws.

        **Returns:**

        A [`eqx_slots.models.VideoReconstruction`][]. What cannot be is a `ValueError`:
        hints for a model without a `slot_start`, or none for one that has it; a first
        frame that is masked; arrays that do not fit; what the parts refuse.
        """
        video = checked_video(video, getattr(self.encoder, "in_channels", -1))
        frame_mask = checked_frame_mask(frame_mask, len(video))
        slot_mask = checked_slot_mask(slot_mask, len(video))
        check_early_gradient(early_gradient)
        start_key = None
        if key is not None:
            check_key(key)
            start_key, key = jr.split(key)
        # Slots that go on know where their objects are.
        first_iters = self.first_iters if slots is None else self.num_iters
        slots = self._start(hints, slots, num_slots, slot_mask, start_key)
        active = active_slots(slot_mask, frame_mask, len(slots))

        video = without_masked(video, frame_mask)
        followed = self._follow(slots, video, active, first_iters, early_gradient, key)
        return VideoReconstruction(*self._paint(followed.slots, active), *followed)

    def ahead(
        self,
        slots: Float[Array, "slots slot_size"],
        num_frames: int,
        *,
        slot_mask: Bool[Array, " slots"] | None = None,
    ) -> VideoReconstruction:
        """Frames that nobody has seen: the predictor alone moves the slots on.

        **Arguments:**

        - `slots`: Those to paint first, such as `made.predicted[-1]`.
        - `num_frames`: How many frames to paint.
        - `slot_mask`: Which slots take part; `None` means all. (Keyword only argument.)

        **Returns:**

        A [`eqx_slots.models.VideoReconstruction`][] of as many frames; its `attention`
        is over no places at all. Arrays that do not fit are a `ValueError`.
        """
        check_positive(num_frames=num_frames)
        call = f"jax.vmap(lambda slots: model.ahead(slots, {num_frames}))({{name}})"
        slots = given_slots(slots, self.corrector.slot_size, None, batch=call)
        slot_mask = checked_slot_mask(slot_mask, num_frames)
        active = active_slots(slot_mask, None, len(slots))

        def move(slots: Array, active: Array | None) -> tuple[Array, _Followed]:
            predicted = self._predict(slots, slots, active)
            nothing = jnp.zeros((len(slots), 0), slots.dtype)
            return predicted, _Followed(slots, nothing, predicted)

        _, followed = jax.lax.scan(move, slots, active, length=num_frames)
        return VideoReconstruction(*self._paint(followed.slots, active), *followed)

    def paint(
        self,
        slots: Float[Array, "frames slots slot_size"],
        *,
        slot_mask: Bool[Array, " slots"] | Bool[Array, "frames slots"] | None = None,
    ) -> Painted:
        """What slots look like, such as those predicted for frames that came.

        **Arguments:**

        - `slots`: The slots of each frame, such as `made.predicted[:-1]`, to compare
            what they paint with `video[1:]`.
        - `slot_mask`: As for a call. (Keyword only argument.)

        **Returns:**

        The [`eqx_slots.models.Painted`][] frames.
        """
        slots = as_array("slots", slots)
        check_floating("slots", slots)
        sizes = (-1, -1, self.corrector.slot_size)
        axes, call = "frames slots slot_size", "jax.vmap(model.paint)({name})"
        check_shape("slots", slots, axes, sizes, batch=call)
        slot_mask = checked_slot_mask(slot_mask, len(slots))
        return self._paint(slots, active_slots(slot_mask, None, slots.shape[1]))

    def _start(
        self,
        hints: Array | None,
        slots: Array | None,
        num_slots: int | None,
        slot_mask: Array | None,
        key: PRNGKeyArray | None,
    ) -> Array:
        if slots is not None:
            if hints is not None:
                raise ValueError(
                    "Slots either go on or start at hints: pass `slots` or `hints`, not"
                    " both."
                )
            return given_slots(slots, self.corrector.slot_size, num_slots, batch=_BATCH)
        if self.slot_start is not None:
            if hints is None:
                raise ValueError(
                    "The slots of this model start at hints, what its `slot_start`"
                    f" ({type(self.slot_start).__name__}) takes: pass `hints=...`, or"
                    " `slots=...` to go on with those of the frames before."
                )
            ever = None if slot_mask is None else jnp.any(slot_mask, axis=0)
            return self.slot_start(hints, num_slots=num_slots, slot_mask=ever)
        if hints is not None:
            raise ValueError(
                "This model starts without `hints`: build it with a `slot_start`, such"
                " as `BoxHints(slot_size, key=key)`, to give it some."
            )
        num_slots = self.corrector.num_slots if num_slots is None else num_slots
        if num_slots is None:
            raise ValueError(
                "The corrector was built without a number of slots: pass the initial"
                " slots by `slots=...`, or `num_slots=...` if it can draw them."
            )
        return self.corrector.slot_init(num_slots, key=key)

    def _follow(
        self,
        slots: Array,
        video: Array,
        active: Array | None,
        first_iters: int,
        early_gradient: float | Array,
        key: PRNGKeyArray | None,
    ) -> _Followed:
        """The loop over time."""
        if self.use_checkpoint:
            seen, encode = video, self._encode
        else:
            seen, encode = jax.vmap(self._encode)(video), lambda features: features

        def see(
            slots: Array, frame: Any, num_iters: int = self.num_iters
        ) -> tuple[Array, _Followed]:
            given, active, count = frame
            inputs = encode(given)
            slots = slots.astype(inputs.dtype)
            state = self.corrector(
                inputs,
                slots=slots,
                num_iters=num_iters,
                slot_mask=active,
                key=None if key is None else jr.fold_in(key, count),
            )
            predicted = carried = self._predict(state.slots, slots, active)
            if not isinstance(early_gradient, float) or early_gradient != 1:
                less = partial(partial_gradient, share=early_gradient)
                carried = self._predict(less(state.slots), less(slots), active)
            shown = _where(active, state.slots, jax.lax.stop_gradient(slots))
            return carried, _Followed(shown, state.attention, predicted)

        frames = (seen, active, jnp.arange(len(video)))
        first, later = (
            jax.tree.map(lambda x: x[0], frames),
            jax.tree.map(lambda x: x[1:], frames),
        )
        slots, start = see(slots, first, first_iters)
        again = jax.checkpoint(see) if self.use_checkpoint else see
        _, others = jax.lax.scan(again, slots, later)
        return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), start, others)

    def _encode(self, image: Array) -> Array:
        if self.standardization is not None:
            image = self.standardization(image)
        return self.encoder(image)

    def _predict(self, slots: Array, before: Array, active: Array | None) -> Array:
        moved = self.predictor(slots, slot_mask=active)
        return _where(active, moved, before)

    def _paint(self, slots: Array, active: Array | None) -> Painted:
        def paint(frame: tuple[Array, Array | None]) -> Painted:
            slots, active = frame
            rgb, mask_logits = jax.vmap(self.decoder)(_where(active, slots, 0))
            if self.standardization is not None:
                rgb = jax.vmap(self.standardization.inverse)(rgb)
            keep = None if active is None else active.astype(rgb.dtype)
            image, masks = composite(rgb, mask_logits, keep=keep)
            return Painted(image, _where(active, rgb, 0), masks)

        if self.use_checkpoint:
            return jax.lax.map(jax.checkpoint(paint), (slots, active))
        return jax.vmap(paint)((slots, active))


def _where(active: Array | None, x: Array, otherwise: Array | int) -> Array:
    """`x` of the slots that take part; chosen, as zero times NaN would be NaN."""
    if active is None:
        return x
    active = jnp.expand_dims(active, tuple(range(1, x.ndim)))
    return jnp.where(jnp.broadcast_to(active, x.shape), x, otherwise)
