"""Pictures cut, stretched or padded to one size, against a slow resize."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from eqx_slots.data import pictures

from .test_pictures import COLOURS, DEEP


def slow_triangle(values, size, start, scale):
    """Along the first axis: each new pixel is a mean, weighted by a triangle."""
    made = np.zeros((size, *values.shape[1:]))
    for i in range(size):
        middle, total = start + (i + 0.5) * scale, 0
        for j, value in enumerate(values):
            weight = max(0, 1 - abs(j + 0.5 - middle) / max(scale, 1))
            made[i] += weight * value
            total += weight
        made[i] /= total
    return made


def slow_resize(array, height, width, box=None):
    """Of what lies in a box: left and upper corner, and the sides of a new pixel."""
    wide, high = array.shape[1] / width, array.shape[0] / height
    left, top, across, down = box or (0, 0, wide, high)
    rows = slow_triangle(array.astype(float), height, top, down)
    columns = slow_triangle(np.swapaxes(rows, 0, 1), width, left, across)
    return np.swapaxes(columns, 0, 1)


def padded(size):
    inner, whole = slow_resize(COLOURS, 6, 8), np.zeros((*size, 3))
    whole[(size[0] - 6) // 2 :, (size[1] - 8) // 2 :][:6, :8] = inner
    return whole


@pytest.mark.parametrize(
    ("fit", "size", "want"),
    [
        ("stretch", (6, 5), slow_resize(COLOURS, 6, 5)),
        ("crop", (6, 6), slow_resize(COLOURS, 6, 6, (2, 0, 13 / 6, 13 / 6))),
        (
            "crop",
            (3, 8),
            slow_resize(COLOURS, 3, 8, (0, (13 - 51 / 8) / 2, 17 / 8, 17 / 8)),
        ),
        ("crop", (13, 17), COLOURS),
        ("pad", (10, 8), padded((10, 8))),
        ("pad", (15, 20), np.pad(COLOURS, ((1, 1), (1, 2), (0, 0)))),
    ],
)
def test_ways_to_fit(tmp_path, fit, size, want):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    read_here = partial(pictures.folder, tmp_path, cache=tmp_path / ".cache")
    got = read_here(image_size=size, fit=fit).pixels[0]
    np.testing.assert_allclose(got, want, atol=1.01)


def test_a_side_is_a_square(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    options = {"fit": "stretch", "cache": tmp_path / ".cache"}
    source = pictures.folder(tmp_path, image_size=6, **options)
    assert source[0].image.shape == (1, 6, 6)
    np.testing.assert_allclose(
        source.pixels[0, ..., 0], slow_resize(DEEP, 6, 6), atol=0.6
    )
