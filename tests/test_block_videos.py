import functools
from functools import partial

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data import blocks

from .clips import boxes_of, seen_before, visible_of, warping_error


FRAMES = 9
KINDS = {
    "bounce": {"speed": (1.0, 3.0)},
    "leave": {"edges": "leave", "speed": (2.0, 4.0)},
    "occlusion": {"occlusion": True},
    "both": {"edges": "leave", "occlusion": True, "image_size": (28, 36)},
}


def paint_many(number=100, seed=0, num_frames=FRAMES, **options):
    video = partial(blocks.video, num_frames=num_frames, **options)
    videos = jax.jit(jax.vmap(video))(jr.split(jr.key(seed), number))
    return jax.tree.map(np.asarray, videos)


@functools.cache
def clips(kind):
    return paint_many(200, **KINDS[kind])


@pytest.fixture(params=KINDS)
def made(request):
    return clips(request.param)


def test_the_truth_describes_every_frame(made):
    """Paint each frame again from its objects alone."""
    palette = np.array(list(blocks.COLOURS.values()))
    height, width = made.segmentation.shape[2:]
    y, x = np.mgrid[:height, :width] + 0.5
    for images, segmentation, objects in zip(
        made.images[:30], made.segmentation, zip(*made.objects)
    ):
        for image, labels, frame in zip(images, segmentation, zip(*objects)):
            want = np.zeros((height, width), int)
            for i, (colour, centre, size, _) in enumerate(zip(*frame)):
                low, high = centre - size / 2, centre + size / 2
                inside = (low[0] <= y) & (y < high[0]) & (low[1] <= x) & (x < high[1])
                want[inside] = i + 1
                pixels = image[:, labels == i + 1]
                assert np.all(pixels == palette[colour][:, None])
            np.testing.assert_array_equal(labels, want)


def test_boxes_and_what_is_visible(made):
    for segmentation, around, visible, present in zip(
        made.segmentation[:30], made.boxes, made.visible, made.objects.present
    ):
        np.testing.assert_array_equal(visible, visible_of(segmentation, 4))
        np.testing.assert_array_equal(present, visible > 0)
        np.testing.assert_allclose(around, boxes_of(segmentation, 4), atol=1e-6)


def test_identity_is_kept(made):
    """Colour and size of a row are those of its first frame, seen or not."""
    for kept in (made.objects.colour, made.objects.size):
        assert np.all(kept == kept[:, :1])
    exists = made.objects.size[:, 0, :, 0] > 0
    assert set(exists.sum(axis=1)) == {2, 3, 4}
    assert np.all(made.objects.present <= exists[:, None])
    assert np.all(np.moveaxis(made.objects.centre, 1, 2)[~exists] == 0)


def test_flow_leads_to_where_it_was(made):
    """Coordinates of each object, one smooth picture, warped by the flow."""
    assert np.all(made.flow[:, 0] == 0)
    objects = []
    for segmentation, flow, centre in zip(
        made.segmentation[:30], made.flow, made.objects.centre
    ):
        assert warping_error(segmentation, flow, centre) < 1e-4
        same, known = seen_before(segmentation, flow)
        objects.append(same[known & (segmentation[1:] > 0)].mean())
    assert np.mean(objects) > 0.85  # the others were covered, or lie at an edge


def turning_round(place, velocity, room, number):
    """Step by step, turning round at the edges."""
    walked = [place]
    while len(walked) < number:
        place = place + velocity
        past = np.where(place < 0, -place, np.where(place > room, place - room, 0))
        velocity = np.where(past > 0, -velocity, velocity)
        place = np.where(place < 0, past, np.where(place > room, room - past, place))
        walked.append(place)
    return np.array(walked)


def test_blocks_that_bounce_stay_in_the_picture():
    objects = clips("bounce").objects
    corner = objects.centre - objects.size / 2
    first = 0
    for video, row in np.argwhere(objects.size[:, 0, :, 0] > 0):
        path, room = corner[video, :, row], 32 - objects.size[video, 0, row]
        assert np.all((path >= 0) & (path <= room))
        velocity = path[1] - path[0]
        if 1 - 0.04 <= np.linalg.norm(velocity) and np.all(
            path[0] + velocity == np.clip(path[0] + velocity, 3, room - 3)
        ):  # it has not turned yet
            first += 1
            assert np.linalg.norm(velocity) <= 3
            want = turning_round(path[0], velocity, room, FRAMES)
            np.testing.assert_allclose(path, want, atol=1e-4)
    assert first > 30


def test_blocks_that_leave_go_straight_on():
    objects = clips("leave").objects
    exists = objects.size[:, 0, :, 0] > 0
    steps = np.diff(objects.centre, axis=1)
    np.testing.assert_allclose(np.diff(steps, axis=1), 0, atol=1e-4)
    length = np.linalg.norm(steps[:, 0], axis=-1)[exists]
    assert 2 - 0.04 < length.min() < 2.1 < 3.9 < length.max() <= 4
    present = np.moveaxis(objects.present, 1, 2)[exists]
    assert np.all(present.any(axis=1))  # at its moment each is in the picture
    assert np.sum(present[:, 0] & ~present[:, -1]) > 20
    assert np.sum(~present[:, 0] & present[:, -1]) > 20


def hidden_runs(visible):
    """Lengths of the times for which something is not seen, between two when it is."""
    there = np.flatnonzero(visible > 0)
    gaps = np.diff(there) - 1
    return gaps[gaps > 0]


@pytest.mark.parametrize("kind", ["occlusion", "both", "shortest"])
def test_one_vanishes_behind_another_and_comes_back(kind):
    shortest = {"num_frames": 4, "num_objects": (2, 3), "occlusion": True}
    made = paint_many(**shortest) if kind == "shortest" else clips(kind)
    num_frames = made.visible.shape[1]
    exists = made.objects.size[:, 0, :, 0] > 0
    lengths, first = [], []
    for visible, count in zip(made.visible, exists.sum(axis=1)):
        assert np.all(visible[:, count - 1].max() > 0)
        runs = hidden_runs(visible[:, count - 2])
        assert any(2 <= run <= 4 for run in runs)
        lengths += [run for run in runs if 2 <= run <= 4]
        first.append(int(np.argmin(visible[:, count - 2])))
    most = min(4, num_frames - 2)
    assert set(lengths) >= set(range(2, most + 1))
    assert set(first) >= set(range(1, num_frames - 2))


def test_the_last_is_never_covered_and_no_edge_disturbs_the_passage():
    """A block as large as there is room for, in the smallest image."""
    options = {"image_size": (11, 11), "block_size": (2, 8), "num_objects": (2, 2)}
    made = paint_many(300, occlusion=True, speed=(0.0, 9.0), **options)
    area = made.objects.size[:, 0, 1].prod(axis=-1)
    np.testing.assert_array_equal(made.visible[:, :, 1], area[:, None].repeat(9, 1))
    for visible in made.visible[:, :, 0]:
        assert any(2 <= run <= 4 for run in hidden_runs(visible))


def test_noise_is_new_in_each_frame_and_the_background_is_not():
    options = {"background": "stripes", "num_objects": (0, 1), "num_frames": 2}
    noisy = paint_many(30, noise=0.05, **options)
    plain = paint_many(30, noise=0.0, **options)
    empty = plain.segmentation.max(axis=(1, 2, 3)) == 0
    assert empty.sum() > 5
    assert np.all(plain.images[empty] == plain.images[empty][:, :1])
    off = (noisy.images - plain.images)[empty]
    assert abs(off.std() - 0.05) < 1e-3
    between = np.corrcoef(off[:, 0].ravel(), off[:, 1].ravel())[0, 1]
    assert abs(between) < 0.02
    options |= {"background": "black", "noise_on": "everything"}
    loud = paint_many(30, noise=0.1, **options).images[empty]
    assert np.mean(loud[:, 0] != loud[:, 1]) > 0.5


def test_same_key_same_video_however_it_is_painted():
    options = {"num_frames": 4, "num_objects": (2, 2), "occlusion": True}
    video, keys = partial(blocks.video, **options), jr.split(jr.key(3), 4)
    paint = jax.jit(eqx.debug.assert_max_traces(video, max_traces=1))
    alone, mapped = [paint(key) for key in keys], jax.jit(jax.vmap(video))(keys)
    same_video(mapped, jax.tree.map(lambda *x: np.stack(x), *alone))
    same_video(paint(keys[2]), alone[2])
    same_video(video(keys[2]), alone[2])
    assert not np.array_equal(alone[1].segmentation, alone[2].segmentation)


def same_video(got, want):
    """Equal to the last bit, but for the noise of the pictures."""
    got, want = jax.tree.map(np.asarray, (got, want))
    assert eqx.tree_equal(got._replace(images=None), want._replace(images=None))
    np.testing.assert_allclose(got.images, want.images, atol=1e-6)


def test_a_longer_video_begins_with_the_shorter():
    options = {"num_objects": (1, 1)}
    short, long = (paint_many(5, num_frames=n, **options) for n in (2, 3))
    for name in ("images", "segmentation", "flow", "boxes"):
        got, want = getattr(long, name)[:, :2], getattr(short, name)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_blocks_as_large_as_the_image_rest():
    options = {"num_objects": (1, 1), "block_size": (6, 6), "image_size": (6, 9)}
    made = paint_many(9, **options, speed=(2.0, 2.0))
    assert np.all(made.objects.centre[..., 0] == 3)
    assert np.ptp(made.objects.centre[..., 1]) > 1
    assert np.all(made.visible == 36)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a positive integer"),
        ({"speed": (2.0, 1.0)}, "`speed` must be"),
        ({"speed": (-1.0, 1.0)}, "0 <= slowest <= fastest, got"),
        ({"speed": (0.0, float("nan"))}, "`speed` must be"),
        ({"edges": "wrap"}, '`edges` must be one of "bounce", "leave", got \'wrap\''),
        ({"occlusion": True, "num_frames": 3}, "got 3 frames"),
        ({"occlusion": True, "num_objects": (1, 4)}, "1 or more blocks"),
        ({"occlusion": True, "block_size": (5, 7)}, r"blocks of \(5, 7\)"),
        ({"occlusion": True, "image_size": (12, 32)}, r"an image of \(12, 32\)"),
        ({"noise": -0.1}, "`noise` must not be"),
        ({"num_objects": (2, 7)}, "at least 7"),
        ({"max_overlap": 1.5}, "`max_overlap` must lie"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        blocks.video(jr.key(0), **({"num_frames": 6} | options))
