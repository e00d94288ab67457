"""Videos of one's own: folders of frames, and GIFs, as a source of clips."""

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from eqx_slots import training
from eqx_slots.data import pictures
from eqx_slots.data.pictures import _clip_files, _decode, _listing

from .test_pictures import COLOURS, GRAYS


PALETTE = COLOURS[0, :7]


@pytest.fixture
def folder(tmp_path):
    """Reads the clips of a folder beside the cache."""
    path = tmp_path / "videos"
    path.mkdir()
    return path, partial(pictures.clips, path, num_frames=3, cache=tmp_path / "cache")


def frame(number):
    """Another picture for each number."""
    return np.roll(COLOURS, number, axis=0)


def write_frames(path, numbers, name="{}.png"):
    path.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(frame(number)).save(path / name.format(number))


def write_gif(path, number, shape=(13, 17), **options):
    """Seven colours, which no two frames have in the same places; what they are."""
    indices = [np.add.outer(*map(np.arange, shape)) + i for i in range(number)]
    images = []
    for one in indices:
        image = Image.fromarray((one % 7).astype(np.uint8), "P")
        image.putpalette(PALETTE.tobytes())
        images.append(image)
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return PALETTE[np.stack(indices) % 7]


def as_images(pixels):
    return np.moveaxis(pixels, 3, 1) / np.float32(255)


def test_clips_of_folders_and_of_gifs(folder):
    path, read = folder
    write_frames(path / "walk_10", range(8, 15), "frame_{}.png")  # of 9 and 10, too
    write_frames(path / "walk_9" / "left", range(3))
    write_frames(path / "walk_9" / ".hidden", range(3))
    gif = write_gif(path / "b.GIF", 7)
    source = read()
    assert source.names == (
        *("b.GIF[0:3]", "b.GIF[3:6]"),
        *("walk_9/left[0:3]", "walk_10[0:3]", "walk_10[3:6]"),
    )
    walk = np.stack([frame(number) for number in range(8, 14)])
    left = np.stack([frame(number) for number in range(3)])
    for clip, want in zip(source, [gif[:3], gif[3:6], left, walk[:3], walk[3:]]):
        np.testing.assert_array_equal(clip.images, as_images(want))
        assert clip.images.dtype == np.float32
        assert clip.segmentation is None
    assert source.frames.names[6:8] == ("b.GIF[6]", "walk_9/left/0.png")
    assert source.frames.names[10:12] == (
        "walk_10/frame_8.png",
        "walk_10/frame_9.png",
    )
    assert (source.skipped, source.frames.notes) == ({}, ())
    assert read(count=1).names == source.names[:2]


def test_numbers_are_counted_and_ties_are_no_ties():
    names = ["a10", "a9", "b", "a09", "a", "10", "9", "a9b2", "a9b10"]
    found = sorted(names, key=_clip_files.natural)
    assert found == ["9", "10", "a", "a09", "a9", "a9b2", "a9b10", "a10", "b"]


def test_batches(folder):
    path, read = folder
    for name in "abcd":
        write_frames(path / name, range(ord(name), ord(name) + 4))
    source = read()
    mesh = training.data_mesh(jax.devices()[:1])
    batch_at = training.host_batches(source, mesh, batch_size=2, seed=None)
    images, segmentation = batch_at(1)
    np.testing.assert_array_equal(images, [source[2].images, source[3].images])
    assert segmentation is None


@pytest.mark.parametrize("index", [[3, 0], np.array([3, 0]), slice(3, None, -3)])
def test_some_of_the_clips(index):
    numbers = np.arange(9, dtype=np.uint8)[:, None, None]
    frames = pictures.arrays(
        numbers * np.ones((8, 8), np.uint8), numbers.repeat(8, 1).repeat(8, 2)
    )
    source = pictures.Clips(frames, [0, 2, 4, 6], num_frames=3, names="abcd")
    part = source.take(index)
    assert part.names == ("d", "a")
    for clip, first in zip(part, [6, 0]):
        want = np.arange(first, first + 3)
        np.testing.assert_allclose(255 * clip.images[:, 0, 7, 7], want, rtol=1e-6)
        np.testing.assert_array_equal(clip.segmentation[:, 7, 0], want)
    assert part.frames is frames
    for one, other in zip(source[::-2], [source[3], source[-3]], strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    for starts in ([0, 7], [-1]):
        with pytest.raises(ValueError, match=r"of 9 in all, must lie from 0 to 6, got"):
            pictures.Clips(frames, starts, num_frames=3)
    with pytest.raises(ValueError, match="`num_frames` must be a positive integer"):
        pictures.Clips(frames, [0], num_frames=0)


def test_frames_are_decoded_once_for_clips_of_any_length(folder, monkeypatch):
    path, read = folder
    write_frames(path / "a", range(70))  # more than are decoded at a time
    write_gif(path / "b.gif", 4)
    made, done = [], []
    prepare = _decode.prepare

    def watched(image, plan):
        made.append(image.size)
        return prepare(image, plan)

    for module in (_decode, _clip_files):
        monkeypatch.setattr(module, "prepare", watched)
    assert len(read(progress=done.append)) == 23 + 1
    assert (len(made), done) == (74, [64])
    assert len(read(num_frames=2)) == 35 + 2
    assert len(made) == 74
    write_frames(path / "a", [70])
    assert len(read()) == 23 + 1
    assert len(made) == 74 + 75


def test_a_reader_that_was_stopped_goes_on_at_any_frame(folder):
    path, _ = folder
    write_frames(path / "a", range(3))
    write_gif(path / "b.gif", 4)
    (path / "c.gif").write_bytes(b"of no kind")
    write_frames(path / "d", range(2))
    found = _clip_files.find(path, None, None)
    plan = _listing.planned(path, found.files, None, None, "crop")
    frames_after = _clip_files.decoded_frames(path, found.recordings, plan)
    every = list(frames_after(0))
    assert [bool(one["problem"]) for one in every] == [i == 7 for i in range(10)]
    for skip in range(11):
        for got, want in zip(frames_after(skip), every[skip:], strict=True):
            np.testing.assert_array_equal(got["image"], want["image"])
            assert got["problem"] == want["problem"]


def test_what_is_broken_or_short_is_named_and_counted(folder):
    path, read = folder
    write_frames(path / "a", range(10))
    (path / "a" / "4.png").write_bytes(b"of no kind")
    write_frames(path / "b", range(2))
    write_frames(path, [5])  # in the folder itself
    (path / "a" / "notes.txt").write_text("of no picture")
    whole = (write_gif(path / "c.gif", 40), (path / "c.gif").read_bytes())[1]
    (path / "c.gif").write_bytes(whole[: len(whole) // 2])
    write_gif(path / "d.gif", 1)
    (path / "e.gif").write_bytes(b"of no kind")
    for _ in range(2):  # the second time from the cache
        with pytest.warns(RuntimeWarning, match=r"of .*videos are left out, such as a"):
            source = read()
        assert source.names[:2] == ("a[0:3]", "a[6:9]")
        assert all(name.startswith("c.gif[") for name in source.names[2:])
        assert list(source.skipped)[:2] == ["a[3:6]", "b"]
        assert source.skipped["a[3:6]"] == "it is no PNG, JPEG or WebP (a/4.png)"
        assert source.skipped["b"] == "of 3 frames for a clip it has 2"
        assert source.skipped["d.gif"] == "of 3 frames for a clip it has 1"
        assert source.skipped["e.gif"] == "it is no GIF (e.gif[0])"
        assert source.frames.skipped["a/4.png"] == "it is no PNG, JPEG or WebP"
        np.testing.assert_array_equal(source[1].images[0], source.frames[6].image)
    assert source.frames.notes == (
        "1 file, a/notes.txt: of no kind that is read.",
        "1 picture, 5.png: lies in no folder of a clip.",
    )
    with pytest.raises(
        ValueError, match=r"2 of 2 clips of .*, such as a\[0:8\]: it is"
    ):
        read(num_frames=8, count=2)


def test_gifs_are_read_as_they_are_seen(folder):
    path, read = folder
    want = write_gif(path / "a.gif", 3, transparency=2, disposal=2)
    source = read()
    black = np.all(want == PALETTE[2], axis=-1, keepdims=True)
    np.testing.assert_array_equal(source[0].images, as_images(want * ~black))
    (note,) = source.frames.notes
    assert note == "1 picture, a.gif: is transparent and lies on black now."


def test_sizes_and_grays(folder):
    path, read = folder
    write_gif(path / "a.gif", 3, (30, 40))
    (path / "b").mkdir()
    for number in range(3):
        Image.fromarray(GRAYS).save(path / "b" / f"{number}.png")
    with pytest.raises(ValueError, match="3 are gray and 1 in colour"):
        read(image_size=(8, 9))
    source = read(image_size=8, channels=1, fit="stretch")
    assert source[0].images.shape == source[1].images.shape == (3, 1, 8, 8)
    want = Image.fromarray(GRAYS).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(source.frames.pixels[5, ..., 0], want)


def test_masks(folder, tmp_path):
    path, read = folder
    write_frames(path / "a", range(3))
    labels = [(GRAYS + number) % 5 for number in range(3)]
    (path / "masks" / "a").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(labels[number]).save(path / "masks" / "a" / f"{number}.png")
    (source,) = read(masks=path / "masks")  # which are no frames
    np.testing.assert_array_equal(source.segmentation, labels)
    assert source.segmentation.dtype == np.int32
    write_gif(path / "b.gif", 3)
    with pytest.raises(ValueError, match=r"files, b.gif has none: write what is in"):
        read(masks=path / "masks")
    (path / "masks" / "a" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1 have none: a/1.png needs .*1.png"):
        read(masks=path / "masks", count=1)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, r"a folder of frames for each clip, or animated GIFs; found none\."),
        (
            ["a.png", "b.png"],
            {},
            "but 2 pictures, such as a.png: put a clip's into one",
        ),
        (["a/0.png", "b/0.png"], {}, "2 of 2 clips .* such as a: of 3 frames for"),
        (["a/0.png"], {"num_frames": 0}, "`num_frames` must be a positive integer"),
        (["a/0.png"], {"count": 0}, "`count` must be a positive integer"),
        (["a/0.png"], {"channels": 4}, "`channels` must be 1, 3 or None, got 4"),
        (["a/0.png"], {"fit": "cover"}, "`fit` must be one of"),
        (["a/0.png"], {"image_size": 64}, r"13 x 17, smaller than 64 x 64 .*a/0.png"),
    ],
)
def test_mistakes(folder, names, options, message):
    path, read = folder
    for name in names:
        (path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(COLOURS).save(path / name)
    with pytest.raises(ValueError, match=message):
        read(**options)


@pytest.mark.usefixtures("as_users_run")
def test_different_sizes_need_one(folder):
    path, read = folder
    write_frames(path / "a", range(2))
    write_gif(path / "b.gif", 3, (30, 40))
    with pytest.raises(ValueError, match=r"2 sizes, most often 13 x 17 \(2 of 3\)"):
        read()
    with pytest.raises(ValueError, match="a folder, there is none at nowhere"):
        pictures.clips("nowhere", num_frames=2)
