import colorsys
from functools import partial

import jax
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from eqx_slots.data import sprites

from .helpers import seeds


def paint_many(number=200, seed=0, **options):
    scene = partial(sprites.scene, **options)
    scenes = jax.jit(jax.vmap(scene))(jr.split(jr.key(seed), number))
    return jax.tree.map(np.asarray, scenes)


def inside(shape, centre, size, orientation, y, x):
    """Whether a point lies in a sprite, and how far from its edge it is at least.

    Turned by complex numbers; of the heart the curve in polar coordinates is known at
    every angle as the one positive root of a polynomial.
    """
    point = complex(x - centre[1], centre[0] - y) * np.exp(-1j * orientation) / size
    if shape == 0:
        margin = 0.5 - max(abs(point.real), abs(point.imag))
    elif shape == 1:  # of area one: half axes in the ratio 3 : 2
        long = (1.5 / np.pi) ** 0.5
        margin = 1 - abs(complex(point.real / long, 1.5 * point.imag / long))
    else:
        point = point * 3.662**0.5 + 0.2935j
        cos, sin = point.real / abs(point), point.imag / abs(point)
        # r² - 1 = r^(5/3) (cos² sin³)^(1/3), with s = r^(1/3)
        lobe = np.cbrt(cos**2 * sin**3)
        roots = np.roots([1, -lobe, 0, 0, 0, 0, -1])
        radius = max(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0) ** 3
        margin = radius - abs(point)
    return margin > 0, abs(margin)


@pytest.mark.parametrize("kind", sprites.NUM_OBJECTS)
def test_the_truth_describes_the_picture(kind):
    scenes = paint_many(12, kind=kind, image_size=(48, 40))
    places = np.random.default_rng(0).integers([0, 0], [48, 40], (300, 2))
    for image, labels, objects in zip(
        scenes.image, scenes.segmentation, zip(*scenes.objects)
    ):
        shape, colour, centre, size, angle, visible, present = objects
        assert list(present) == [(labels == i).any() for i in range(1, len(size) + 1)]
        assert list(visible) == [(labels == i).sum() for i in range(1, len(size) + 1)]
        assert len(np.unique(image[:, labels == 0], axis=1).T) == 1
        for number in 1 + np.flatnonzero(present):
            pixels = image[:, labels == number].T
            want = np.broadcast_to(colour[number - 1], pixels.shape)
            np.testing.assert_allclose(pixels, want, atol=1e-6)
        for y, x in places:
            want, unsure = 0, False
            for i in np.flatnonzero(size):
                is_in, margin = inside(
                    shape[i], centre[i], size[i], angle[i], y + 0.5, x + 0.5
                )
                want, unsure = (1 + i if is_in else want), unsure or margin < 1e-4
            assert unsure or labels[y, x] == want


def test_numbers_and_ranges():
    for kind, (fewest, most) in sprites.NUM_OBJECTS.items():
        scenes = paint_many(600, kind=kind)
        objects = scenes.objects
        exists = objects.size > 0
        number = exists.sum(1)
        counts = np.bincount(number, minlength=most + 1)[fewest:]
        assert counts.sum() == 600  # and no others
        even = 600 / len(counts)
        np.testing.assert_allclose(counts, even, atol=5 * even**0.5)
        shapes = np.bincount(objects.shape[exists], minlength=3)
        even = exists.sum() / 3
        np.testing.assert_allclose(shapes, even, atol=5 * even**0.5)
        assert 10 <= objects.size[exists].min() < 10.3 < 19.7 < objects.size.max() <= 20
        assert 6.2 < objects.orientation.max() <= 2 * np.pi + 1e-6
        assert np.all(objects.centre[exists] > 7)
        assert np.all(objects.centre[exists] < 57)
        hidden = exists & ~objects.present
        assert 0 < hidden.sum() < 0.05 * exists.sum()  # later ones cover earlier ones
        absent = [np.all(x[~exists] == 0) for x in objects]
        assert all(absent)
        if kind == "colored_on_grayscale":
            for colour in objects.colour[exists][:200]:
                _, saturation, value = colorsys.rgb_to_hsv(*colour.tolist())
                assert 0.5 - 1e-6 <= min(saturation, value)
            hues = [colorsys.rgb_to_hsv(*c.tolist())[0] for c in objects.colour[exists]]
            spread = np.bincount((6 * np.array(hues)).astype(int) % 6, minlength=6)
            even = len(hues) / 6
            np.testing.assert_allclose(spread, even, atol=5 * even**0.5)
            behind = scenes.image[scenes.segmentation[:, None].repeat(3, 1) == 0]
            assert behind.min() < 0.05
            assert behind.max() > 0.95


def test_equal_areas():
    """A shape of size s covers s² pixels, whatever its angle."""
    scenes = paint_many(400, num_objects=(1, 1), sprite_size=(24.0, 24.0))
    for shape in range(3):
        pixels = scenes.objects.visible[scenes.objects.shape == shape]
        np.testing.assert_allclose(pixels.mean(), 24**2, rtol=2e-3)


PAINT = jax.jit(sprites.scene)
PAINT_TWO = jax.jit(jax.vmap(sprites.scene))


@given(seed=seeds)
def test_the_same_key_paints_the_same_scene(seed):
    one, other = PAINT(jr.key(seed)), PAINT(jr.key(seed))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    mapped, alone = (
        PAINT_TWO(jr.split(jr.key(seed), 2)),
        PAINT(jr.split(jr.key(seed))[1]),
    )
    # Compiled otherwise, a middle of a pixel may fall on the other side of an edge.
    assert np.mean(mapped.segmentation[1] != alone.segmentation) < 1e-3
    np.testing.assert_allclose(
        mapped.objects.centre[1], alone.objects.centre, rtol=1e-5
    )
    np.testing.assert_allclose(
        mapped.objects.colour[1], alone.objects.colour, rtol=1e-5
    )


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "coloured"}, "`kind` must be one of"),
        ({"num_objects": (4, 3)}, "0 <= fewest <= most"),
        ({"num_objects": (0, 0)}, "`num_objects` must be"),
        ({"sprite_size": (0.0, 5.0)}, "0 < least"),
        ({"sprite_size": (5.0, 50.0)}, "greatest <= 45.25"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        sprites.scene(jr.key(0), **options)
