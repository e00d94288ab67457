import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._misc import grid_stride
from ..models import Reconstruction
from ._masks import (
    attention_agreement,
    duplicate_slots,
    effective_slots,
    position_dependence,
)
from ._objects import (
    crowded_images,
    lost_objects,
    merged_objects,
    shared_background,
)
from ._picture import reconstruction_error, saturated_error
from ._undecided import undecided_background, undecided_objects


class Finding(NamedTuple):
    """One number of a diagnosis, and what it says.

    **Fields:**

    - `name`: The function of `eqx_slots.diagnostics` that computes the number.
    - `value`: The number.
    - `limit`: Up to this all is well (from this on for `effective_slots` and
        `attention_agreement`, which are better high).
    - `is_wrong`: Whether the value is past the limit and no finding before this one
        explains it.
    - `sentence`: What the number says; if something is wrong, what, and the likely
        cure.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))  # not trained
    images = jr.uniform(jr.key(1), (8, 3, 32, 32))
    made = jax.jit(jax.vmap(model))(images)
    first, *others = diagnostics.diagnose(images, made)
    print(first.name, first.value > first.limit)  # reconstruction_error True
    ```
    """

    name: str
    value: float
    limit: float
    is_wrong: bool
    sentence: str


class _Check(NamedTuple):
    name: str
    limit: float
    well: str
    wrong: str
    # Findings that have this one as a consequence.
    after: tuple[str, ...] = ()
    high_is_wrong: bool = True


# Nothing that masks do means much in a picture that is not the image's.
_COLLAPSE = ("reconstruction_error",)
_BLUR = (*_COLLAPSE, "undecided_objects")
# What is told of a background that no slot owns is no news beside that.
_LAYERS = (*_BLUR, "undecided_background")

# Causes before consequences. The limits are between what healthy and failing models
# have, see docs/troubleshooting.md.
_CHECKS = (
    _Check(
        "reconstruction_error",
        0.8,
        "The picture depends on the image.",
        "The model paints much the same picture whatever it sees, the mean image or the"
        " colour of the background: every run waits here at first; if it stays, start"
        " from that background (`models.start_from_images`), take Muon"
        " (`training.muon`), and let its steps wait for the loss to move"
        " (`training.scale_by_progress`); larger or more objects are easier.",
    ),
    _Check(
        "saturated_error",
        0.5,
        "Wrong colours can still be learned.",
        "The wrong colours are at the ends of the sigmoid, where hardly any gradient"
        " comes through: start from the background's colour"
        " (`models.start_from_colour`), warm the learning rate up, or take linear RGB"
        " (`rgb_activation=jax.nn.identity`) and images in [-1, 1].",
    ),
    _Check(
        "undecided_objects",
        0.5,
        "Objects are painted by one slot each.",
        "Every object is painted by several slots together, so no slot is an object:"
        " normal early in training; if it stays, take learned initial slots and"
        " gradients through the last round alone (`grad_iters=1`).",
        after=_COLLAPSE,
    ),
    _Check(
        "lost_objects",
        0.1,
        "The model sees all objects.",
        "Some objects are painted as plain background, most likely because the encoder"
        " no longer tells their colour from it: start from the images"
        " (`models.start_from_images`), let the steps wait for the loss to move"
        " (`training.scale_by_progress`) or take a lower rate, and"
        " `jax.nn.leaky_relu` as the encoder's activation.",
        after=_BLUR,
    ),
    _Check(
        "effective_slots",
        1.05,
        "An image is made of several slots.",
        "One slot paints whole images and the others nothing: most likely the decoder"
        " can do without them, so take a smaller decoder or narrower slots.",
        after=_BLUR,
        high_is_wrong=False,
    ),
    _Check(
        "position_dependence",
        0.5,
        "The masks follow the images.",
        "The slots share out the picture by position, in stripes or patches that are"
        " the same in every image: normal for a while in training; if it stays, there"
        " are most likely too few slots, so give the model two more than there are"
        " objects and background.",
        after=_BLUR,
    ),
    _Check(
        "undecided_background",
        0.008,
        "The background is painted by one slot.",
        "The background is painted by several slots together, a share of each pixel:"
        " add the sparsity of the masks to the loss (`losses.mask_sparsity`), with"
        " little weight and while the learning rate is high; before it has its weight"
        " this is normal.",
        after=(*_BLUR, "position_dependence"),
    ),
    _Check(
        "duplicate_slots",
        0.1,
        "No two slots paint the same object.",
        "Several slots paint the same object: train longer or with another seed, make"
        " every slot cost something (`nn.KeepSlots`), or merge them afterwards"
        " (`nn.merge_duplicates`).",
        after=(*_LAYERS, "position_dependence"),
    ),
    _Check(
        "shared_background",
        0.03,
        "The background is one slot's.",
        "The background is in pieces, each another slot's: start from its colour"
        " (`models.start_from_colour`), add the sparsity of the masks to the loss"
        " (`losses.mask_sparsity`), train longer or with another seed.",
        after=(*_LAYERS, "position_dependence"),
    ),
    _Check(
        "merged_objects",
        0.15,
        "Objects have slots of their own.",
        "Objects share a slot with each other or with the background: give the model"
        " two slots more than there are objects and background; if they share it with a"
        " plain background, price RGB of more than one colour (`losses.rgb_variance`).",
        after=(*_BLUR, "lost_objects", "effective_slots", "position_dependence"),
    ),
    _Check(
        "crowded_images",
        0.5,
        "There are slots to spare.",
        "All slots are in use in most images, so objects may have to share one: give"
        " the model two slots more than there are objects and background.",
        after=(*_LAYERS, "position_dependence", "duplicate_slots", "shared_background"),
    ),
    _Check(
        "attention_agreement",
        0.25,
        "Slots paint where they look.",
        "Slots paint elsewhere than they look: see that the encoder lists its places"
        " row by row, else read objects from the masks, not from the attention.",
        after=(*_BLUR, "effective_slots", "position_dependence"),
        high_is_wrong=False,
    ),
)

_RANGE = (
    "The images reach {:.0f}, far beyond [-1, 1]: scale them, 0-255 by `/ 255`, in"
    " training as here."
)
_NOT_FINITE = "The picture is not finite, or all images of the batch are the same."
_DIVERGED = (
    "The picture is worse than any single colour: training has diverged, most likely"
    " from too high a learning rate."
)


def diagnose(
    images: Float[Array, "batch channels height width"],
    made: Reconstruction,
    *,
    segmentation: Int[Array, "batch height width"] | None = None,
    num_true: int | None = None,
    rgb_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[Finding, ...]:
    """Say what is wrong with a slot autoencoder, from a batch it was not trained on.

    All numbers are computed in one jitted call; the sentences are made outside, so this
    function itself cannot be jitted.

    **Arguments:**

    - `images`: A batch of different images, 32 or more to rely on.
    - `made`: What the model made of them, mapped over the batch.
    - `segmentation`: The true labels, 0 being the background, if they are known: the
        background is then the true one, and `merged_objects` takes the place of the
        cruder `crowded_images`. (Keyword only argument, as all that follow.)
    - `num_true`: How many labels there can be, needed with `segmentation`.
    - `rgb_range`: As for [`eqx_slots.diagnostics.saturated_error`][].

    **Returns:**

    A [`eqx_slots.diagnostics.Finding`][] for every check, causes before consequences.
    What an earlier finding explains is not `is_wrong`: of a collapsed model nothing is
    said but that, and why. Arrays that do not fit each other, or fewer than two images,
    are a `ValueError`.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.random as jr
    from eqx_slots import diagnostics
    from eqx_slots.data import blocks
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))  # not trained
    scenes = jax.jit(jax.vmap(blocks.scene))(jr.split(jr.key(1), 8))
    images = 2 * scenes.image - 1
    made = jax.jit(jax.vmap(model))(images)
    findings = diagnostics.diagnose(images, made)
    wrong = [finding.name for finding in findings if finding.is_wrong]
    print(wrong)  # ['reconstruction_error']
    ```
    """
    if (segmentation is None) != (num_true is None):
        raise ValueError(
            "`segmentation` and `num_true`, the number of labels with the background,"
            f" go together; got `num_true`={num_true} with"
            f" {'no' if segmentation is None else 'a'} segmentation."
        )
    numbers = _measure(images, made, segmentation, num_true, rgb_range)
    findings = []
    for check, number in zip(_CHECKS, jax.device_get(numbers)):
        if number is not None:
            wrong = [finding.name for finding in findings if finding.is_wrong]
            findings.append(_finding(check, float(number), wrong))
    largest = float(jnp.max(jnp.abs(images)))
    if findings[0].is_wrong and largest > 10:
        findings[0] = findings[0]._replace(sentence=_RANGE.format(largest))
    return tuple(findings)


@eqx.filter_jit
def _measure(
    images: Array,
    made: Reconstruction,
    segmentation: Array | None,
    num_true: int | None,
    rgb_range: tuple[float, float],
) -> tuple[Array | None, ...]:
    """The numbers in the order of the checks; `None` where one does not apply."""
    error = reconstruction_error(images, made)
    merged = crowded = agreement = None
    if segmentation is None or num_true is None:
        crowded = crowded_images(made)
    else:
        merged = merged_objects(made, segmentation, num_true=num_true)
    if _is_grid(made):
        agreement = attention_agreement(made)
    return (
        error,
        saturated_error(images, made, rgb_range=rgb_range),
        undecided_objects(images, made, segmentation=segmentation),
        lost_objects(images, made, segmentation=segmentation),
        effective_slots(made),
        position_dependence(made),
        undecided_background(images, made, segmentation=segmentation),
        duplicate_slots(made),
        shared_background(images, made, segmentation=segmentation),
        merged,
        crowded,
        agreement,
    )


def _is_grid(made: Reconstruction) -> bool:
    """Attention need not be over places: then there is nothing to compare."""
    _, _, height, width = made.masks.shape
    try:
        grid_stride(height, width, made.attention.shape[-1])
    except ValueError:
        return False
    return True


def _finding(check: _Check, value: float, wrong: list[str]) -> Finding:
    """A number becomes a sentence; `wrong` are the names of the findings before it."""
    causes = [name for name in wrong if name in check.after]
    past = value > check.limit if check.high_is_wrong else value < check.limit
    is_wrong = past and not causes
    sentence = check.wrong if past else check.well
    if causes:
        sentence = f"Says little: see `{causes[0]}`."
    elif check.name == "reconstruction_error" and not math.isfinite(value):
        is_wrong, sentence = True, _NOT_FINITE
    elif check.name == "reconstruction_error" and value > 2:
        sentence = _DIVERGED
    elif math.isnan(value):
        sentence = "Cannot be told from this batch."
    return Finding(check.name, value, check.limit, is_wrong, sentence)
