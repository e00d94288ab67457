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


def test_blocks_keep_their_distance_where_there_is_room():
    """Squares of 3 x 3, two pixels apart: of each two no rows, or no columns, meet."""
    options = {"block_size": (3, 3), "num_objects": (4, 4), "max_overlap": 0.0}
    near = {}
    for gap in (0, 2):
        centre = paint_many(300, gap=gap, image_size=(19, 23), **options).objects.centre
        apart = np.abs(centre[:, :, None] - centre[:, None]).max(axis=-1) - 3
        near[gap] = apart[:, *np.triu_indices(4, 1)].min()
    assert near == {0: 0, 2: 2}
    # Without room for that they do not overlap, unless the first is in the middle.
    options |= {"num_objects": (2, 2), "image_size": (3, 7)}
    crowd = paint_many(90, gap=2, **options)
    first = crowd.objects.centre[:, 0, 1] - 1.5
    painted = (crowd.segmentation > 0).sum(axis=(1, 2))
    assert set(first) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(painted, np.where(first == 2, 15, 18))


def test_colours_may_repeat():
    options = {"num_objects": (8, 12), "repeat_colours": True, "image_size": (64, 64)}
    objects = paint_many(200, **options).objects
    assert set(objects.present.sum(axis=1)) <= set(range(8, 13))
    colours = objects.colour[objects.present]
    np.testing.assert_allclose(np.bincount(colours) / colours.size, 1 / 6, atol=0.04)
    one = paint_many(5, colours=((1.0, 0.5, 0.0),), repeat_colours=True)
    seen = np.moveaxis(one.image, 1, -1)[one.segmentation > 0]
    np.testing.assert_allclose(np.unique(seen, axis=0), [(1.0, 0.5, 0.0)])


def test_a_palette_says_how_many_channels():
    scenes = paint_many(20, colours=blocks.GRAYS, noise=0.0)
    assert scenes.image.shape == (20, 1, 32, 32)
    shades = np.array(blocks.GRAYS)[:, 0]
    drawn = zip(scenes.image, scenes.segmentation, scenes.objects.colour)
    for image, labels, colour in drawn:
        seen = np.where(labels > 0, shades[colour][labels - 1], 0.5)
        np.testing.assert_allclose(image[0], seen, atol=1e-6)


def test_noise_may_be_on_everything():
    for background, level in (("gray", 0.5), ("black", 0.0)):
        options = {"background": background, "noise": 0.1}
        noisy = paint_many(100, noise_on="everything", **options)
        plain = paint_many(100, background=background, noise=0.0)
        np.testing.assert_array_equal(noisy.segmentation, plain.segmentation)
        off = np.moveaxis(noisy.image - plain.image, 1, -1)
        on_blocks = off[noisy.segmentation > 0]
        # Of colours at the ends of [0, 1] half the noise is cut off.
        assert abs(np.abs(on_blocks).mean() - 0.04) < 2e-3
        outside = off[noisy.segmentation == 0]
        assert abs(outside.std() - (0.1 if level else 0.058)) < 2e-3
        assert 0 <= noisy.image.min() and noisy.image.max() <= 1


def test_backgrounds_that_are_not_plain():
    size = {"image_size": (40, 56), "num_objects": (0, 1), "noise": 0.0}
    gradient = paint_many(60, background="gradient", **size)
    empty = gradient.segmentation.max(axis=(1, 2)) == 0
    images = gradient.image[empty]
    assert len(images) > 10
    np.testing.assert_allclose(images.min(axis=(1, 2, 3)), 0.25, atol=1e-5)
    np.testing.assert_allclose(images.max(axis=(1, 2, 3)), 0.75, atol=1e-5)
    for axis in (2, 3):  # a plane, whose steps are the same everywhere
        steps = np.diff(images, axis=axis)
        wanted = np.broadcast_to(steps[:, :1, :1, :1], steps.shape)
        np.testing.assert_allclose(steps, wanted, atol=1e-5)
    slopes = np.diff(images, axis=3)[:, 0, 0, 0]
    assert slopes.min() < 0 < slopes.max()  # in a direction of its own

    images = paint_many(60, background="stripes", **size).image[empty]
    assert set(np.unique(images.round(5))) == {np.float32(0.35), np.float32(0.65)}
    light = (images > 0.5).mean(axis=(1, 2, 3))
    assert np.all((light > 0.3) & (light < 0.7))
    assert len({image.tobytes() for image in images}) == len(images)


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
        ({"num_objects": (2, 7)}, "`repeat_colours=True` lets them"),
        ({"colours": (), "repeat_colours": True}, "got 0"),
        ({"colours": ((0.1,), (0.1, 0.2, 0.3)), "num_objects": (1, 2)}, "of 1 and 3"),
        ({"colours": ((), ()), "num_objects": (1, 2)}, "colours of 0"),
        ({"gap": -1}, "`gap` must not be negative, got -1"),
        ({"background": "white"}, '"gray", "black", "gradient", "stripes", got'),
        (
            {"noise_on": "blocks"},
            '`noise_on` must be one of "background", "everything"',
        ),
        ({"noise": -0.1}, "`noise` must not be"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        blocks.scene(jr.key(0), **options)
