"""What the frames of a clip have to do with each other, in slow NumPy."""

import numpy as np


def visible_of(segmentation, number):
    """How many pixels each object has in each frame."""
    counts = [[(frame == 1 + i).sum() for i in range(number)] for frame in segmentation]
    return np.array(counts)


def boxes_of(segmentation, number):
    """Around the pixels of each object in each frame, as shares of the image."""
    around = np.zeros((len(segmentation), number, 4))
    for t, frame in enumerate(segmentation):
        for i in range(number):
            pixels = np.argwhere(frame == 1 + i)
            if len(pixels):
                low, high = pixels.min(axis=0), pixels.max(axis=0) + 1
                around[t, i] = np.concatenate([low / frame.shape, high / frame.shape])
    return around


def was_at(flow):
    """Where what a pixel shows was in the frame before: `frames height width 2`."""
    pixels = np.moveaxis(np.indices(flow.shape[2:]), 0, -1) + 0.5
    return pixels + np.moveaxis(flow.astype(np.float64), 1, -1)


def sampled(picture, places):
    """Between the four pixels around each place; NaN outside of the picture."""
    height, width = picture.shape[:2]
    y, x = places[..., 0] - 0.5, places[..., 1] - 0.5
    outside = (y < 0) | (x < 0) | (y > height - 1) | (x > width - 1)
    top = np.clip(np.floor(y), 0, height - 2).astype(int)
    left = np.clip(np.floor(x), 0, width - 2).astype(int)
    down, right = (y - top)[..., None], (x - left)[..., None]
    above = (1 - right) * picture[top, left] + right * picture[top, left + 1]
    below = (1 - right) * picture[top + 1, left] + right * picture[top + 1, left + 1]
    mixed = (1 - down) * above + down * below
    return np.where(outside[..., None], np.nan, mixed)


def own_coordinates(shape, centre, turn):
    """Of every pixel, as each object sees it: `objects height width 2`."""
    pixels = np.moveaxis(np.indices(shape), 0, -1) + 0.5
    away = pixels - centre[:, None, None].astype(np.float64)
    # To the right and upwards as a complex number, turned back.
    number = (away[..., 1] - 1j * away[..., 0]) * np.exp(-1j * turn)[:, None, None]
    return np.stack([number.real, number.imag], axis=-1)


def warping_error(segmentation, flow, centre, turn=None):
    """The largest error in pixels of the coordinates that each object has in the frame
    before, warped by the flow, where they are known: the background's are the
    picture's."""
    turn = np.zeros(centre.shape[:2]) if turn is None else turn.astype(np.float64)
    rest = np.zeros((1, 2)), np.zeros(1)
    systems = [
        own_coordinates(
            segmentation.shape[1:],
            np.concatenate([rest[0], c]),
            np.concatenate([rest[1], angle]),
        )
        for c, angle in zip(centre, turn)
    ]
    worst = 0.0
    places = was_at(flow)
    for t in range(1, len(segmentation)):
        for label in np.unique(segmentation[t]):
            warped = sampled(systems[t - 1][label], places[t])
            off = np.linalg.norm(warped - systems[t][label], axis=-1)
            worst = max(worst, np.nanmax(off[segmentation[t] == label], initial=0.0))
    return worst


def seen_before(segmentation, flow):
    """Of the pixels from the second frame on: whether the one next to where each was
    had the same label, and whether that lies in the picture."""
    places = np.floor(was_at(flow)[1:]).astype(int)
    height, width = segmentation.shape[1:]
    y, x = places[..., 0], places[..., 1]
    known = (y >= 0) & (x >= 0) & (y < height) & (x < width)
    frame = np.arange(len(places))[:, None, None]
    before = segmentation[frame, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return before == segmentation[1:], known
