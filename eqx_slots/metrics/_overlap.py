import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float, Int

from .._matching import match
from ._counts import count_labels, count_masks, Counts
from ._score import Score


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
    counts = count_labels(true, predicted, num_true, num_predicted)
    return _best(counts, ignore_background)


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
    counts = count_labels(true, predicted, num_true, num_predicted)
    return _paired(counts, ignore_background)


def soft_mean_best_overlap(
    true: Int[Array, "*pixels"],
    masks: Float[Array, " slots *pixels"],
    *,
    num_true: int,
    ignore_background: bool = True,
) -> Score:
    r"""mBO of the masks as they are: overlaps are sums of masks, not counts of winners.

    $$\mathrm{IoU}_{ij} = \frac{\sum_{x \in i} m_j(x)}
    {|i| + \sum_x m_j(x) - \sum_{x \in i} m_j(x)}$$

    is the sum of the minima over the sum of the maxima of mask and truth (the weighted
    Jaccard index); of masks of 0 and 1 it is the usual one. An object that two slots
    paint a half each has a half at best, and one that is painted to nine tenths nine
    tenths.

    **Arguments:**

    As for [`eqx_slots.metrics.soft_adjusted_rand_index`][]; the background is no object
    unless `ignore_background=False`.

    **Returns:**

    A number in [0, 1], `valid` where the image holds at least one true object, all
    labels are in range, and the masks of every pixel are non-negative and sum to 1.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([0, 0, 1, 1])
    masks = jnp.array([[1.0, 1.0, 0.25, 0.25], [0.0, 0.0, 0.75, 0.75]])
    print(metrics.soft_mean_best_overlap(true, masks, num_true=2).value)  # 0.75
    print(metrics.soft_mean_iou(true, masks, num_true=2).value)  # 0.75
    ```
    """
    return _best(count_masks(true, masks, num_true), ignore_background)


def soft_mean_iou(
    true: Int[Array, "*pixels"],
    masks: Float[Array, " slots *pixels"],
    *,
    num_true: int,
    ignore_background: bool = True,
) -> Score:
    """mIoU of the masks as they are: [`eqx_slots.metrics.soft_mean_best_overlap`][]
    with true objects and slots paired one to one for the largest sum.

    **Arguments:**

    As for [`eqx_slots.metrics.soft_mean_best_overlap`][].

    **Returns:**

    As [`eqx_slots.metrics.soft_mean_best_overlap`][], and never more.
    """
    return _paired(count_masks(true, masks, num_true), ignore_background)


def _best(counts: Counts, ignore_background: bool) -> Score:
    iou, exists = _iou(counts, ignore_background)
    return _mean_over(exists, jnp.max(iou, axis=1), counts.valid)


def _paired(counts: Counts, ignore_background: bool) -> Score:
    iou, exists = _iou(counts, ignore_background)
    order = match(-iou).order
    paired = order >= 0
    overlap = jnp.take_along_axis(iou, jnp.where(paired, order, 0)[:, None], axis=1)
    return _mean_over(exists, jnp.where(paired, overlap[:, 0], 0), counts.valid)


def _iou(
    counts: Counts, ignore_background: bool
) -> tuple[Float[Array, "true predicted"], Bool[Array, " true"]]:
    """Intersection over union of each pair, and which true objects there are."""
    common = counts.mean
    true_sizes = rearrange(reduce(common, "t p -> t", "sum"), "t -> t 1")
    predicted_sizes = rearrange(reduce(common, "t p -> p", "sum"), "p -> 1 p")
    union = true_sizes + predicted_sizes - common
    iou = common / jnp.where(union > 0, union, 1)
    exists = true_sizes[:, 0] > 0
    if ignore_background:
        iou, exists = iou[1:], exists[1:]
    return iou, exists


def _mean_over(exists: Array, values: Array, valid: Array) -> Score:
    count = jnp.sum(exists)
    total = jnp.sum(jnp.where(exists, values, 0))
    value = total / jnp.maximum(count, 1).astype(total.dtype)
    return Score(value, valid & (count > 0))
