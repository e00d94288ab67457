"""Pictures as a source: batches, a choice of them, arrays, archives, datasets."""

import os
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from eqx_slots import training
from eqx_slots.data import pictures

from .test_pictures import COLOURS, GRAYS


STACK = np.stack([COLOURS, COLOURS[::-1]])


def test_batches_of_a_folder(tmp_path):
    for i in range(5):
        Image.fromarray(COLOURS + np.uint8(i)).save(tmp_path / f"{i}.png")
    source = pictures.folder(tmp_path, cache=tmp_path / ".cache")
    mesh = training.data_mesh(jax.devices()[:1])
    batch_at = training.host_batches(source, mesh, batch_size=2, seed=None)
    image, segmentation = batch_at(1)
    want = np.stack([source[2].image, source[3].image])
    np.testing.assert_array_equal(image, want)
    assert segmentation is None
    with pytest.raises(ValueError, match="got 5 for `batch_size`=6"):
        training.host_batches(source, mesh, batch_size=6)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_links_to_nothing_and_names_that_are_no_unicode(tmp_path):
    Image.fromarray(COLOURS).save(os.fsencode(tmp_path) + b"/caf\xe9.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(RuntimeWarning, match=r"1 of 2 pictures of .* gone.png: "):
        source = pictures.folder(tmp_path, cache=tmp_path / ".cache")
    assert [os.fsencode(name) for name in source.names] == [b"caf\xe9.png"]


def test_masks_within_the_folder_by_another_path(tmp_path, monkeypatch):
    (tmp_path / "masks").mkdir()
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    Image.fromarray(GRAYS).save(tmp_path / "masks" / "a.png")
    monkeypatch.chdir(tmp_path)
    for path, masks in ((".", tmp_path / "masks"), (tmp_path, "masks")):
        source = pictures.folder(path, masks=masks, cache=tmp_path / ".cache")
        assert source.names == ("a.png",)


def test_what_was_no_picture_may_be_one_now(tmp_path, monkeypatch):
    for name in "ab":
        size = (20, 20) if name == "a" else (200, 100)
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    options = {"image_size": 20, "cache": tmp_path / ".cache"}
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        with pytest.warns(RuntimeWarning, match="b.png: it is huge"):
            pictures.folder(tmp_path, **options)
    assert pictures.folder(tmp_path, **options).names == ("a.png", "b.png")


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("size", [np.int64(6), tuple(np.array([6, 6]))])
def test_sizes_of_numpy(tmp_path, size):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    options = {"image_size": size, "cache": tmp_path / ".cache"}
    assert pictures.folder(tmp_path, **options)[0].image.shape == (3, 6, 6)


@pytest.mark.parametrize("index", [[2, 0], np.array([2, 0]), slice(None, None, -2)])
def test_some_of_the_pictures(index):
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((9, 9), np.uint8)
    source = pictures.Pictures(
        np.repeat(images[..., None], 2, axis=0), names="abc", rows=[1, 3, 5]
    )
    part = source.take(index)
    assert part.names == ("c", "a")
    assert [255 * one.image.max() for one in part] == [2, 0]
    assert part.pixels is source.pixels


@pytest.mark.parametrize(
    ("images", "want"),
    [
        (STACK, STACK / 255),
        (np.moveaxis(STACK, 3, 1), STACK / 255),
        (STACK[..., 0], STACK[..., :1] / 255),
        (STACK[..., :1].astype(np.uint16), STACK[..., :1] / 65535),
        (STACK / 255.0, STACK / 255),
    ],
)
def test_arrays(images, want):
    source = pictures.arrays(images)
    assert source.names == ("0", "1")
    got = np.moveaxis(np.stack([one.image for one in source]), 1, 3)
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert got.dtype == np.float32


def test_an_archive(tmp_path):
    labels = STACK[..., 0] % 3
    np.savez(tmp_path / "a.npz", x=STACK, y=labels)
    np.save(tmp_path / "a.npy", STACK)
    np.savez(tmp_path / "one.npz", x=STACK)
    source = pictures.archive(tmp_path / "a.npz", images="x", labels="y")
    np.testing.assert_array_equal(source[1].segmentation, labels[1])
    for name in ("a.npy", "one.npz"):
        other = pictures.archive(tmp_path / name)
        np.testing.assert_array_equal(other[1].image, source[1].image)
    assert isinstance(pictures.archive(tmp_path / "a.npy").pixels, np.memmap)
    with pytest.raises(
        ValueError, match=r"`images` must be one of \['x', 'y'\], got N"
    ):
        pictures.archive(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"`labels` must be one of .* got 'z'"):
        pictures.archive(tmp_path / "one.npz", labels="z")
    with pytest.raises(ValueError, match="one array without a name"):
        pictures.archive(tmp_path / "a.npy", images="x")
    (tmp_path / "b.npz").write_bytes(b"of no kind")
    with pytest.raises(ValueError, match=r"b.npz must be a file of `numpy.save`"):
        pictures.archive(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="there is none at"):
        pictures.archive(tmp_path / "c.npz")


def test_a_broken_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=STACK)
    whole = path.read_bytes()
    half = len(whole) // 2
    for content in (whole[:half], whole[:half] + b"of no kind" + whole[half + 10 :]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.npz must be a file of `numpy.save`"):
            pictures.archive(path)


def test_a_dataset():
    rows = [{"image": Image.fromarray(COLOURS)}, {"image": COLOURS[::-1].copy()}]
    rows += [{"image": GRAYS[..., None]}]
    source = pictures.dataset(rows)
    np.testing.assert_array_equal(source.pixels[:2], STACK)
    np.testing.assert_array_equal(source.pixels[2], np.repeat(GRAYS[..., None], 3, 2))
    assert pictures.dataset(rows, image_size=6, channels=1, count=2).pixels.shape == (
        (2, 6, 6, 1)
    )
    turned = Image.fromarray(COLOURS)
    turned.getexif()[0x0112] = 6
    (one,) = pictures.dataset([{"image": turned}])
    assert one.image.shape == (3, 17, 13)
    with pytest.raises(ValueError, match=r"Row 0 must have .* column 'img': 'img'"):
        pictures.dataset(rows, "img")
    with pytest.raises(ValueError, match=r"Row 0 .* smaller than 64 x 64"):
        pictures.dataset(rows, image_size=64)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.folder("nowhere"), "a folder, there is none at nowhere"),
        (lambda: pictures.arrays(np.zeros((2, 9, 9), int)), "become bytes by"),
        (lambda: pictures.arrays(STACK[0, 0]), r"got an array of shape \(17, 3\)"),
        (lambda: pictures.arrays(np.zeros((2, 2, 9, 4))), "with 1 or 3 channels"),
        (lambda: pictures.arrays(2 * STACK / 255 - 1), r"mean `\(images \+ 1\) / 2`"),
        (lambda: pictures.arrays(STACK / 1.0), "mean `images / 255`"),
        (
            lambda: pictures.arrays(STACK, STACK),
            r"shape of the pictures, \(2, 13, 17\)",
        ),
        (lambda: pictures.dataset([]), "`rows` must be a positive integer, got 0"),
        (lambda: pictures.dataset([0], fit="cover"), "`fit` must be one of"),
        (lambda: pictures.dataset([0], channels=4), "`channels` must be 1 or 3, got 4"),
        (lambda: pictures.dataset([0], count=-1), "`count` must be a positive integer"),
        (lambda: pictures.arrays(STACK[:0] / 255), r"hold pixels, .* \(0, 13, 17, 3\)"),
        # Pillow would make them black, or white.
        (
            lambda: pictures.dataset([{"image": np.ones((9, 9), np.float32) / 2}]),
            "array of bytes in column 'image': it is an array of float32",
        ),
        (
            lambda: pictures.dataset([{"image": Image.new("I", (9, 9), 30_000)}]),
            "it is of mode I, of which no value is white",
        ),
    ],
)
def test_more_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
