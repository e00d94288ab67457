from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import reduce
from jax.core import Tracer
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    cast,
    check_key,
    check_mask,
    check_positive,
    check_shape,
)
from ..nn import paper_weights
from ._encoder import Encoder


class BoxHints(eqx.Module):
    """Slots start at the boxes, or at the centres, of the objects in a first frame.

    A small MLP makes a slot of each box. The first slot is the background's: it starts
    at a box of zeros (SAVi, Kipf et al. 2022). Absent objects can be boxes of zeros as
    well, as they are in SAVi's data: then their slots start like the background's, and
    as nothing tells them apart they stay like it. Masked by `slot_mask` they are out of
    the way instead.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import BoxHints

    hints = BoxHints(64, key=jr.key(0))
    boxes = jnp.array([[0.1, 0.1, 0.4, 0.3], [0.5, 0.2, 0.9, 0.6]])
    print(hints(boxes).shape)  # (3, 64)
    centres = BoxHints(64, size=2, key=jr.key(0))
    print(centres(boxes[:, :2]).shape)  # (3, 64)
    ```
    """

    mlp: eqx.nn.MLP
    size: int = eqx.field(static=True)
    num_slots: int | None = eqx.field(static=True)
    use_background: bool = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        *,
        size: int = 4,
        hidden_size: int = 256,
        num_slots: int | None = None,
        use_background: bool = True,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of each slot.
        - `size`: Numbers that a hint has: 4 for boxes, `ymin xmin ymax xmax`, or 2 for
            centres, `y x`. (Keyword only argument, as all that follow.)
        - `hidden_size`: Hidden width of the MLP.
        - `num_slots`: How many slots to make, the background's among them: fewer hints
            are made up by absent objects, zeros. `None` means one for each hint.
        - `use_background`: Whether the first slot is the background's.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_key(key)
        check_positive(
            slot_size=slot_size,
            size=size,
            hidden_size=hidden_size,
            num_slots=1 if num_slots is None else num_slots,
        )
        mlp_key, paper_key = jr.split(key)
        mlp = eqx.nn.MLP(
            size, slot_size, hidden_size, depth=1, dtype=dtype, key=mlp_key
        )
        self.mlp = paper_weights(mlp, key=paper_key)
        self.size = size
        self.num_slots = num_slots
        self.use_background = use_background

    def __call__(
        self,
        hints: Float[Array, "objects {self.size}"],
        *,
        num_slots: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
    ) -> Float[Array, "slots slot_size"]:
        """**Arguments:**

        - `hints`: One for each object, in [0, 1] from the top left corner of the image
            to the bottom right.
        - `num_slots`: As at construction, for this call. (Keyword only argument.)
        - `slot_mask`: Which slots take part, the background's first; `None` means all.
            What is in the hints of the others, NaN included, reaches nothing. (Keyword
            only argument.)

        **Returns:**

        The slots, the background's first; zeros for those that are masked. Hints that
        are more than the slots, of another width, not finite, or larger than 2, as
        pixels are, are a `ValueError`; under `jax.jit` only the first two.
        """
        hints = _checked_boxes(hints, self.size)
        num_slots = self.num_slots if num_slots is None else num_slots
        num_slots = _room(len(hints), num_slots, self.use_background)
        before = int(self.use_background)
        after = num_slots - before - len(hints)
        boxes = jnp.pad(hints, ((before, after), (0, 0)))
        boxes = _only(slot_mask, boxes)
        if not isinstance(boxes, Tracer):
            _check_numbers(np.asarray(boxes, float))
        slots = jax.vmap(cast(self.mlp, boxes.dtype))(boxes)
        return _only(slot_mask, slots)


class MaskHints(eqx.Module):
    """Slots start at the masks of the objects in a first frame.

    Each object's mask goes through convolutions, a position embedding and an MLP for
    each place, all shared, is averaged over the places, and a last MLP makes a slot of
    it. Label 0 is the background: its slot starts at an empty mask, and so do those of
    labels that are nowhere (SAVi, Kipf et al. 2022, to whose authors' answer on masks
    the encoder's sizes are true).

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import MaskHints

    hints = MaskHints(64, num_slots=7, key=jr.key(0))
    segmentation = jnp.zeros((32, 32), int).at[5:9, 5:9].set(1)
    print(hints(segmentation).shape)  # (7, 64)
    ```
    """

    encoder: Encoder
    mlp: eqx.nn.MLP
    num_slots: int = eqx.field(static=True)

    def __init__(
        self,
        slot_size: int,
        *,
        num_slots: int,
        encoder_size: int = 32,
        strides: Sequence[int] = (2, 2, 2, 1),
        hidden_size: int = 256,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slot_size`: Width of each slot.
        - `num_slots`: How many slots to make: labels are below it. (Keyword only
            argument, as all that follow.)
        - `encoder_size`: Channels of the convolutions, kernels of 5; the MLP for each
            place is twice as wide.
        - `strides`: One convolution for each.
        - `hidden_size`: Hidden width of the last MLP.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        check_key(key)
        check_positive(
            slot_size=slot_size,
            num_slots=num_slots,
            encoder_size=encoder_size,
            hidden_size=hidden_size,
        )
        encoder_key, mlp_key, paper_key = jr.split(key, 3)
        encoder = Encoder(
            encoder_size,
            mlp_size=2 * encoder_size,
            in_channels=1,
            strides=strides,
            grid="savi",
            layer_norm_eps=1e-6,
            dtype=dtype,
            key=encoder_key,
        )
        mlp = eqx.nn.MLP(
            encoder_size, slot_size, hidden_size, depth=1, dtype=dtype, key=mlp_key
        )
        self.encoder, self.mlp = paper_weights((encoder, mlp), key=paper_key)
        self.num_slots = num_slots

    def __call__(
        self,
        hints: Int[Array, "height width"],
        *,
        num_slots: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
    ) -> Float[Array, "slots slot_size"]:
        """**Arguments:**

        - `hints`: The object that each pixel of the first frame belongs to, 0 for the
            background.
        - `num_slots`: As at construction, for this call. (Keyword only argument.)
        - `slot_mask`: Which slots take part, the background's first; `None` means all.
            (Keyword only argument.)

        **Returns:**

        The slots, the background's first; zeros for those that are masked. Labels that
        are not integers from 0 to below the number of slots are a `ValueError`.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        check_positive(num_slots=num_slots)
        labels = _checked_labels(hints, num_slots)
        dtype = self.mlp.layers[-1].weight.dtype
        masks = jax.nn.one_hot(labels, num_slots, axis=0, dtype=dtype)
        masks = masks.at[0].set(0)  # the background's

        def encode(mask: Array) -> Array:
            features = self.encoder(mask[None])
            wide = features.astype(accumulator_dtype(dtype))
            mean = reduce(wide, "places features -> features", "mean")
            return self.mlp(mean.astype(dtype))

        return _only(slot_mask, jax.vmap(encode)(masks))


def _only(slot_mask: Array | None, rows: Array) -> Array:
    """Chosen before any arithmetic: zero times NaN would still be NaN."""
    if slot_mask is None:
        return rows
    slot_mask = as_array("slot_mask", slot_mask)
    check_mask("slot_mask", slot_mask, "slots", rows.shape[:1])
    return jnp.where(jnp.broadcast_to(slot_mask[:, None], rows.shape), rows, 0)


def _checked_boxes(hints: Array, size: int) -> Array:
    hints = as_array("hints", hints)
    if not jnp.issubdtype(hints.dtype, jnp.floating):
        raise ValueError(
            f"`hints` must be floating point, in [0, 1], got {hints.dtype}; divide"
            " boxes in pixels by height and width of the image."
        )
    other = "`BoxHints(size=2)` takes centres, `size=4` boxes."
    check_shape(
        "hints",
        hints,
        "objects size",
        (-1, size),
        batch="jax.vmap(lambda v, h: model(v, hints=h))(video, {name})",
        otherwise=other,
    )
    return hints


def _check_numbers(boxes: np.ndarray) -> None:
    if not np.all(np.isfinite(boxes)):
        raise ValueError(
            "`hints` must be finite numbers, got NaN or infinity; an object that is"
            " absent is a row of zeros, or masked by `slot_mask`."
        )
    if np.any(np.abs(boxes) > 2):  # a box may stick out of the image, but not so far
        raise ValueError(
            f"`hints` must be in [0, 1], got up to {np.max(np.abs(boxes)):g}; divide"
            " boxes in pixels by height and width of the image."
        )


def _room(num_hints: int, num_slots: int | None, use_background: bool) -> int:
    needed = num_hints + int(use_background)
    num_slots = needed if num_slots is None else num_slots
    check_positive(num_slots=num_slots)
    if needed > num_slots:
        background = " and one is the background's" * use_background
        raise ValueError(
            f"`hints` are too many: there are {num_slots} slots{background}, got"
            f" {num_hints} hints; leave some out, or ask for num_slots={needed}."
        )
    return num_slots


def _checked_labels(hints: Array, num_slots: int) -> Array:
    labels = as_array("hints", hints)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"`hints` must be integers, the label of each pixel, got {labels.dtype};"
            " masks become labels by `jnp.argmax(masks, axis=0)`."
        )
    check_shape(
        "hints",
        labels,
        "height width",
        (-1, -1),
        batch="jax.vmap(lambda v, h: model(v, hints=h))(video, {name})",
    )
    if not isinstance(labels, Tracer):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_slots:
            cure = f"ask for num_slots={high + 1}, or relabel"
            if low < 0:
                cure = "pixels without a label are background, `jnp.maximum(hints, 0)`"
            raise ValueError(
                f"`hints` must be labels from 0 to {num_slots - 1} for {num_slots}"
                f" slots, got {low} to {high}; {cure}."
            )
    return labels
