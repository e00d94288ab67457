import errno
import os
import pickle
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from eqx_slots.data import pictures
from eqx_slots.data.pictures import _decode


RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (13, 17, 3)).astype(np.uint8)
GRAYS = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (13, 17)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    """Reads the folder beside the cache."""
    path = tmp_path / "pictures"
    path.mkdir()
    return path, partial(pictures.folder, path, cache=tmp_path / "cache")


def png(pixels, kind):
    """A PNG of 16 bits a channel, which Pillow writes of grays alone."""
    chunk = lambda name, content: (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def on_black(colours, alpha):
    return np.rint(colours * (alpha[..., None] / 255))


def test_colours_and_grays_as_they_are(folder):
    path, read = folder
    Image.fromarray(COLOURS).save(path / "a.png")
    Image.fromarray(COLOURS).save(path / "b.webp", lossless=True)
    source = read()
    assert source.names == ("a.png", "b.webp")
    for image, segmentation in source:
        want = np.moveaxis(COLOURS, 2, 0) / np.float32(255)
        np.testing.assert_array_equal(image, want)
        assert image.dtype == np.float32
        assert segmentation is None
    assert (source.notes, source.skipped) == ((), {})
    np.testing.assert_array_equal(source[:1][0].image, source[-2].image)


def palette(transparency=None):
    image = Image.fromarray(GRAYS % 7, "P")
    image.putpalette(COLOURS[0, :7].tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


ALPHA = np.dstack([COLOURS, GRAYS])
INDEXED = COLOURS[0][GRAYS % 7]


@pytest.mark.parametrize(
    ("name", "image", "want", "note"),
    [
        ("alpha.png", Image.fromarray(ALPHA), on_black(COLOURS, GRAYS), "transparent"),
        ("palette.png", palette(), INDEXED, None),
        (
            "hole.png",
            palette(3),
            INDEXED * (GRAYS % 7 != 3)[..., None],
            "1 picture, hole.png: is transparent and lies on black now.",
        ),
        ("gray.png", Image.fromarray(GRAYS), GRAYS[..., None], None),
        ("bits.png", Image.fromarray(GRAYS > 99), 255 * (GRAYS > 99)[..., None], None),
        (
            "grays.png",
            Image.merge(
                "LA",
                [
                    Image.fromarray(GRAYS),
                    Image.fromarray(GRAYS.T.copy().reshape(13, 17)),
                ],
            ),
            on_black(GRAYS[..., None], GRAYS.T.reshape(13, 17)),
            "transparent",
        ),
    ],
)
def test_kinds_of_pictures(folder, name, image, want, note):
    path, read = folder
    options = {"transparency": 3} if name == "hole.png" else {}
    image.save(path / name, **options)
    source = read()
    got = 255 * np.moveaxis(source[0].image, 0, 2)
    np.testing.assert_allclose(got, want, atol=1.01 if note else 1e-4)
    assert note in source.notes[0] if note else source.notes == ()


def test_a_photograph_for_print(folder):
    path, read = folder
    flat = np.full((16, 16, 4), (255, 0, 0, 0), np.uint8)  # cyan, and no other ink
    Image.fromarray(flat, "CMYK").save(path / "print.JPG", quality=95)
    np.testing.assert_allclose(read()[0].image[:, 8, 8], [0, 1, 1], atol=0.03)


def test_grays_of_16_bits_are_exact(folder):
    path, read = folder
    Image.fromarray(DEEP).save(path / "a.png")
    Image.fromarray(GRAYS).save(path / "b.png")
    source = read()
    assert source.pixels.dtype == np.uint16
    np.testing.assert_array_equal(source[0].image[0], DEEP / np.float32(65535))
    np.testing.assert_array_equal(source[1].image[0], GRAYS / np.float32(255))
    # Among colours they are of 8 bits, as all is then.
    in_colour = read(channels=3)
    assert in_colour.pixels.dtype == np.uint8
    np.testing.assert_array_equal(in_colour.pixels[0, ..., 1], DEEP >> 8)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_colours_of_16_bits_are_read_as_8_and_said(folder, kind, channels):
    path, read = folder
    deep = RNG.integers(0, 65536, (13, 17, channels)).astype(np.uint16)
    deep[..., 3:] = 65535
    if kind == 4:
        deep[..., 1] = 65535
    (path / "deep.png").write_bytes(png(deep, kind))
    source = read()
    assert source.pixels.dtype == np.uint8
    want = deep[..., :1] if kind == 4 else deep[..., :3]
    np.testing.assert_array_equal(source.pixels[0], want >> 8)
    assert source.notes[0] == (
        "1 picture, deep.png: has 16 bits a channel and is read as 8."
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_exif_turns_pictures(folder, name):
    path, read = folder
    image = Image.fromarray(np.kron(GRAYS[:3, :5], np.ones((16, 16), np.uint8)))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image = image.convert("RGB") if name == "a.webp" else image
    image.save(path / name, exif=exif, quality=95)
    source = read()
    assert source[0].image.shape[1:] == (80, 48)
    want = np.rot90(np.asarray(Image.open(path / name))[..., None], -1)
    np.testing.assert_array_equal(source.pixels[0], want.reshape(80, 48, -1))
    assert source.notes == (f"1 picture, {name}: is turned as its EXIF says.",)
    image.save(path / f"more_{name}", exif=exif)
    said = f"2 pictures, such as {name}: is turned as its EXIF says."
    assert read().notes == (said,)


def test_order_and_what_is_not_looked_at(folder):
    path, read = folder
    for name in ("b/x.png", "a/x.PNG", "c.png", ".hidden/x.png", "a/.x.png", "B.jpeg"):
        (path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(COLOURS).save(path / name)
    (path / "a" / "notes.txt").write_text("of no picture")
    source = read()
    assert source.names == ("B.jpeg", "a/x.PNG", "b/x.png", "c.png")
    assert source.notes == ("1 file, a/notes.txt: of no kind that is read.",)
    assert read(count=2).names == source.names[:2]


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_the_first_frame(folder, name):
    path, read = folder
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    frames[0].save(path / name, **options)
    source = read()
    np.testing.assert_array_equal(source.pixels[0], COLOURS)
    assert "moves; its first frame is taken" in source.notes[0]


def test_bad_files_are_named_and_counted(folder, monkeypatch):
    path, read = folder
    Image.fromarray(np.kron(COLOURS, np.ones((4, 4, 1), np.uint8))).save(path / "a.png")
    whole = (path / "a.png").read_bytes()
    (path / "b.png").write_bytes(whole[: len(whole) // 2])
    (path / "c.png").write_bytes(b"of no kind")
    Image.new("RGB", (200, 200)).save(path / "d.png")
    Image.new("RGB", (400, 200)).save(path / "e.png")
    Image.fromarray(COLOURS).save(path / "f.png")
    (path / "g.png").write_bytes(b"")
    (path / "z.png").write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    for _ in range(2):  # the second time from the cache
        with pytest.warns(RuntimeWarning, match=r"6 of 8 pictures of .* b.png: "):
            source = read(image_size=(20, 30))
        assert source.names == ("a.png", "z.png")
        np.testing.assert_array_equal(source[0].image, source[1].image)
        assert list(source.skipped) == [f"{letter}.png" for letter in "bcdefg"]
        assert source.skipped["c.png"] == "it is no PNG, JPEG or WebP"
        assert source.skipped["d.png"] == "it is huge: more than 30,000 pixels"
        assert source.skipped["e.png"] == source.skipped["d.png"]
        assert "it is 13 x 17, smaller than 20 x 30" in source.skipped["f.png"]
    (path / "a.png").unlink()
    (path / "z.png").unlink()
    with pytest.raises(
        ValueError, match=r"6 of 6 pictures of .* are left out, such as"
    ):
        read(image_size=(20, 30))


@pytest.mark.parametrize("when", ["look", "decode"])
def test_a_disk_that_fails_is_not_a_bad_file(folder, monkeypatch, when):
    """It may be well tomorrow, and what is wrong with a file is remembered."""
    path, read = folder
    Image.fromarray(COLOURS).save(path / "a.png")

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        if when == "look":
            patched.setattr(Image, "open", fail)
        else:
            patched.setattr(_decode, "decode", fail)
        with pytest.raises(OSError, match="Input/output error"):
            read()
    assert len(read()) == 1


@pytest.mark.parametrize("kind", ["gray", "palette", "deep", "bits"])
def test_masks(folder, kind):
    path, read = folder
    Image.fromarray(COLOURS).save(path / "a.jpg")
    (path / "masks").mkdir()
    labels = GRAYS % (2 if kind == "bits" else 5)
    image = Image.fromarray(labels)
    if kind == "palette":
        image = Image.fromarray(labels, "P")
        image.putpalette(bytes(range(15)))
    elif kind == "deep":
        image = Image.fromarray(labels.astype(np.uint16))
    elif kind == "bits":
        image = Image.fromarray(labels > 0)
    image.save(path / "masks" / "a.png")
    source = read(masks=path / "masks")
    assert source.names == ("a.jpg",)  # the masks are no pictures
    np.testing.assert_array_equal(source[0].segmentation, labels)
    assert source[0].segmentation.dtype == np.int32
    cut = read(masks=path / "masks", image_size=(6, 6))[0].segmentation
    middle = ((np.arange(6) + 0.5) * 13 / 6).astype(int)
    np.testing.assert_array_equal(cut, labels[:, 2:15][middle][:, middle])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (COLOURS, "its mask is RGB, no gray or palette PNG"),
        (GRAYS[:9], "its mask is 9 x 17, the picture 13 x 17"),
        (np.full((13, 17), 300, np.uint16), "its mask has labels up to 300"),
        (None, "1 have none: a.png needs .*masks.*a.png"),
    ],
)
def test_bad_masks(folder, tmp_path, mask, message):
    path, read = folder
    Image.fromarray(COLOURS).save(path / "a.png")
    (tmp_path / "masks").mkdir()
    if mask is not None:
        Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=message):
        read(masks=tmp_path / "masks")


def test_a_folder_is_decoded_once(folder, monkeypatch):
    path, read = folder
    for i in range(70):  # more than are decoded at a time
        Image.fromarray(COLOURS + np.uint8(i)).save(path / f"{i:02}.png")
    decoded, done = [], []

    def watched(file, plan):
        decoded.append(file.name)
        return decode(file, plan)

    decode = _decode.decode
    monkeypatch.setattr(_decode, "decode", watched)
    first = read(progress=done.append)
    assert sorted(decoded) == sorted(first.names)
    assert done == [64]
    np.testing.assert_array_equal(first.pixels[69], COLOURS + np.uint8(69))
    read()
    assert len(decoded) == 70
    os.utime(path / "00.png", (1, 1))  # another picture, for all one knows
    read()
    assert len(decoded) == 140
    read(channels=1)
    assert len(decoded) == 210


def test_workers_get_the_file_and_not_what_is_in_it(folder):
    path, read = folder
    for i in range(3):
        Image.fromarray(np.kron(COLOURS, np.ones((9, 9, 1), np.uint8))).save(
            path / f"{i}.png"
        )
    source = read()
    sent = pickle.dumps(source)
    assert len(sent) < 2000 < source.pixels.nbytes
    again = pickle.loads(sent)
    assert isinstance(again.pixels, np.memmap)
    np.testing.assert_array_equal(again[2].image, source[2].image)
    part = pickle.loads(pickle.dumps(source.pixels[1:]))
    np.testing.assert_array_equal(part, source.pixels[1:])


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, r"end in .png, .jpg, .jpeg, .webp; found none\."),
        ({"a.gif": COLOURS}, {}, "found none, 1 file, a.gif of other kinds"),
        ({"a.png": COLOURS, "b.png": GRAYS}, {}, "1 are gray and 1 in colour"),
        (
            {"a.png": COLOURS, "b.png": COLOURS[1:], "c.png": COLOURS},
            {},
            r"2 sizes, most often 13 x 17 \(2 of 3\); give them one",
        ),
        ({"a.png": COLOURS}, {"fit": "cover"}, '"crop", "stretch", "pad", got .cover'),
        ({"a.png": COLOURS}, {"channels": 4}, "`channels` must be 1, 3 or None, got 4"),
        ({"a.png": COLOURS}, {"count": 0}, "`count` must be a positive integer"),
        ({"a.png": COLOURS}, {"image_size": 0}, "`height` must be a positive integer"),
        ({"a.png": COLOURS}, {"image_size": 64}, "1 of 1 .* 13 x 17, smaller than 64"),
    ],
)
def test_mistakes(folder, files, options, message):
    path, read = folder
    for name, array in files.items():
        Image.fromarray(array).save(path / name)
    with pytest.raises(ValueError, match=message):
        read(**options)
