"""Average precision, against its definition as plain loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from eqx_slots import metrics
from eqx_slots.properties import Categorical, Continuous, Presence, Properties

from .helpers import seeds


THINGS = Properties(
    Categorical("kind", ("a", "b")),
    Continuous("width", low=0.0, high=9.0),
    Presence(),
    Continuous("place", low=-3.0, high=3.0, size=2),
    Categorical("colour", ("red", "green")),
)
KIND, WIDTH, PRESENT = slice(0, 2), slice(2, 3), 3
PLACE, COLOUR = slice(4, 6), slice(6, 8)
THRESHOLDS = (np.inf, 3.0, 1.0, 0.5)


def by_loops(predicted, target, threshold):
    """The published definition, one detection after the other."""
    detections = [
        (-element[PRESENT], image, slot)
        for image, elements in enumerate(predicted)
        for slot, element in enumerate(elements)
    ]
    found, hits = set(), []
    for _, image, slot in sorted(detections):
        mine = predicted[image, slot]
        nearest, least = None, np.inf
        for number, other in enumerate(target[image]):
            if not other[PRESENT]:
                continue
            if mine[KIND].argmax() != other[KIND].argmax():
                continue
            if mine[COLOUR].argmax() != other[COLOUR].argmax():
                continue
            distance = np.linalg.norm(6 * (mine[PLACE] - other[PLACE]))
            if distance < least:
                nearest, least = number, distance
        hit = nearest is not None and least < threshold
        hit = hit and (image, nearest) not in found
        if hit:
            found.add((image, nearest))
        hits.append(hit)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.cumsum(hits) / target[..., PRESENT].sum()
    area, before = 0.0, 0.0
    for i, now in enumerate(recall):
        area += precision[i:].max() * (now - before)
        before = now
    return area


def draw(seed, sets=6, slots=5, objects=4):
    """Crowded sets, so that detections compete for objects at every threshold."""
    rng = np.random.default_rng(seed)
    target = rng.random((sets, objects, 8))
    target[..., PRESENT] = rng.random((sets, objects)) < 0.7
    target[0, 0, PRESENT] = 1
    predicted = rng.random((sets, slots, 8))
    copied = rng.integers(objects, size=(sets, slots))
    near = np.take_along_axis(target, copied[..., None], axis=1)
    predicted[..., PLACE] = near[..., PLACE] + 0.1 * rng.normal(size=(sets, slots, 2))
    return predicted.astype(np.float32), target.astype(np.float32)


@jax.jit
def precision(predicted, target):
    options = {"properties": THINGS, "position": "place", "thresholds": THRESHOLDS}
    return metrics.average_precision(predicted, target, **options)


@given(seed=seeds)
def test_equals_the_definition(seed):
    predicted, target = draw(seed)
    made = precision(predicted, target)
    want = [by_loops(predicted, target, threshold) for threshold in THRESHOLDS]
    np.testing.assert_allclose(made.value, want, rtol=1e-5)
    assert np.all(made.valid)


@given(seed=seeds, levels=st.sampled_from([1, 3]))
def test_equally_sure_detections_count_in_their_order(seed, levels):
    predicted, target = draw(seed)
    predicted[..., PRESENT] = np.round(levels * predicted[..., PRESENT]) / levels
    want = [by_loops(predicted, target, threshold) for threshold in THRESHOLDS]
    np.testing.assert_allclose(precision(predicted, target).value, want, rtol=1e-5)


def element(place, sure=1.0, kind=0):
    row = np.zeros(8, np.float32)
    row[PLACE], row[PRESENT], row[kind], row[6] = place, sure, 1, 1
    return row


def test_a_second_detection_of_the_nearest_object_is_a_false_alarm():
    target = np.stack([[element([0.5, 0.5]), element([0.6, 0.5])]])
    # Both are nearest to the first object; the second one would do as well.
    both = [element([0.5, 0.5], 0.9), element([0.52, 0.5], 0.8)]
    made = precision(np.stack([both]), target)
    np.testing.assert_allclose(made.value, [0.5, 0.5, 0.5, 0.5])


def test_labels_and_distance_decide():
    target = np.stack([[element([0.5, 0.5])]])
    away = precision(np.stack([[element([0.7, 0.5])]]), target)  # by 1.2
    np.testing.assert_allclose(away.value, [1, 1, 0, 0])
    other = precision(np.stack([[element([0.5, 0.5], kind=1)]]), target)
    np.testing.assert_allclose(other.value, [0, 0, 0, 0])


def test_the_first_continuous_group_is_the_position_unless_told():
    predicted, target = draw(0)
    predicted[..., WIDTH] = 0
    target[..., WIDTH] = 0.2  # in its unit 1.8
    options = {"properties": THINGS, "thresholds": (np.inf, 1.9, 1.7)}
    call = jax.jit(lambda *sets: metrics.average_precision(*sets, **options).value)
    value = np.asarray(call(predicted, target))
    assert value[0] == value[1] > 0
    assert value[2] == 0


def test_without_objects_it_means_nothing():
    predicted, target = draw(0)
    made = precision(predicted, np.zeros_like(target))
    assert not np.any(made.valid)
    np.testing.assert_array_equal(made.value, 0)


def test_what_is_not_a_number_finds_nothing():
    predicted, target = draw(0)
    lost = predicted.copy()
    lost[2, 1, PLACE] = np.nan
    without = predicted.copy()
    without[2, 1, PLACE] = 1e6
    want = precision(without, target).value[1:]
    np.testing.assert_array_equal(precision(lost, target).value[1:], want)
    unsure = predicted.copy()
    unsure[2, 1, PRESENT] = np.nan
    without = predicted.copy()
    without[2, 1, PRESENT] = -1
    want = precision(without, target).value
    np.testing.assert_array_equal(precision(unsure, target).value, want)


def test_an_object_that_is_nowhere_poisons_nothing():
    predicted, target = draw(0)
    target[1, 2, PRESENT] = 1
    target[1, 2, PLACE] = np.nan
    without = target.copy()
    without[1, 2, PLACE] = 1e6  # there, but too far from everything
    want = precision(predicted, without).value[1:]
    np.testing.assert_array_equal(precision(predicted, target).value[1:], want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_counted_in_float32(dtype):
    predicted, target = (jnp.asarray(x, dtype) for x in draw(0, sets=40))
    want = precision(predicted.astype(jnp.float32), target.astype(jnp.float32)).value
    made = precision(predicted, target).value
    assert made.dtype == jnp.float32
    np.testing.assert_array_equal(made, want)


def test_perfect_predictions_have_exactly_one():
    _, target = draw(0, sets=400)
    target[..., :2], target[..., 6:] = [1, 0], [1, 0]  # all alike: place decides
    made = precision(target, target).value
    np.testing.assert_array_equal(made, np.ones(len(THRESHOLDS)))


def test_masked_predictions_are_none():
    predicted, target = draw(0)
    options = {"properties": THINGS, "position": "place", "thresholds": THRESHOLDS}
    call = jax.jit(partial(metrics.average_precision, **options))
    mask = np.arange(5) < 3
    masked = call(predicted, target, prediction_mask=jnp.asarray([mask] * 6)).value
    want = [by_loops(predicted[:, :3], target, threshold) for threshold in THRESHOLDS]
    np.testing.assert_allclose(masked, want, rtol=1e-5)


def test_sets_without_rows_of_objects():
    predicted, target = draw(0)
    made = precision(predicted, target[:, :0])
    assert not np.any(made.valid)


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    predicted, target = draw(0)
    with pytest.raises(ValueError, match=r"`target` must have shape \(sets=6, "):
        metrics.average_precision(predicted, target[:3], properties=THINGS)
    with pytest.raises(ValueError, match=r"`predicted` must have .* size=8\)"):
        metrics.average_precision(predicted[..., :7], target, properties=THINGS)
    with pytest.raises(
        ValueError, match=r"`position` must be one of .*'width', 'place'"
    ):
        options = {"properties": THINGS, "position": "colour"}
        metrics.average_precision(predicted, target, **options)
