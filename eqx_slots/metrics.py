"""How well segmentations, and sets, agree: one example in, `Score(value, valid)` out.

Only [`eqx_slots.metrics.average_precision`][] needs all examples at once. Label maps
are integers of any shape, the same for both; truth 0 is the background. All functions
run inside `jax.jit`, count in float32 (exact up to 16.7 million pixels) and are
averaged over a set by [`eqx_slots.metrics.mean`][], which leaves out undefined scores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import einsum, rearrange, reduce
from jaxtyping import Array, Bool, Float, Int

from ._matching import match
from ._misc import (
    accumulator_dtype,
    as_array,
    check_mask,
    check_positive,
    check_shape,
)
from .properties import Categorical, Continuous, Properties


class Score(NamedTuple):
    """A figure, and whether it means anything on this example.

    `value` is finite even where `valid` is False, so that `jnp.where` can drop it.
    """

    value: Float[Array, "*batch"]
    valid: Bool[Array, "*batch"]


def mean(score: Score) -> Float[Array, ""]:
    """Mean over the valid examples of a batch of scores; NaN if there are none."""
    if not isinstance(score, Score):
        raise ValueError(
            "`score` must be a `Score`, such as a metric mapped by `jax.vmap` gives,"
            f" got {type(score).__name__}; for plain numbers take `jnp.mean`."
        )
    total = jnp.sum(jnp.where(score.valid, score.value, 0))
    return total / jnp.sum(score.valid.astype(total.dtype))


def adjusted_rand_index(
    true: Int[Array, "*pixels"],
    predicted: Int[Array, "*pixels"],
    *,
    num_true: int,
    num_predicted: int,
    ignore_background: bool = False,
) -> Score:
    r"""Adjusted Rand index: agreement on which pixels belong together.

    $$\mathrm{ARI} = \frac{R - E}{M - E}, \qquad
    R = \sum_{ij} p(n_{ij}), \quad E = A B, \quad M = (A + B) / 2$$

    with $p(n) = n (n - 1) / (N (N - 1))$ the share of pixel pairs, $n_{ij}$ the pixels
    of true object $i$ in predicted object $j$, and $A$, $B$ the sums of $p$ over the
    sizes of the true and of the predicted objects (Hubert and Arabie 1985). 1 is
    perfect, 0 is chance; names of labels do not matter.

    The field's FG-ARI is `ignore_background=True`: pixels whose truth is 0 do not count
    and every predicted label does. It does not see if the background is whole.

    **Arguments:**

    - `true`: The true labels, in `[0, num_true)`, all of one example: what is not
        mapped by `jax.vmap` is scored as one large image.
    - `predicted`: The predicted labels, in `[0, num_predicted)`.
    - `num_true`, `num_predicted`: How many labels there can be; Python integers.
        (Keyword only arguments.)
    - `ignore_background`: Leave out the pixels whose true label is 0. (Keyword only
        argument.)

    **Returns:**

    The value that scikit-learn gives, 1 for two trivial partitions included. It is
    `valid` where the counted pixels hold at least two true labels: with one label a
    single stray pixel turns 1 into 0, with none there is nothing to score. Labels out
    of range make it not `valid` either; floats or other shapes are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([0, 0, 1, 1])
    score = metrics.adjusted_rand_index(true, 6 - true, num_true=2, num_predicted=7)
    print(score.value, score.valid, metrics.mean(score))  # 1.0 True 1.0
    ```
    """
    counts, in_range = _overlaps(true, predicted, num_true, num_predicted)
    if ignore_background:
        counts = counts[1:]
    pixels = jnp.sum(counts)
    sizes = reduce(counts, "true predicted -> true 1", "sum")
    predicted_sizes = reduce(counts, "true predicted -> 1 predicted", "sum")

    # The formula above takes differences of numbers close to 1 where the background is
    # large. In terms of pairs of pixels that are together in both, in one, in none, it
    # needs no difference that cancels (Steinley 2004). Shares of pairs, not numbers of
    # pairs: those overflow integers.
    def share(others: Float[Array, "true predicted"]) -> Float[Array, ""]:
        return jnp.sum(counts * (others / jnp.maximum(pixels * (pixels - 1), 1)))

    both = share(counts - 1)
    only_true = share(sizes - counts)
    only_predicted = share(predicted_sizes - counts)
    neither = share(pixels - sizes - predicted_sizes + counts)
    excess = 2 * (both * neither - only_true * only_predicted)
    most = (both + only_true) * (only_true + neither)
    most += (both + only_predicted) * (only_predicted + neither)
    # One label everywhere on both sides, or every pixel alone on both: the same.
    trivial = most == 0
    value = jnp.where(trivial, 1, excess / jnp.where(trivial, 1, most))
    return Score(value, in_range & (jnp.sum(sizes > 0) >= 2))


def mean_best_overlap(
    true: Int[Array, "*pixels"],
    predicted: Int[Array, "*pixels"],
    *,
    num_true: int,
    num_predicted: int,
    ignore_background: bool = True,
) -> Score:
    """mBO: for each true object the best IoU of any predicted one, averaged.

    A predicted object may serve several true ones; in
    [`eqx_slots.metrics.mean_iou`][] it may not.

    **Arguments:**

    As for [`eqx_slots.metrics.adjusted_rand_index`][]; the background is no object
    unless `ignore_background=False`.

    **Returns:**

    A number in [0, 1], `valid` where the image holds at least one true object (else the
    value is 0) and all labels are in range.
    """
    iou, exists, in_range = _iou(
        true, predicted, num_true, num_predicted, ignore_background
    )
    return _mean_over(exists, jnp.max(iou, axis=1), in_range)


def mean_iou(
    true: Int[Array, "*pixels"],
    predicted: Int[Array, "*pixels"],
    *,
    num_true: int,
    num_predicted: int,
    ignore_background: bool = True,
) -> Score:
    """mIoU: true and predicted objects paired one to one for the largest sum of IoU.

    A true object that gets no partner counts as 0. The pairing is the optimum
    (Hungarian algorithm). Arguments and result are those of
    [`eqx_slots.metrics.mean_best_overlap`][].

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true, labels = jnp.array([1, 1, 2, 2]), jnp.array([0, 0, 0, 0])
    sizes = {"num_true": 3, "num_predicted": 1}  # one slot has both objects
    print(metrics.mean_iou(true, labels, **sizes).value)  # 0.25
    print(metrics.mean_best_overlap(true, labels, **sizes).value)  # 0.5
    ```
    """
    iou, exists, in_range = _iou(
        true, predicted, num_true, num_predicted, ignore_background
    )
    order = match(-iou).order
    paired = order >= 0
    overlap = jnp.take_along_axis(iou, jnp.where(paired, order, 0)[:, None], axis=1)
    return _mean_over(exists, jnp.where(paired, overlap[:, 0], 0), in_range)


class Matched(NamedTuple):
    """Which slots of `b` go with those of `a`: `a[i]` with `b[order[i]]`.

    `distance` is Euclidean, of each pair; without `valid` neither means anything.
    """

    order: Int[Array, " slots"]
    distance: Float[Array, " slots"]
    valid: Bool[Array, ""]


THRESHOLDS = (float("inf"), 1.0, 0.5, 0.25, 0.125)
"""The distances that the paper reports average precision at."""


def average_precision(
    predicted: Float[Array, "sets predictions size"],
    target: Float[Array, "sets objects size"],
    *,
    properties: Properties,
    position: str | None = None,
    thresholds: tuple[float, ...] = THRESHOLDS,
    prediction_mask: Bool[Array, "sets predictions"] | None = None,
) -> Score:
    """Average precision of predicted objects at several distances, over many examples.

    As in the official code (Locatello et al. 2020, section 4.2). The predictions of all
    sets are gone through from the surest (by presence) on. Each is compared with the
    nearest object of its set whose labels all equal its own: a hit if nearer than the
    threshold and not hit before, otherwise a false alarm, even if another object would
    do. AP is the area under precision, made monotone, over recall of present objects.

    **Arguments:**

    - `predicted`, `target`: The predicted and the true elements of each set.
    - `properties`: What an element is made of. (Keyword only argument, as all that
        follow.)
    - `position`: The continuous group whose Euclidean distance counts, in its own unit;
        `None` means the first.
    - `thresholds`: The distances; at infinity the labels alone decide.
    - `prediction_mask`: Predictions that take part, where slots were masked; `None`
        means all.

    **Returns:**

    One number in [0, 1] for each threshold, `valid` where there is any object. Equally
    sure predictions count in the order of the sets and of their slots; one whose
    presence is NaN comes last, one whose position is NaN is nowhere.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics, properties

    place = properties.Continuous("place", low=0.0, high=9.0)
    options = {"properties": properties.Properties(place, properties.Presence())}
    rows = jnp.array([[[0.1, 1.0], [0.5, 1.0]]])  # two objects in one set
    score = metrics.average_precision(rows + jnp.array([0.04, 0]), rows, **options)
    print(score.value)  # [1. 1. 1. 0. 0.]
    ```
    """
    call = "rearrange({name}, 'batches sets ... -> (batches sets) ...')"
    sizes = (-1, -1, properties.size)
    check_shape("predicted", predicted, "sets predictions size", sizes, batch=call)
    sizes = (predicted.shape[0], -1, properties.size)
    check_shape("target", target, "sets objects size", sizes, batch=call)
    predicted, target = (
        jnp.asarray(x, accumulator_dtype(x.dtype)) for x in (predicted, target)
    )
    if target.shape[1] == 0:  # an absent one, so that there is something to search
        target = jnp.pad(target, ((0, 0), (0, 1), (0, 0)))
    nearest, distance = _nearest(predicted, target, properties, position)
    sureness = properties.take(predicted, properties.presence.name)[..., 0]
    real = properties.take(target, properties.presence.name) > 0
    total = jnp.sum(real, dtype=distance.dtype)
    if prediction_mask is not None:
        # Last, where a false alarm costs nothing, and hits of nothing.
        check_mask("prediction_mask", prediction_mask, "sets slots", sureness.shape)
        sureness = jnp.where(prediction_mask, sureness, -jnp.inf)
        distance = jnp.where(prediction_mask, distance, jnp.inf)

    surest_first = jnp.argsort(-sureness.ravel(), stable=True)
    nearest, distance = nearest.ravel()[surest_first], distance.ravel()[surest_first]
    last = len(nearest)
    rank = jnp.arange(last)

    def at(threshold: float) -> Float[Array, ""]:
        near = distance < threshold
        first = jnp.full(real.size, last).at[nearest].min(jnp.where(near, rank, last))
        hits = jnp.cumsum(near & (first[nearest] == rank), dtype=distance.dtype)
        precision = hits / (1 + rank).astype(distance.dtype)
        best = jax.lax.cummax(precision, reverse=True)
        return jnp.sum(best * jnp.diff(hits, prepend=0)) / jnp.maximum(total, 1)

    value = jnp.stack([at(threshold) for threshold in thresholds])
    return Score(value, jnp.broadcast_to(total > 0, value.shape))


def _nearest(
    predicted: Array, target: Array, properties: Properties, position: str | None
) -> tuple[Int[Array, "sets predictions"], Float[Array, "sets predictions"]]:
    """Of each prediction the nearest object with its labels, all objects being numbered
    through, and how far it is: infinitely where there is none."""
    unit = {g.name: g.high - g.low for g in properties.select(Continuous)}
    name = next(iter(unit), None) if position is None else position
    if name is None or name not in unit:
        raise ValueError(
            f"`position` must be one of the continuous groups {list(unit)}, got"
            f" {position!r}."
        )
    take = properties.take
    apart = take(predicted, name)[:, :, None] - take(target, name)[:, None]
    squared = reduce((unit[name] * apart) ** 2, "sets p o size -> sets p o", "sum")
    distance = jnp.sqrt(squared)
    possible = (take(target, properties.presence.name)[..., 0] > 0)[:, None, :]
    for group in properties.select(Categorical):
        labels = [jnp.argmax(take(x, group.name), axis=-1) for x in (predicted, target)]
        possible &= labels[0][:, :, None] == labels[1][:, None, :]
    distance = jnp.where(possible & jnp.isfinite(distance), distance, jnp.inf)
    sets, _, objects = distance.shape
    before = objects * jnp.arange(sets)[:, None]
    return before + jnp.argmin(distance, axis=-1), jnp.min(distance, axis=-1)


def match_slots(
    a: Float[Array, "slots slot_size"], b: Float[Array, "slots slot_size"]
) -> Matched:
    """Pair two sets of slots so that the squared distances sum to the least.

    Slots have no order of their own: this is how to follow them from frame to frame, or
    to compare runs and rounds. `b[match_slots(a, b).order]` is in the order of `a`.

    **Arguments:**

    - `a`, `b`: As many slots, of the same width.

    **Returns:**

    [`eqx_slots.metrics.Matched`][], `valid` if all slots are finite. Shapes that differ
    are a `ValueError`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import metrics

    a = jr.normal(jr.key(0), (7, 64))
    order, distance, valid = metrics.match_slots(a, a[::-1])
    print(order, distance.max(), valid)  # [6 5 4 3 2 1 0] 0.0 True
    ```
    """
    call = "jax.vmap(match_slots)(a, b)"
    check_shape("a", a, "slots slot_size", (-1, -1), batch=call)
    check_shape("b", b, "slots slot_size", a.shape, batch=call)
    cost = reduce(jnp.square(a[:, None] - b[None, :]), "i j d -> i j", "sum")
    order, valid = match(cost)
    chosen = cost[jnp.arange(a.shape[0]), order]
    # Where two slots are equal a square root would have no gradient.
    apart = valid & (chosen > 0)
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, chosen, 1)), 0)
    return Matched(order, distance, valid)


def _overlaps(
    true: Array, predicted: Array, num_true: int, num_predicted: int
) -> tuple[Float[Array, "true predicted"], Bool[Array, ""]]:
    """How many pixels each pair of labels shares, and whether all are in range."""
    check_positive(num_true=num_true, num_predicted=num_predicted)
    true, predicted = as_array("true", true), as_array("predicted", predicted)
    if true.shape != predicted.shape:
        raise ValueError(
            "`true` and `predicted` must label the same pixels, got shapes"
            f" {true.shape} and {predicted.shape}. One example at a time: a batch is"
            " mapped by `jax.vmap`."
        )
    for name, labels in (("true", true), ("predicted", predicted)):
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"`{name}` must hold integer labels, got {labels.dtype}; masks become"
                " labels by `jnp.argmax(masks, axis=0)`."
            )
    true_hot = jax.nn.one_hot(true.ravel(), num_true, dtype=jnp.float32)
    predicted_hot = jax.nn.one_hot(predicted.ravel(), num_predicted, dtype=jnp.float32)
    counts = einsum(
        true_hot, predicted_hot, "pixels true, pixels predicted -> true predicted"
    )
    return counts, jnp.sum(counts) == true.size


def _iou(
    true: Array, predicted: Array, num_true: int, num_predicted: int, ignore: bool
) -> tuple[Float[Array, "true predicted"], Bool[Array, " true"], Bool[Array, ""]]:
    """Intersection over union of each pair, which true objects there are, and whether
    all labels are in range."""
    common, in_range = _overlaps(true, predicted, num_true, num_predicted)
    true_sizes = rearrange(reduce(common, "t p -> t", "sum"), "t -> t 1")
    predicted_sizes = rearrange(reduce(common, "t p -> p", "sum"), "p -> 1 p")
    union = true_sizes + predicted_sizes - common
    iou = common / jnp.maximum(union, 1)
    exists = true_sizes[:, 0] > 0
    if ignore:
        iou, exists = iou[1:], exists[1:]
    return iou, exists, in_range


def _mean_over(exists: Array, values: Array, in_range: Array) -> Score:
    count = jnp.sum(exists)
    total = jnp.sum(jnp.where(exists, values, 0))
    value = total / jnp.maximum(count, 1).astype(total.dtype)
    return Score(value, in_range & (count > 0))
