import jax
import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Bool, Float, Int

from .._misc import accumulator_dtype, check_mask, check_shape
from ..properties import Categorical, Continuous, Properties
from ._score import Score


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
