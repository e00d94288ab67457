from functools import partial

import jax
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from eqx_slots.data import blocks, tetrominoes

from .helpers import seeds


def paint_many(number=200, seed=0, **options):
    scene = partial(tetrominoes.scene, **options)
    scenes = jax.jit(jax.vmap(scene))(jr.split(jr.key(seed), number))
    return jax.tree.map(np.asarray, scenes)


def redrawn(objects, cell, size):
    """The labels of a scene, square by square, from what its objects say."""
    labels = np.zeros(size, int)
    shapes = list(tetrominoes.SHAPES.values())
    for number, (shape, _, centre, box, present) in enumerate(zip(*objects), start=1):
        top, left = np.round(centre - box / 2).astype(int)
        for row, column in shapes[shape] if present else ():
            y, x = top + cell * row, left + cell * column
            square = labels[y : y + cell, x : x + cell]
            assert square.shape == (cell, cell)  # inside the image
            assert not square.any()  # nothing is covered
            square[:] = number
    return labels


@pytest.mark.parametrize(
    ("cell", "size", "options"),
    [(5, (35, 35), {}), (2, (20, 9), {"num_objects": (1, 4), "gap": 1})],
)
def test_the_truth_describes_the_picture(cell, size, options):
    scenes = paint_many(100, cell_size=cell, image_size=size, **options)
    palette = np.array([(0.0, 0.0, 0.0), *blocks.COLOURS.values()])
    for image, labels, objects in zip(
        scenes.image, scenes.segmentation, zip(*scenes.objects)
    ):
        want = redrawn(objects, cell, size)
        np.testing.assert_array_equal(labels, want)
        colour = np.concatenate([[0], 1 + objects[1]])
        np.testing.assert_array_equal(np.moveaxis(image, 0, 2), palette[colour[want]])
        for number, present in enumerate(objects[4], start=1):
            assert np.sum(want == number) == (4 * cell**2 if present else 0)


def test_all_shapes_there_are():
    """Free polyominoes of four squares, counted by growing one square at a time."""
    grown = {((0, 0),)}
    for _ in range(3):
        more = set()
        for cells in grown:
            for y, x in cells:
                for cell in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                    if cell not in cells:
                        all_cells = np.array(sorted((*cells, cell)))
                        all_cells -= all_cells.min(axis=0)
                        more.add(tuple(sorted(map(tuple, all_cells.tolist()))))
        grown = more
    assert set(tetrominoes.SHAPES.values()) == grown
    assert len(tetrominoes.SHAPES) == 19


def test_always_three_of_any_shape_colour_and_place():
    scenes = paint_many(3000, seed=1)
    pieces = scenes.objects
    assert pieces.present.all()
    assert all(np.all((scenes.segmentation == i).sum((1, 2)) == 100) for i in (1, 2, 3))
    for values, number in ((pieces.shape, 19), (pieces.colour, 6)):
        counts = np.bincount(values.ravel(), minlength=number)
        spread = 5 * (values.size / number) ** 0.5
        np.testing.assert_allclose(counts, values.size / number, atol=spread)
    corner = pieces.centre[:, 0] - pieces.size[:, 0] / 2
    room = 36 - pieces.size[:, 0]  # the first piece has the image to itself
    np.testing.assert_allclose(np.mean(corner / (room - 1), axis=0), 0.5, atol=0.03)
    assert np.all(corner.min(axis=0) == 0)
    assert np.any(corner % 5)


def test_pieces_apart():
    for gap in (0, 2):
        apart = []
        for labels in paint_many(200, gap=gap).segmentation:
            places = [np.argwhere(labels == i) for i in (1, 2, 3)]
            for i, j in ((0, 1), (0, 2), (1, 2)):
                steps = np.abs(places[i][:, None] - places[j][None]).max(-1)
                apart.append(steps.min() - 1)
        assert min(apart) == gap


PAINT = jax.jit(tetrominoes.scene)
PAINT_TWO = jax.jit(jax.vmap(tetrominoes.scene))


@given(seed=seeds)
def test_the_same_key_paints_the_same_scene(seed):
    one, other = PAINT(jr.key(seed)), PAINT(jr.key(seed))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    keys = jr.split(jr.key(seed), 2)
    mapped, alone = PAINT_TWO(keys), PAINT(keys[1])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), mapped, alone)


def test_colours_of_ones_own():
    options = {"colours": blocks.GRAYS, "repeat_colours": False}
    scenes = paint_many(50, **options)
    assert scenes.image.shape == (50, 1, 35, 35)
    assert all(len(set(colour)) == 3 for colour in scenes.objects.colour)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (35, 19)}, "20 x 20 at least"),
        ({"num_objects": (4, 3)}, "0 <= fewest <= most"),
        ({"gap": -1}, "`gap` must not be negative"),
        ({"cell_size": 0}, "`cell_size` must be"),
        ({"colours": ()}, "got 0"),
        ({"num_objects": (3, 7), "repeat_colours": False}, "lets them"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        tetrominoes.scene(jr.key(0), **options)
