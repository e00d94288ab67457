import numpy as np
import pytest

from eqx_slots import viz


def test_picture_scales_clips_and_turns():
    image = np.zeros((3, 2, 5))
    image[0, 1, 3], image[1, 0, 0], image[2, 0, 0] = 0.5, 2.0, -1.0
    got = viz.picture(image)
    assert got.shape == (2, 5, 3)
    assert got.dtype == np.uint8
    assert got[1, 3].tolist() == [128, 0, 0]
    assert got[0, 0].tolist() == [0, 255, 0]
    image[0, 0, 0] = np.nan
    assert viz.picture(image)[0, 0, 0] == 0


def test_segmentation_gives_each_label_its_colour():
    got = viz.segmentation(np.array([[0, 1, 1], [2, 0, 9]]))
    assert got.shape == (2, 3, 3)
    assert len(np.unique(got.reshape(-1, 3), axis=0)) == 4
    np.testing.assert_array_equal(got[0, 1], got[0, 2])


def test_heatmap_is_gray():
    got = viz.heatmap(np.array([[0.0, 0.2, 1.0]]))
    assert got[0].tolist() == [[0] * 3, [51] * 3, [255] * 3]


def test_enlarge_repeats_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    got = viz.enlarge(image, 3)
    assert got.shape == (6, 6, 3)
    np.testing.assert_array_equal(got[4, 2], image[1, 0])


def test_grid_places_pictures():
    a, b = np.full((2, 3, 3), 7, np.uint8), np.full((2, 3, 3), 9, np.uint8)
    got = viz.grid([[a, b], [b, a]], gap=1, fill=50)
    assert got.shape == (7, 9, 3)
    assert got[1, 1, 0] == 7
    assert got[1, 5, 0] == 9
    assert got[4, 1, 0] == 9
    assert np.all(got[[0, 3, 6]] == 50)
    assert np.all(got[:, [0, 4, 8]] == 50)


def test_slot_row():
    image, made = np.full((3, 2, 2), 0.2), np.full((3, 2, 2), 0.4)
    rgb = np.ones((2, 3, 2, 2))
    masks = np.array([[[1.0, 0.2], [0.6, 0.0]], [[0.0, 0.8], [0.4, 1.0]]])
    row = viz.slot_row(image, made, rgb, masks)
    assert len(row) == 5
    assert row[0][0, 0, 0] == 51
    assert row[1][0, 0, 0] == 102
    np.testing.assert_array_equal(row[2], viz.segmentation(np.array([[0, 1], [0, 1]])))
    assert row[3][..., 0].tolist() == [[255, 51], [153, 0]]
    assert row[4][..., 0].tolist() == [[0, 204], [102, 255]]


def test_one_channel_is_drawn_in_three():
    gray = np.linspace(0, 1, 12).reshape(1, 3, 4)
    colour = np.repeat(gray, 3, axis=0)
    np.testing.assert_array_equal(viz.picture(gray), viz.picture(colour))
    masks = np.stack([gray[0], 1 - gray[0]])
    rows = [
        viz.slot_row(one, one, np.stack([one, 1 - one]), masks)
        + viz.attention_row(one, masks.reshape(2, -1))
        for one in (gray, colour)
    ]
    np.testing.assert_array_equal(*map(np.stack, rows))


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(4, 6, 2), (5, 3, 2), (3, 3, 1)]
)
def test_attention_row_darkens_what_a_slot_did_not_win(height, width, stride):
    rows, columns = -(-height // stride), -(-width // stride)
    attention = np.zeros((2, rows * columns))
    attention[0, 1], attention[1] = 1.0, 0.2
    row = viz.attention_row(np.ones((3, height, width)), attention)
    assert len(row) == 3
    assert np.all(row[0] == 255)
    want = np.zeros((height, width))
    want[:stride, stride : 2 * stride] = 255
    np.testing.assert_array_equal(row[1][..., 0], want)
    assert np.all(row[2] == 51)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.picture(np.zeros((2, 3, 4, 4))), "picture.image. for image"),
        (lambda: viz.picture(np.zeros((4, 4, 3))), r"rgb=3, height.*moveaxis"),
        (lambda: viz.segmentation(np.zeros((2, 2))), "integers"),
        (lambda: viz.heatmap(np.zeros(2)), r"\(height, width\)"),
        (
            lambda: viz.attention_row(np.zeros((3, 4, 4)), np.zeros((2, 5))),
            "no grid over an image",
        ),
        (lambda: viz.enlarge(np.zeros((2, 2, 3), np.uint8), 0), "`factor` must be"),
        (lambda: viz.grid([[viz.heatmap(np.zeros((2, 2)))], []]), "equally many"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
