import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots import metrics


TRUE, SLOTS = 4, 5
COUNT = jax.jit(
    partial(metrics.identities, num_true=TRUE, num_predicted=SLOTS),
    static_argnames="min_iou",
)

# Of each clip, frame by frame, true labels and slots, and what motmetrics 1.4.0 counts:
# objects, misses, switches and fragmentations of `MOTAccumulator.update`, given the
# distance 1 - IoU where IoU is above one half, NaN elsewhere, and no background.
RECORDED = [
    (
        "00000111222220 00000000000003 00000111222223 00000111000003 00000111222223"
        " 00000000222220 00000111000003 00000111222223 00000111222220 00000111222220",
        "33333242000001 33133222020001 33133222000031 41221343000044 32222333000001"
        " 20222331304001 22212333100001 22222333000001 12222331000001 22122424000011",
        (21, 5, 2, 2),
    ),
    (
        "00000111222000 00000111000000 00000111222333 00000111222000 00000111222000"
        " 00000111000333 00000111222333 00000111222333 00000111222000 00000111222000",
        "22222333010440 22022333000310 22422343000444 32222433000444 22222344000313"
        " 22222444003333 02222444000111 00000443222111 00000444222111 04000444222110",
        (22, 2, 4, 1),
    ),
    (
        "01111122233333 01111122233333 01111122233333 01111122233333 01111122233333"
        " 01111122233333 00000022200000 01111100000000 00000000033333 01111100033333",
        "24440100021114 24444200011111 20444400111122 24444400001111 23114412100200"
        " 04444411200040 04444414100003 42212211100100 40040011110242 24000011122200",
        (23, 8, 4, 4),
    ),
    (
        "00000000000033 00000111122233 00000111122233 00000111100033 00000111122233"
        " 00000111100033 00000111100033 00000111122233 00000111122233 00000111100033",
        "44444222240311 44444222240213 44144212033311 41444242233211 44404042233211"
        " 44404222233011 41434222233311 44414222233300 44444101103000 44432111133300",
        (24, 7, 2, 4),
    ),
]


def labels_of(text):
    return np.array([[int(label) for label in frame] for frame in text.split()])


@pytest.mark.parametrize("case", RECORDED)
def test_identities_are_those_of_motmetrics(case):
    true, slots, want = case
    counts = COUNT(labels_of(true), labels_of(slots))
    got = (counts.seen, counts.seen - counts.held, counts.switches, counts.found)
    assert tuple(int(x) for x in got) == want
    assert bool(counts.valid)
    assert counts.lost >= counts.found


def some(seed, frames=9, pixels=18, noise=0.15):
    """Objects that come and go, and slots that mostly follow them."""
    rng = np.random.default_rng(seed)
    layout = np.sort(rng.integers(0, TRUE, pixels))
    names, true, slots = rng.permutation(SLOTS), [], []
    for _ in range(frames):
        hidden = np.flatnonzero(rng.random(TRUE) < 0.3)
        true.append(np.where(np.isin(layout, hidden), 0, layout))
        if rng.random() < 0.3:
            i, j = rng.choice(SLOTS, 2, replace=False)
            names[[i, j]] = names[[j, i]]
        other = rng.integers(0, SLOTS, pixels)
        slots.append(np.where(rng.random(pixels) < noise, other, names[layout]))
    return np.array(true), np.array(slots)


def told(true, slots, min_iou=0.5):
    """The story of each object, read from its first frame to its last."""
    counts = dict.fromkeys(metrics.Identities._fields[:-1], 0)
    for label in range(1, TRUE):
        story = []
        for t, s in zip(true, slots):
            here = t == label
            holder = None
            for slot in range(SLOTS):
                both, either = (here & (s == slot)).sum(), (here | (s == slot)).sum()
                if both > min_iou * either:
                    holder = slot
            story.append((bool(here.any()), holder))
        shown = [holder for is_seen, holder in story if is_seen]
        holders = [holder for holder in shown if holder is not None]
        counts["seen"] += len(shown)
        counts["held"] += len(holders)
        counts["switches"] += sum(a != b for a, b in itertools.pairwise(holders))
        for i in range(1, len(shown)):
            if shown[i] is None and shown[i - 1] is not None:
                counts["lost"] += 1
                counts["found"] += any(holder is not None for holder in shown[i:])
        for i in range(1, len(story)):
            before = [holder for is_seen, holder in story[:i] if is_seen]
            was_hidden = story[i][0] and not story[i - 1][0]
            if was_hidden and before and before[-1] is not None:
                counts["hidden"] += 1
                for is_seen, holder in story[i:]:
                    if not is_seen or holder is not None:
                        counts["kept"] += is_seen and holder == before[-1]
                        break
    return counts


@pytest.mark.parametrize("min_iou", [0.5, 0.7])
def test_identities_tell_the_story_of_each_object(min_iou):
    total = dict.fromkeys(metrics.Identities._fields[:-1], 0)
    for seed in range(60):
        true, slots = some(seed)
        counts = COUNT(true, slots, min_iou=min_iou)
        want = told(true, slots, min_iou)
        assert {name: int(getattr(counts, name)) for name in want} == want
        total = {name: total[name] + want[name] for name in want}
    assert all(value > 20 for value in total.values())
    assert total["kept"] < total["hidden"]


def test_names_of_slots_do_not_matter_and_vmap_equals_a_loop():
    clips = [some(seed) for seed in range(6)]
    true, slots = (np.stack(x) for x in zip(*clips))
    batch = jax.vmap(COUNT)(true, slots)
    for index, (t, s) in enumerate(clips):
        alone = COUNT(t, s)
        renamed = COUNT(t.reshape(9, 3, 6), (SLOTS - 1 - s).reshape(9, 3, 6))
        assert [x[index] for x in batch] == list(alone) == list(renamed)


def test_a_slot_that_follows_is_never_lost():
    true, _ = some(0)
    counts = COUNT(true, (true + 1) % SLOTS)
    assert counts.seen == counts.held > 0
    assert counts.hidden == counts.kept > 0
    assert counts.switches == counts.lost == counts.found == 0


def test_half_is_not_above_half():
    true, slots = jnp.array([[1, 1, 2, 2]] * 2), jnp.zeros((2, 4), int)
    counts = metrics.identities(true, slots, num_true=3, num_predicted=1)
    assert (int(counts.seen), int(counts.held)) == (4, 0)


def test_labels_out_of_range_are_not_valid():
    true, slots = some(0)
    assert not bool(COUNT(np.where(true == 0, TRUE, true), slots).valid)
    assert not bool(COUNT(true, slots + 1).valid)


def masks_of(seed, frames=3):
    rng = np.random.default_rng(seed)
    masks = rng.dirichlet(np.ones(SLOTS), (frames, 4, 5))
    true = jnp.asarray(rng.integers(0, TRUE, (frames, 4, 5)))
    return true, jnp.asarray(np.moveaxis(masks, -1, 1), jnp.float32)


@pytest.mark.parametrize("first_frame", [True, False])
def test_a_clip_is_a_picture_with_its_frames_beside_each_other(first_frame):
    true, masks = masks_of(0)
    clip = metrics.whole_clip(true, masks, first_frame=first_frame)
    kept = slice(None) if first_frame else slice(1, None)
    beside = jnp.concatenate(true[kept], axis=1)
    wide = jnp.concatenate(masks[kept], axis=2)
    for background in (True, False):
        options = {"num_true": TRUE, "ignore_background": background}
        for metric in (metrics.soft_adjusted_rand_index, metrics.soft_mean_iou):
            got = metric(clip.true, clip.masks, **options)
            want = metric(beside, wide, **options)
            assert bool(got.valid)
            np.testing.assert_allclose(got.value, want.value, atol=1e-6)
        options["num_predicted"] = SLOTS
        for metric in (metrics.adjusted_rand_index, metrics.mean_best_overlap):
            got = metric(clip.true, clip.labels, **options)
            want = metric(beside, wide.argmax(axis=0), **options)
            np.testing.assert_allclose(got.value, want.value, atol=1e-6)


def test_a_change_of_slots_between_frames_costs_what_frames_alone_do_not_see():
    true = jnp.array([[[1, 2], [0, 0]]] * 2)
    masks = np.zeros((2, 3, 2, 2), np.float32)
    for frame, names in enumerate([(0, 1, 2), (0, 2, 1)]):
        for label, slot in enumerate(names):
            masks[frame, slot][np.asarray(true[frame]) == label] = 1
    masks = jnp.asarray(masks)
    score = partial(metrics.soft_adjusted_rand_index, num_true=3)
    apart = [score(t, m).value for t, m in zip(true, masks)]
    clip = metrics.whole_clip(true, masks, first_frame=True)
    np.testing.assert_allclose(apart, 1, atol=1e-6)
    assert score(clip.true, clip.masks).value < 0.7
    clip = metrics.whole_clip(true, masks, first_frame=False)
    np.testing.assert_allclose(score(clip.true, clip.masks).value, 1, atol=1e-6)


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    true, masks = masks_of(0)
    with pytest.raises(ValueError, match="`true` has 1 frames, and `first_frame`"):
        metrics.whole_clip(true[:1], masks[:1], first_frame=False)
    with pytest.raises(ValueError, match="slots, height=4, width=5"):
        metrics.whole_clip(true, np.moveaxis(masks, 1, 0), first_frame=True)
    with pytest.raises(ValueError, match="A batch is mapped by the caller"):
        metrics.whole_clip(true[None], masks[None], first_frame=True)
    sizes = {"num_true": TRUE, "num_predicted": SLOTS}
    with pytest.raises(ValueError, match="below one half two slots"):
        metrics.identities(true, true, min_iou=0.4, **sizes)
    with pytest.raises(ValueError, match="`min_iou` must lie in"):
        metrics.identities(true, true, min_iou=1.0, **sizes)
    with pytest.raises(ValueError, match="frames in front, got shapes"):
        metrics.identities(true, true[1:], **sizes)
    with pytest.raises(ValueError, match="frames in front, got shapes"):
        metrics.identities(true[0, 0], true[0, 0], **sizes)
