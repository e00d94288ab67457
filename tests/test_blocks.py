from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from eqx_slots.data import blocks

from .helpers import seeds


def paint_many(number=200, seed=0, **options):
    scene = partial(blocks.scene, **options)
    scenes = jax.jit(jax.vmap(scene))(jr.split(jr.key(seed), number))
    return jax.tree.map(np.asarray, scenes)


def test_the_truth_describes_the_picture():
    """Paint each scene again from its objects alone, pixel by pixel."""
    scenes = paint_many(50)
    palette = np.array(list(blocks.COLOURS.values()))
    for image, segmentation, objects in zip(
        scenes.image, scenes.segmentation, zip(*scenes.objects)
    ):
        labels = np.zeros((32, 32), int)
        for i, (colour, centre, size, present) in enumerate(zip(*objects)):
            low, high = np.round(centre - size / 2), np.round(centre + size / 2)
            for y in range(int(low[0]), int(high[0])):
                for x in range(int(low[1]), int(high[1])):
                    labels[y, x] = i + 1
            np.testing.assert_array_equal(
                image[:, segmentation == i + 1],
                np.repeat(palette[colour][:, None], (segmentation == i + 1).sum(), 1),
            )
            assert present == np.any(segmentation == i + 1)
        np.testing.assert_array_equal(labels, segmentation)


def test_defaults_keep_their_promises():
    scenes = paint_many(1000)
    objects = scenes.objects
    count = objects.present.sum(axis=1)
    assert set(count) == {2, 3, 4}
    size = objects.size[objects.present]
    assert size.min() == 5
    assert size.max() == 10
    areas = objects.size.prod(axis=-1)
    for i in range(4):
        visible = (scenes.segmentation == i + 1).sum(axis=(1, 2))
        here = objects.present[:, i]
        assert np.all(visible[here] >= 0.25 * areas[here, i])
        assert np.all(objects.centre[~here, i] == 0)
        assert np.all(objects.size[~here, i] == 0)
    covered = sum(areas[:, i] for i in range(4)) > (scenes.segmentation > 0).sum((1, 2))
    assert 0.1 < covered.mean() < 0.9  # blocks do overlap, but not always


def test_no_colour_comes_twice_and_all_come():
    objects = paint_many(500).objects
    for colour, present in zip(objects.colour, objects.present):
        assert len(set(colour[present])) == present.sum()
    share = np.bincount(objects.colour[objects.present]) / objects.present.sum()
    np.testing.assert_allclose(share, np.full(6, 1 / 6), atol=0.04)


def test_gray_is_noisy_and_black_is_black():
    gray = paint_many(50)
    outside = gray.segmentation == 0
    pixels = np.moveaxis(gray.image, 1, -1)[outside]
    assert abs(pixels.mean() - 0.5) < 1e-3
    assert abs(pixels.std() - 0.02) < 1e-3
    loud = paint_many(5, noise=2.0).image
    assert loud.min() == 0
    assert loud.max() == 1
    black = paint_many(50, background="black")
    assert np.all(np.moveaxis(black.image, 1, -1)[black.segmentation == 0] == 0)
    np.testing.assert_array_equal(black.segmentation, gray.segmentation)


@pytest.mark.parametrize("max_overlap", [0.0, 1.0])
def test_overlap_is_chosen(max_overlap):
    scenes = paint_many(
        500, max_overlap=max_overlap, num_objects=(3, 3), block_size=(3, 9)
    )
    areas = scenes.objects.size.prod(axis=-1).sum(axis=1)
    hidden = areas - (scenes.segmentation > 0).sum(axis=(1, 2))
    assert np.all(hidden >= 0)
    assert np.any(hidden > 0) == (max_overlap == 1.0)
    # Where blocks fall anywhere, some are hidden entirely and say so.
    assert np.all(scenes.objects.present) == (max_overlap == 0.0)


def covered_share(corner, size, below, image_size):
    """The largest share of any block below that a block at `corner` would cover."""
    canvas = np.zeros(image_size, bool)
    canvas[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = True
    return max(
        [canvas[y : y + h, x : x + w].sum() / (h * w) for (y, x), (h, w) in below],
        default=0.0,
    )


@pytest.mark.parametrize("max_overlap", [0.0, 0.25])
def test_blocks_cover_no_more_than_allowed_or_else_as_little_as_they_can(max_overlap):
    """A crowd on few pixels, against every place that each block could have had."""
    height, width = 6, 9
    scenes = paint_many(
        30,
        image_size=(height, width),
        num_objects=(4, 4),
        block_size=(3, 5),
        max_overlap=max_overlap,
    )
    limits = []
    for centre, size in zip(scenes.objects.centre, scenes.objects.size.astype(int)):
        corner = np.round(centre - size / 2).astype(int)
        for i in range(4):
            below = list(zip(corner[:i], size[:i]))
            h, w = size[i]
            least = min(
                covered_share((y, x), size[i], below, (height, width))
                for y in range(height - h + 1)
                for x in range(width - w + 1)
            )
            got = covered_share(corner[i], size[i], below, (height, width))
            limits.append(least > max_overlap)
            assert got <= max(max_overlap, least) + 1e-6
    assert any(limits)
    assert not all(limits)


def test_places_are_uniform():
    scenes = paint_many(4000, image_size=(4, 5), num_objects=(1, 1), block_size=(2, 2))
    corner = scenes.objects.centre[:, 0] - 1
    counts = np.zeros((3, 4))
    np.add.at(counts, tuple(corner.astype(int).T), 1)
    np.testing.assert_allclose(counts / 4000, np.full((3, 4), 1 / 12), atol=0.02)


@given(seed=seeds)
def test_same_key_same_scene(seed):
    scene = jax.jit(blocks.scene)
    first, again = scene(jr.key(seed)), scene(jr.key(seed))
    assert eqx.tree_equal(first, again)
    other = scene(jr.key(seed + 1))
    assert not np.array_equal(first.image, other.image)


def test_sizes_and_palette_are_chosen():
    scenes = paint_many(
        20,
        image_size=(16, 20),
        num_objects=(0, 2),
        block_size=(3, 3),
        colours=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    )
    assert scenes.image.shape == (20, 3, 16, 20)
    assert set(scenes.objects.present.sum(axis=1)) == {0, 1, 2}
    seen = np.moveaxis(scenes.image, 1, -1)[scenes.segmentation > 0]
    np.testing.assert_allclose(
        np.unique(seen, axis=0), [(0.1, 0.2, 0.3), (0.4, 0.5, 0.6)], rtol=1e-6
    )


def test_one_trace_paints_a_whole_run():
    paint = jax.jit(eqx.debug.assert_max_traces(blocks.scene, max_traces=1))
    for step in range(3):
        paint(jr.fold_in(jr.key(0), jnp.asarray(step)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (0, 32)}, "`image_size` must be"),
        ({"block_size": (0, 5)}, "`block_size` must be"),
        ({"num_objects": (0, 0)}, "`num_objects` must be"),
        ({"num_objects": (3, 2)}, "0 <= fewest <= most"),
        ({"num_objects": (2, 7)}, "at least 7"),
        ({"block_size": (5, 33)}, "no longer than the image"),
        ({"block_size": (6, 5)}, "shortest <= longest"),
        ({"max_overlap": 1.5}, "`max_overlap` must lie"),
        ({"background": "white"}, "`background` must be"),
        ({"noise": -0.1}, "`noise` must not be"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        blocks.scene(jr.key(0), **options)
