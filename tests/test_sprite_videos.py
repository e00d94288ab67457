from functools import partial

import jax
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data import sprites

from .clips import boxes_of, seen_before, visible_of, warping_error
from .test_sprites import inside


FRAMES, SIZE = 6, (48, 40)
OPTIONS = {"image_size": SIZE, "sprite_size": (8.0, 14.0), "num_frames": FRAMES}


@pytest.fixture(scope="module", params=["bounce", "leave"])
def videos(request):
    video = partial(sprites.video, edges=request.param, **OPTIONS)
    made = jax.jit(jax.vmap(video))(jr.split(jr.key(0), 100))
    return request.param, jax.tree.map(np.asarray, made)


def test_the_truth_describes_every_frame(videos):
    _, made = videos
    places = np.random.default_rng(0).integers([0, 0], SIZE, (60, 2))
    exists = made.objects.size[:, 0] > 0
    for video in range(6):
        for t in range(FRAMES):
            shape, colour, centre, size, angle, _, _ = (
                x[video, t] for x in made.objects
            )
            labels = made.segmentation[video, t]
            for number in 1 + np.flatnonzero(exists[video]):
                pixels = made.images[video, t][:, labels == number].T
                want = np.broadcast_to(colour[number - 1], pixels.shape)
                np.testing.assert_allclose(pixels, want, atol=1e-6)
            for y, x in places:
                want, unsure = 0, False
                for i in np.flatnonzero(exists[video]):
                    is_in, margin = inside(
                        shape[i], centre[i], size[i], angle[i], y + 0.5, x + 0.5
                    )
                    want, unsure = (1 + i if is_in else want), unsure or margin < 1e-4
                assert unsure or labels[y, x] == want


def test_boxes_and_what_is_visible(videos):
    _, made = videos
    for segmentation, around, visible, objects in zip(
        made.segmentation[:20], made.boxes, made.visible, zip(*made.objects)
    ):
        np.testing.assert_array_equal(visible, visible_of(segmentation, 5))
        np.testing.assert_array_equal(objects[-2], visible)
        np.testing.assert_array_equal(objects[-1], visible > 0)
        np.testing.assert_allclose(around, boxes_of(segmentation, 5), atol=1e-6)


def test_flow_leads_to_where_it_was(videos):
    """Coordinates of each sprite, which turn with it, warped by the flow."""
    _, made = videos
    assert np.all(made.flow[:, 0] == 0)
    shares = []
    for segmentation, flow, centre, turn in zip(
        made.segmentation[:25],
        made.flow,
        made.objects.centre,
        made.objects.orientation,
    ):
        assert warping_error(segmentation, flow, centre, turn) < 1e-3
        same, known = seen_before(segmentation, flow)
        shares.append(same[known & (segmentation[1:] > 0)].mean())
    assert np.mean(shares) > 0.85  # the others were covered, or lie at an edge


def test_sprites_move_and_turn_evenly(videos):
    edges, made = videos
    objects = made.objects
    exists = objects.size[:, 0] > 0
    assert set(exists.sum(axis=1)) == {2, 3, 4, 5}
    for kept in (objects.shape, objects.colour, objects.size):
        assert np.all(kept == kept[:, :1])
    for x in objects:
        assert np.all(np.moveaxis(x, 1, 2)[~exists] == 0)
    turned = np.diff(objects.orientation, axis=1)
    turned = np.moveaxis((turned + np.pi) % (2 * np.pi) - np.pi, 1, 2)[exists]
    np.testing.assert_allclose(turned, np.repeat(turned[:, :1], 5, 1), atol=1e-5)
    spin = turned[:, 0]
    assert -0.2 - 1e-6 <= spin.min() < -0.19
    assert 0.19 < spin.max() <= 0.2 + 1e-6
    steps = np.moveaxis(np.diff(objects.centre, axis=1), 1, 2)[exists]
    length = np.linalg.norm(steps, axis=-1)
    assert length.max() <= 3 + 1e-5
    margin = 0.5**0.5 * objects.size
    present = np.moveaxis(objects.present, 1, 2)[exists]
    if edges == "leave":
        np.testing.assert_allclose(steps, np.repeat(steps[:, :1], 5, 1), atol=1e-4)
        assert 0.5 - 1e-4 < length.min() < 0.6 < 2.9 < length.max()
        outside = np.moveaxis(objects.centre.min(axis=-1) < 0, 1, 2)[exists]
        assert outside.any()
    else:
        apart = np.minimum(objects.centre, np.array(SIZE) - objects.centre)
        inner = apart.min(axis=-1) - margin
        assert np.moveaxis(inner, 1, 2)[exists].min() > -1e-4
        assert np.any(np.abs(np.diff(steps, axis=1)) > 0.1)
    assert present.mean() > 0.8


def test_same_key_same_video():
    video, keys = partial(sprites.video, **OPTIONS), jr.split(jr.key(1), 2)
    paint = jax.jit(video)
    first, again = paint(keys[0]), paint(keys[0])
    jax.tree.map(np.testing.assert_array_equal, first, again)
    mapped = jax.jit(jax.vmap(video))(keys)
    # Compiled otherwise, a middle of a pixel may fall on the other side of an edge.
    for index, made in enumerate((first, paint(keys[1]))):
        assert np.mean(mapped.segmentation[index] != made.segmentation) < 1e-3
        centre = mapped.objects.centre[index]
        np.testing.assert_allclose(centre, made.objects.centre, rtol=1e-5)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a positive integer"),
        ({"speed": (3.0, 1.0)}, "`speed` must be"),
        ({"spin": (-0.1, 0.1)}, r"`spin` must be .* got \(-0.1, 0.1\)"),
        ({"edges": "wrap"}, "`edges` must be one of"),
        ({"kind": "coloured"}, "`kind` must be one of"),
        ({"sprite_size": (0.0, 5.0)}, "0 < least"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        sprites.video(jr.key(0), **({"num_frames": 2} | options))
