import itertools
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data import solids
from eqx_slots.data._rays import nearest
from eqx_slots.data.solids._bodies import bodies_of
from eqx_slots.data.solids._video import _step, _STEPS, moved, was_at

from .clips import boxes_of, visible_of, was_at as pixel_was_at
from .test_solids import standing


SIZE, FRAMES = (32, 40), 4
OPTIONS = {"image_size": SIZE, "num_frames": FRAMES, "speed": (0.1, 0.4)}
RADII = np.array(solids.SIZES)


@pytest.fixture(scope="module", params=[0.0, 8.0])
def videos(request):
    video = partial(solids.video, orbit=request.param, **OPTIONS)
    made = jax.jit(jax.vmap(video))(jr.split(jr.key(0), 12))
    return request.param, jax.tree.map(np.asarray, made)


def part(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def axes_of(view):
    camera = view.camera.astype(np.float64)
    ahead = -camera / np.linalg.norm(camera)
    right = np.cross(ahead, [0, 0, 1])
    right /= np.linalg.norm(right)
    return camera, right, np.cross(ahead, right), ahead


def rays(places, view):
    """From the camera through places of the image, one step along its axis."""
    _, right, down, ahead = axes_of(view)
    half = np.tan(np.radians(float(view.field_of_view)) / 2) / min(SIZE)
    aside = (2 * places - np.array(SIZE)) * half
    return ahead + aside[..., :1] * down + aside[..., 1:] * right


def seen_at(points, view):
    """Where points are in the image."""
    camera, right, down, ahead = axes_of(view)
    half = np.tan(np.radians(float(view.field_of_view)) / 2) / min(SIZE)
    away = points - camera
    depth = half * (away @ ahead)
    flat = np.stack([away @ down, away @ right], axis=-1) / depth[..., None]
    return (flat + np.array(SIZE)) / 2


def turned_back(points, now, before, index):
    """Points of a body where they were: by matrices."""
    middle, old = (x.coordinates[index].astype(np.float64) for x in (now, before))
    way = middle - old
    if now.shape[index] == 1:
        radius, length = RADII[now.size[index]], np.linalg.norm(way)
        spin = np.cross([0, 0, 1], way) / max(length, 1e-12)  # of what rolls that way
        angle = -length / radius
        k = np.array(
            [[0, -spin[2], spin[1]], [spin[2], 0, -spin[0]], [-spin[1], spin[0], 0]]
        )
        matrix = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    else:
        angle = float(before.rotation[index]) - float(now.rotation[index])
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return (points - middle) @ matrix.T + old


def test_flow_is_that_of_the_surfaces(videos):
    """Every pixel's point, moved with its body and seen by the camera before."""
    orbit, made = videos
    assert np.all(made.flow[:, 0] == 0)
    pixels = np.moveaxis(np.indices(SIZE), 0, -1) + 0.5
    for video, t in itertools.product(range(12), range(1, FRAMES)):
        view, old = part(made.view, video, t), part(made.view, video, t - 1)
        now, before = part(made.objects, video, t), part(made.objects, video, t - 1)
        depth = made.depth[video, t].astype(np.float64)
        points = view.camera + depth[..., None] * rays(pixels, view)
        labels = made.segmentation[video, t]
        was = points.copy()
        for label in np.unique(labels[labels > 0]):
            here = labels == label
            was[here] = turned_back(points[here], now, before, label - 1)
        want = np.moveaxis(seen_at(was, old) - seen_at(points, view), -1, 0)
        np.testing.assert_allclose(made.flow[video, t], want, atol=5e-3)
        if not orbit:
            assert np.all(made.flow[video, t][:, labels == 0] == 0)


def test_there_the_same_surface_was_seen(videos):
    """A ray of the frame before, through where the flow leads: where it meets the same
    body, it meets it where the point of that body was, and most do."""
    _, made = videos
    look = jax.jit(
        lambda objects, camera, ray: nearest(bodies_of(objects), camera, ray)
    )
    same, off = [], []
    pixels = np.moveaxis(np.indices(SIZE), 0, -1) + 0.5
    for video, t in itertools.product(range(12), range(1, FRAMES)):
        view, old = part(made.view, video, t), part(made.view, video, t - 1)
        now, before = part(made.objects, video, t), part(made.objects, video, t - 1)
        labels = made.segmentation[video, t]
        places = pixel_was_at(made.flow[video])[t]
        through = rays(places, old)
        depth, met = look(
            before._replace(present=before.coordinates[:, 2] > 0),
            tuple(jnp.asarray(old.camera)),
            tuple(jnp.asarray(through.reshape(-1, 3).T, jnp.float32)),
        )
        depth, met = np.asarray(depth).reshape(SIZE), np.asarray(met).reshape(SIZE)
        points = view.camera + made.depth[video, t][..., None] * rays(pixels, view)
        for label in np.unique(labels[labels > 0]):
            here = (labels == label) & (now.shape[label - 1] != 1)
            was = turned_back(points[here], now, before, label - 1)
            found = old.camera + depth[here][:, None] * through[here]
            agree = met[here] == label
            same.append(agree.mean() if here.any() else 1)
            off += list(np.linalg.norm(found - was, axis=1)[agree])
    assert np.mean(same) > 0.9
    # A pixel is a tenth to a fifth of a unit here: 0.05 pixels.
    assert np.mean(np.array(off) < 5e-3) > 0.97


def test_a_ball_rolls_and_does_not_slide():
    """What touches the ground rests, and the top is twice as fast as the middle."""
    ball, _ = standing(shape=1, material=0)
    way = np.array([0.003, -0.004, 0.0])
    moved_by = jnp.asarray(way[None], jnp.float32)
    later = ball._replace(coordinates=ball.coordinates + moved_by)
    points = np.array([[0, 0, 0.0], [0, 0, 1.4]]) + way
    label = jnp.ones(2, jnp.int32)
    point = tuple(jnp.asarray(points.T, jnp.float32))
    was = np.stack(was_at(point, label, later, ball), axis=1)
    np.testing.assert_allclose(was[0] - points[0], 0, atol=5e-5)
    np.testing.assert_allclose(was[1] - points[1], -2 * way, atol=5e-5)


def test_two_discs_collide_as_they_should():
    """A large one of eight times the weight meets a small one head on."""
    radius = jnp.array([0.7, 0.35])
    place = jnp.array([[0.0, 0.0], [1.2, 0.0]])
    velocity, exists = jnp.array([[0.2, 0.1], [-0.2, 0.1]]), jnp.ones(2, bool)
    step = jax.jit(_step)
    for _ in range(3 * _STEPS):
        place, velocity = step(place, velocity, radius, exists)
        assert np.linalg.norm(place[0] - place[1]) > 1.05 - 1e-6
    # v1' = ((m1 - m2) v1 + 2 m2 v2) / (m1 + m2)
    want = [[(7 * 0.2 - 2 * 0.2) / 9, 0.1], [(7 * 0.2 + 16 * 0.2) / 9, 0.1]]
    np.testing.assert_allclose(velocity, want, atol=1e-5)
    alone = step(place, velocity, radius, jnp.array([True, False]))[1]
    np.testing.assert_allclose(alone, velocity, atol=1e-6)


def test_a_crowd_keeps_its_energy_and_its_distance():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid([-2, 0, 2], [-2, 0, 2]), axis=-1).reshape(9, 2)
    radius = jnp.asarray(RADII[rng.integers(0, 2, 9)], jnp.float32)
    place = jnp.asarray(grid, jnp.float32)
    velocity = jnp.asarray(rng.normal(size=(9, 2)) * 0.3, jnp.float32)
    step = partial(_step, radius=radius, exists=jnp.ones(9, bool))

    def walk(state, _):
        after = step(*state)
        return after, after

    _, walked = jax.lax.scan(walk, (place, velocity), None, length=800)
    (places, moving), radius = jax.tree.map(np.asarray, walked), np.asarray(radius)
    energy = np.sum(radius**3 * np.sum(moving**2, axis=-1), axis=1)
    np.testing.assert_allclose(energy, energy[0], rtol=1e-4)
    assert np.abs(places).max() <= 3.05
    apart = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    gap = (apart - radius[:, None] - radius[None])[:, *np.triu_indices(9, 1)]
    assert gap.min() > -0.05
    assert np.sum(np.abs(np.diff(moving, axis=0)).max(axis=-1) > 1e-3) > 100


def test_objects_keep_what_they_are(videos):
    orbit, made = videos
    objects = made.objects
    exists = objects.coordinates[:, 0, :, 2] > 0
    for name in ("size", "material", "shape", "colour"):
        kept = getattr(objects, name)
        assert np.all(kept == kept[:, :1])
    heights = objects.coordinates[..., 2]
    assert np.all(heights == heights[:, :1])
    assert np.all(objects.present[:, 0] == exists)
    for x in objects:
        assert np.all(np.moveaxis(x, 1, 2)[~exists] == 0)
    turned = np.diff(objects.rotation, axis=1)
    turned = np.moveaxis((turned + np.pi) % (2 * np.pi) - np.pi, 1, 2)[exists]
    np.testing.assert_allclose(turned, np.repeat(turned[:, :1], 3, 1), atol=1e-5)
    is_ball = objects.shape[:, 0][exists] == 1
    assert np.all(turned[is_ball] == 0)
    assert 0.1 < np.abs(turned[~is_ball]).max() <= 0.2 + 1e-5
    steps = np.linalg.norm(np.diff(objects.coordinates, axis=1), axis=-1)
    assert 0.1 < np.median(np.moveaxis(steps, 1, 2)[exists]) < 0.4
    for segmentation, around, visible, rows in zip(
        made.segmentation, made.boxes, made.visible, zip(*objects)
    ):
        np.testing.assert_array_equal(visible, visible_of(segmentation, 6))
        np.testing.assert_array_equal(rows[-2], visible)
        np.testing.assert_array_equal(rows[-1], visible > 0)
        np.testing.assert_allclose(around, boxes_of(segmentation, 6), atol=1e-6)
    x, y, z = np.moveaxis(made.view.camera.astype(np.float64), -1, 0)
    angle = np.degrees(np.diff(np.arctan2(y, x), axis=1))
    np.testing.assert_allclose(angle, np.repeat(angle[:, :1], 3, 1), atol=1e-3)
    np.testing.assert_allclose(
        np.hypot(x, y), np.hypot(x, y)[:, :1].repeat(4, 1), rtol=1e-5
    )
    assert np.all(z == z[:, :1])
    assert angle.min() >= -orbit
    assert angle.max() <= orbit
    assert np.any(np.abs(angle) > orbit / 2) == (orbit > 0)


def test_each_frame_is_a_scene(videos):
    """The last frame is what `render` makes of its objects and its view."""
    _, made = videos
    render = jax.jit(partial(solids.render, image_size=SIZE))
    objects, view = part(made.objects, 0, -1), part(made.view, 0, -1)
    scene = render(objects._replace(present=objects.coordinates[:, 2] > 0), view)
    assert np.mean(scene.segmentation != made.segmentation[0, -1]) < 5e-3
    assert np.mean(np.abs(scene.image - made.images[0, -1]) > 1e-2) < 1e-2
    np.testing.assert_allclose(
        scene.objects.centre, made.objects.centre[0, -1], atol=1e-3
    )


def test_moved_begins_where_things_are():
    objects, _ = solids.arrange(jr.key(0), image_size=(16, 16), num_objects=(2, 2))
    still = moved(objects, jnp.zeros((2, 2)), jnp.zeros(2), 3)
    same = partial(np.testing.assert_allclose, atol=1e-6)
    for frame in range(3):
        jax.tree.map(lambda x, y, at=frame: same(x[at], y), still, objects)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a positive integer"),
        ({"speed": (3.0, 1.0)}, "`speed` must be"),
        ({"spin": (-0.1, 0.1)}, "`spin` must be"),
        ({"orbit": -1.0}, "between 0 and 180 degrees, got -1.0"),
        ({"min_visible": 1.0}, "`min_visible` must lie in"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        solids.video(jr.key(0), **({"num_frames": 2} | options))
