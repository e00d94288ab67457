from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data import solids
from eqx_slots.data.solids._arrange import CAMERA, LAMPS
from eqx_slots.properties import CLEVR


SIZE = (32, 40)


@pytest.fixture(scope="module")
def scenes():
    paint = jax.jit(jax.vmap(partial(solids.scene, image_size=SIZE)))
    return jax.tree.map(np.asarray, paint(jr.split(jr.key(0), 150)))


def one_of(scenes, index):
    return jax.tree.map(lambda x: x[index], scenes)


def is_inside(points, objects, index):
    """Whether points `[... 3]` lie in an object, by what the object is."""
    radius = solids.SIZES[objects.size[index]]
    x, y, z = np.moveaxis(points - objects.coordinates[index], -1, 0)
    if objects.shape[index] == 1:
        return x**2 + y**2 + z**2 < radius**2
    if objects.shape[index] == 2:
        return (x**2 + y**2 < radius**2) & (np.abs(z) < radius)
    turned = (x + 1j * y) * np.exp(-1j * objects.rotation[index])
    half = radius / 2**0.5
    return np.max(np.abs([turned.real, turned.imag, z]), axis=0) < half


def walked(objects, view, size, step=0.01):
    """Label and depth of each pixel, walking along its ray until inside something."""
    camera = view.camera.astype(np.float64)
    ahead = -camera / np.linalg.norm(camera)
    right = np.cross(ahead, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    half = np.tan(np.radians(view.field_of_view) / 2) / min(size)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    rays = (
        ahead
        + ((2 * x - size[1]) * half)[..., None] * right
        + ((2 * y - size[0]) * half)[..., None] * down
    )
    depth = -camera[2] / rays[..., 2]
    label = np.zeros(size, int)
    for start in np.arange(5, 20, step):
        points = camera + start * rays
        for index in np.flatnonzero(objects.present):
            met = is_inside(points, objects, index) & (label == 0) & (start < depth)
            label[met], depth[met] = 1 + index, start
    return label, depth


def test_what_a_ray_meets(scenes):
    for index in range(4):
        scene = one_of(scenes, index)
        label, depth = walked(scene.objects, scene.view, SIZE)
        differ = label != scene.segmentation
        assert differ.mean() < 0.01  # rays that graze an edge
        assert len(np.unique(label)) > 2
        assert scene.segmentation.any()
        got, want = scene.depth[~differ], depth[~differ]
        np.testing.assert_allclose(got, want, atol=0.012)


def test_what_is_there_is_seen(scenes):
    objects = scenes.objects
    numbers = 1 + np.arange(6)
    pixels = (scenes.segmentation[:, None] == numbers[:, None, None]).sum((2, 3))
    np.testing.assert_array_equal(objects.visible, pixels)
    np.testing.assert_array_equal(objects.present, pixels > 0)
    count = objects.present.sum(1)
    assert np.bincount(count, minlength=7)[3:].sum() == 150
    assert set(count) == {3, 4, 5, 6}
    assert objects.visible[objects.present].min() >= np.ceil(0.0026 * 32 * 40)
    for x in objects:
        assert np.all(x[~objects.present] == 0)


def test_the_rule_of_places(scenes):
    radius = np.asarray(solids.SIZES)[scenes.objects.size]
    place = scenes.objects.coordinates[..., :2].astype(np.float64)
    gaps, margins = [], []
    for index in range(150):
        x, y = scenes.view.camera[index, :2] / np.linalg.norm(
            scenes.view.camera[index, :2]
        )
        there = np.flatnonzero(scenes.objects.present[index])
        for i in there:
            for j in there[there > i]:
                apart = place[index, i] - place[index, j]
                gap = np.hypot(*apart) - radius[index, i] - radius[index, j]
                gaps.append(gap)
                margins += [abs(apart @ [x, y]), abs(apart @ [-y, x])]
    assert 0.25 - 1e-5 <= min(gaps) < 0.3
    assert 0.4 - 1e-5 <= min(margins) < 0.41
    there = place[scenes.objects.present]
    assert np.all(np.abs(there) <= 3)
    assert np.all(np.abs(there).max(0) > 2.8)


def test_kinds_and_views_are_uniform(scenes):
    there = scenes.objects.present
    for name in ("size", "material", "shape", "colour"):
        labels = len(CLEVR.group(name).labels)
        counts = np.bincount(getattr(scenes.objects, name)[there], minlength=labels)
        even = there.sum() / labels
        # Small ones are less often visible enough, hence the room.
        np.testing.assert_allclose(counts, even, atol=6 * even**0.5)
    for got, middle, reach in (
        (scenes.view.camera, CAMERA, 0.5),
        (scenes.view.lamps, LAMPS, 1.0),
    ):
        moved = got - np.array(middle)
        assert np.all(np.abs(moved) <= reach + 1e-5)
        assert np.all(moved.max(0) > 0.9 * reach)
        assert np.all(moved.min(0) < -0.9 * reach)


def test_where_objects_stand(scenes):
    objects = scenes.objects
    there, is_cube = objects.present, objects.shape == 0
    radius = np.asarray(solids.SIZES)[objects.size]
    lowest = objects.coordinates[..., 2] - np.where(is_cube, 0.5**0.5, 1) * radius
    np.testing.assert_allclose(lowest[there], 0, atol=1e-6)


def test_centres_are_in_the_middle(scenes):
    """Of a large object that is seen whole, the mean of its pixels is near."""
    look = jax.jit(partial(solids.render, image_size=SIZE))
    found = 0
    for index in range(30):
        objects, view = one_of(scenes, index).objects, one_of(scenes, index).view
        for i in np.flatnonzero(objects.present & (objects.size == 1)):
            alone = objects._replace(present=np.arange(6) == i)
            pixels = np.argwhere(look(alone, view).segmentation == 1 + i)
            if np.all((pixels > 0) & (pixels < np.array(SIZE) - 1)):
                found += 1
                middle = pixels.mean(0) + 0.5
                np.testing.assert_allclose(objects.centre[i], middle, atol=0.8)
    assert found > 10


def test_drawn_again(scenes):
    render = jax.jit(partial(solids.render, image_size=SIZE))
    for index in range(3):
        scene = one_of(scenes, index)
        again = render(scene.objects, scene.view)
        assert np.mean(again.segmentation != scene.segmentation) < 2e-3
        assert np.mean(np.abs(again.image - scene.image) > 1e-3) < 2e-3
    key = jr.split(jr.key(0), 150)[0]
    alone = jax.jit(partial(solids.scene, image_size=SIZE))(key)
    first = one_of(scenes, 0)
    assert np.mean(alone.segmentation != first.segmentation) < 2e-3  # vmap = loop
    assert np.mean(np.abs(alone.image - first.image) > 1e-3) < 2e-3
    objects, view = jax.jit(partial(solids.arrange, image_size=SIZE))(key)
    np.testing.assert_allclose(
        objects.coordinates, first.objects.coordinates, atol=1e-6
    )
    np.testing.assert_allclose(view.lamps, first.view.lamps, atol=1e-6)


def within(area):
    """The pixels of an area whose neighbours are too."""
    moved = [np.roll(area, move, axis) for move in (-1, 1) for axis in (0, 1)]
    return area & np.all(moved, axis=0)


def standing(shape, material, place=(0.0, 0.0)):
    """One large red object, under the lamps as they stand."""
    radius = 0.7 * (0.5**0.5 if shape == 0 else 1)
    one = lambda x: jnp.array([x], jnp.int32)
    objects = solids.Solids(
        coordinates=jnp.array([[*place, radius]]),
        size=one(1),
        material=one(material),
        shape=one(shape),
        colour=one(1),
        rotation=jnp.zeros(1),
        centre=jnp.zeros((1, 2)),
        visible=one(0),
        present=jnp.ones(1, bool),
    )
    view = solids.View(jnp.array(CAMERA), jnp.array(LAMPS), jnp.asarray(31.0))
    return objects, view


def test_light_and_shadow():
    render = jax.jit(partial(solids.render, image_size=(48, 48)))
    objects, view = standing(shape=1, material=0)
    nothing = render(objects._replace(present=jnp.zeros(1, bool)), view)
    ball = render(objects, view)
    assert not nothing.segmentation.any()
    ground = np.asarray(ball.segmentation) == 0
    darker = np.asarray(nothing.image - ball.image)
    inner = within(ground)
    assert darker[:, inner].min() > -1e-5  # an object takes light and gives none
    shadow = inner & (darker[0] > 0.05)
    assert 20 < shadow.sum() < 0.2 * ground.sum()
    # The key lamp stands at the right of the camera's view: its shadow falls left.
    assert np.argwhere(shadow)[:, 1].mean() < ball.objects.centre[0, 1] - 3
    values = darker[0][inner & (darker[0] > 0.01)]
    assert len(np.unique(np.round(values, 2))) > 8  # soft edges

    # Without the key lamp all is darker, but what lay in its full shadow.
    away = view._replace(lamps=view.lamps.at[0].set(jnp.array([0.0, 0.0, -50.0])))
    lost = np.asarray(ball.image - render(objects, away).image)[0]
    assert lost[ground].min() > -0.01
    assert np.sum(lost[shadow] < 1e-3) > 5
    assert np.mean(lost[inner & ~shadow] < 1e-3) < 0.01

    red, green, blue = np.asarray(ball.image)[:, ~ground]
    assert np.median(red / green) > 2
    np.testing.assert_allclose(green, blue, atol=1e-5)  # (173, 35, 35)


def test_metal_mirrors_what_is_beside_it():
    """A gray cylinder turns reddish where it mirrors a red ball; rubber stays gray."""
    render = jax.jit(partial(solids.render, image_size=(64, 64)))
    one, view = standing(shape=2, material=1)
    one = one._replace(colour=jnp.zeros(1, jnp.int32))
    beside, _ = standing(shape=1, material=0, place=(1.5, 1.2))
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), one, beside)
    for material, mirrors in ((1, True), (0, False)):
        scene = render(
            both._replace(material=jnp.array([material, 0], jnp.int32)), view
        )
        seen = within(np.asarray(scene.segmentation) == 1)
        red, green, _ = np.asarray(scene.image)[:, seen]
        assert np.sum(red - green > 0.05) > 5 if mirrors else np.all(red == green)


def test_the_rule_gives_way_and_not_the_number():
    crowd = jax.jit(
        partial(solids.scene, image_size=(16, 16), num_objects=(9, 9), min_visible=0.2)
    )
    assert 1 <= crowd(jr.key(0)).objects.present.sum() <= 9
    arrange = jax.jit(
        partial(
            solids.arrange, image_size=(16, 16), num_objects=(9, 9), min_visible=0.2
        )
    )
    assert arrange(jr.key(0))[0].present.sum() == 9


def test_elements(scenes):
    scene = jax.tree.map(jnp.asarray, one_of(scenes, 0))
    rows = solids.elements(scene)
    known = CLEVR.decode(rows)
    there = scene.objects.present
    for name in ("coordinates", "size", "material", "shape", "colour"):
        got, want = known[name][there], getattr(scene.objects, name)[there]
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.all(rows[~there] == 0)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (0, 32)}, "`image_size` must be"),
        ({"num_objects": (4, 3)}, "0 <= fewest <= most"),
        ({"min_visible": 1.0}, "`min_visible` must lie in"),
        ({"field_of_view": 0.0}, "between 0 and 120 degrees"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        solids.scene(jr.key(0), **options)


@pytest.mark.usefixtures("as_users_run")
def test_a_view_of_another_shape():
    objects, view = standing(1, 1)
    with pytest.raises(ValueError, match="lamps=3, xyz=3"):
        solids.render(objects, view._replace(lamps=jnp.zeros((2, 3))), (16, 16))
