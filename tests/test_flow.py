import colorsys
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots import data


def wheel(flow):
    """SAVi's colours, pixel by pixel, by Python's own conversion."""
    _, height, width = flow.shape
    made = np.zeros((3, height, width))
    for y in range(height):
        for x in range(width):
            first, second = flow[:, y, x].astype(float)
            hue = (math.atan2(second, first) / math.pi + 1) / 2
            length = 50 * math.hypot(first, second) / math.hypot(height, width)
            made[:, y, x] = colorsys.hsv_to_rgb(hue, min(max(length, 0), 1), 1)
    return made


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_the_colour_wheel_is_that_of_savi(scale):
    flow = scale * np.random.default_rng(0).normal(size=(2, 17, 23))
    flow[:, :3] = np.array([[0, 1, -1], [0, 0, 1]])[:, :, None]  # and rest, and axes
    made = data.flow_to_rgb(jnp.asarray(flow, jnp.float32))
    np.testing.assert_allclose(made, wheel(flow.astype(np.float32)), atol=2e-6)
    assert made.min() >= 0
    assert made.max() <= 1


def test_a_clip_is_mapped():
    flow = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 5, 7)), jnp.float32)
    clip = jax.jit(jax.vmap(data.flow_to_rgb))(flow)
    for made, frame in zip(clip, flow):
        np.testing.assert_allclose(made, data.flow_to_rgb(frame), atol=1e-6)


def test_boxes_are_around_what_is_seen():
    segmentation = jnp.array([[0, 2, 2, 0, 0], [0, 2, 1, 0, 4], [0, 0, 0, 0, 4]])
    got = data.boxes(segmentation, 5) * jnp.array([[3.0, 5.0, 3.0, 5.0]])
    want = [[1, 2, 2, 3], [0, 1, 2, 3], [0] * 4, [1, 4, 3, 5], [0] * 4]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    with pytest.raises(ValueError, match=r"did you mean `jax.vmap\(flow_to_rgb\)"):
        data.flow_to_rgb(jnp.zeros((3, 2, 5, 7)))
    with pytest.raises(ValueError, match=r"jnp\.moveaxis"):
        data.flow_to_rgb(jnp.zeros((5, 7, 2)))
    with pytest.raises(ValueError, match="`flow` must be floating point"):
        data.flow_to_rgb(jnp.zeros((2, 5, 7), int))
    with pytest.raises(ValueError, match="A batch is mapped by the caller"):
        data.boxes(jnp.zeros((3, 5, 7), int), 2)
    with pytest.raises(ValueError, match="`num_objects` must be a positive"):
        data.boxes(jnp.zeros((5, 7), int), 0)
    with pytest.raises(ValueError, match=r"integer labels, got bool; .*astype\(int\)"):
        data.boxes(jnp.zeros((5, 7), bool), 2)
