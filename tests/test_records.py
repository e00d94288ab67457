import errno
import gzip
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eqx_slots.data import _cache, _record_files, records
from eqx_slots.data._tfrecord import Field, masked_crc, parse, read

from .fixtures.write_records import FILES, one


FIXTURES = Path(__file__).parent / "fixtures"
READERS = {
    "tetrominoes": records.tetrominoes,
    "multi_dsprites_binarized": partial(records.multi_dsprites, kind="binarized"),
    "multi_dsprites_colored_on_grayscale": partial(
        records.multi_dsprites, kind="colored_on_grayscale"
    ),
    "objects_room_train": records.objects_room,
    "clevr_with_masks": partial(
        records.clevr_with_masks, crop=None, image_size=(240, 320)
    ),
}


def file(name):
    return FIXTURES / f"{name}.tfrecords"


def labels_of(features, name):
    masks = features["mask"][..., 0]
    masks = np.moveaxis(masks, -1, 0) if FILES[name][3] else masks
    return sum(i * (mask == 255) for i, mask in enumerate(masks))


@pytest.mark.parametrize("name", FILES)
def test_files_that_tensorflow_wrote(name, tmp_path):
    scenes = READERS[name](file(name), cache=tmp_path)
    assert len(scenes) == FILES[name][-1]
    background = 4 if name.startswith("objects_room") else 1
    for index in (1, 0):  # in any order
        scene, features = scenes[index], one(name, index)
        image = np.moveaxis(features["image"], 2, 0) / np.float32(255)
        np.testing.assert_array_equal(scene.image, image)
        parts = labels_of(features, name)
        want = np.maximum(parts - background + 1, 0)
        np.testing.assert_array_equal(scene.segmentation, want)
        seen = [(parts == i).any() for i in range(background, FILES[name][2])]
        assert list(scene.objects.present) == seen
        assert (False in seen) == (index > 0)
        del features["image"], features["mask"]
        assert scene.objects.properties.keys() == features.keys()
        for field, values in scene.objects.properties.items():
            np.testing.assert_array_equal(values, features[field][1:])
            assert values.dtype == features[field].dtype
        if background == 4:
            np.testing.assert_array_equal(scene.objects.parts, parts)
        else:
            assert scene.objects.parts is None
    assert [s.image.shape for s in scenes[:2]] == [scenes[0].image.shape] * 2
    np.testing.assert_array_equal(scenes[-1].image, scenes[len(scenes) - 1].image)


def slow_bilinear(image, size):
    """Each new pixel from the four around its middle, one after the other."""
    height, width, _ = image.shape
    made = np.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        for x in range(size[1]):
            v = np.clip((y + 0.5) * height / size[0] - 0.5, 0, height - 1)
            u = np.clip((x + 0.5) * width / size[1] - 0.5, 0, width - 1)
            for a in {int(np.floor(v)), int(np.ceil(v))}:
                for b in {int(np.floor(u)), int(np.ceil(u))}:
                    made[y, x] += (1 - abs(v - a)) * (1 - abs(u - b)) * image[a, b]
    return made


def test_clevr_as_papers_cut_it(tmp_path):
    scenes = records.clevr_with_masks(file("clevr_with_masks"), cache=tmp_path)
    features = one("clevr_with_masks", 0)
    part = slice(29, 221), slice(64, 256)
    want = slow_bilinear(features["image"][part].astype(float), (128, 128))
    got = 255 * np.moveaxis(scenes[0].image, 0, 2)
    np.testing.assert_allclose(got, want, atol=0.51)
    labels = labels_of(features, "clevr_with_masks")[part]
    middle = ((np.arange(128) + 0.5) * 1.5).astype(int)
    want = labels[middle][:, middle]
    np.testing.assert_array_equal(scenes[0].segmentation, want)
    # What lies outside the square is in the file, and not present.
    assert scenes[0].objects.properties["visibility"].sum() == 10
    seen = [(want == i).any() for i in range(1, 11)]
    assert list(scenes[0].objects.present) == seen
    assert False in seen


def test_scenes_of_few_objects(tmp_path):
    read_some = partial(
        records.clevr_with_masks, file("clevr_with_masks"), cache=tmp_path
    )
    assert [len(read_some(max_objects=most)) for most in (10, 9, 8, 7)] == [3, 2, 1, 0]
    few = read_some(max_objects=9, count=1)
    assert len(few) == 1
    assert few[0].objects.properties["visibility"].sum() == 9  # the second of the file


def test_splits_of_the_paper(tmp_path, monkeypatch):
    """By records of the file, of which some are then left out."""
    path, trained_on = file("clevr_with_masks"), _record_files.TRAINED_ON
    assert trained_on == {
        "tetrominoes": 60_000,
        "multi_dsprites": 60_000,
        "clevr_with_masks": 70_000,
    }
    assert _record_files.TESTED_ON == 320
    for name in trained_on:
        monkeypatch.setitem(trained_on, name, 1)
    part = partial(records.clevr_with_masks, path, cache=tmp_path)
    counts = lambda scenes: [
        int(x.objects.properties["visibility"].sum()) for x in scenes
    ]
    assert counts(part()) == [10, 9, 8]
    assert counts(part(split="train")) == [10]
    assert counts(part(split="train", max_objects=9)) == []
    assert counts(part(split="test")) == [9, 8]
    assert counts(part(split="test", max_objects=8)) == [8]
    assert counts(part(split="test", count=1)) == [9]
    monkeypatch.setattr(_record_files, "TESTED_ON", 1)
    assert counts(part(split="test", count=2)) == [9]
    for name in ("tetrominoes", "multi_dsprites_binarized"):
        named = partial(READERS[name], file(name), cache=tmp_path)
        whole, train, test = named(), named(split="train"), named(split="test")
        np.testing.assert_array_equal(train.images, whole.images[:1])
        np.testing.assert_array_equal(test.images, whole.images[1:2])
    with pytest.raises(ValueError, match='must be one of "train", "test", got \'val\''):
        part(split="val")
    monkeypatch.setitem(trained_on, "clevr_with_masks", 3)
    with pytest.raises(ValueError, match="no scene after the first 3, where the spl"):
        part(split="test", max_objects=10)


def test_a_file_is_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(file("tetrominoes").read_bytes())
    first = records.tetrominoes(path, cache=tmp_path / "cache")
    decoded = []
    monkeypatch.setattr(
        _record_files, "read", lambda path: decoded.append(path) or read(path)
    )
    again = records.tetrominoes(path, cache=tmp_path / "cache")
    assert not decoded
    np.testing.assert_array_equal(again.images, first.images)
    assert isinstance(again.images, np.memmap)
    assert len(records.tetrominoes(path, count=2, cache=tmp_path / "cache")) == 2
    assert len(decoded) == 1
    os.utime(path, (1, 1))  # another file, for all one knows
    records.tetrominoes(path, cache=tmp_path / "cache")
    assert len(decoded) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    records.tetrominoes(path)
    assert len(list((tmp_path / "home" / "eqx_slots").glob("*/done.json"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    records.tetrominoes(path)
    assert (tmp_path / "person" / ".cache" / "eqx_slots").is_dir()


def test_a_stopped_reader_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "_BLOCK", 1)
    whole = records.tetrominoes(file("tetrominoes"), cache=tmp_path / "whole")
    done = []

    def stop(count):
        done.append(count)
        if count == 2:
            raise KeyboardInterrupt

    read_here = partial(
        records.tetrominoes, file("tetrominoes"), cache=tmp_path / "part"
    )
    with pytest.raises(KeyboardInterrupt):
        read_here(progress=stop)
    (unfinished,) = (tmp_path / "part").glob("*.partial")
    with open(unfinished / "image", "ab") as half:
        half.write(b"of a record half written")
    parsed = []
    monkeypatch.setattr(
        _record_files, "parse", lambda *a: parsed.append(a[3]) or parse(*a)
    )
    scenes = read_here(progress=done.append)
    assert parsed == [2]  # the first two were there
    assert done == [1, 2, 3]
    np.testing.assert_array_equal(scenes.images, whole.images)
    np.testing.assert_array_equal(scenes.labels, whole.labels)
    np.testing.assert_array_equal(scenes.properties["x"], whole.properties["x"])


def test_a_full_disk(tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(_cache.os, "fsync", fails)
        with pytest.raises(OSError, match="after 3 records of 5,012 bytes") as raised:
            records.tetrominoes(file("tetrominoes"), cache=tmp_path)
        assert raised.value.errno == errno.ENOSPC
        assert "ask for fewer by `count`" in str(raised.value)
    assert len(records.tetrominoes(file("tetrominoes"), cache=tmp_path)) == 3


def fails(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_broken_disk_is_no_full_one(tmp_path, monkeypatch):
    def breaks(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_record_files, "read", breaks)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] Input/output error$"):
        records.tetrominoes(file("tetrominoes"), cache=tmp_path)


def test_two_at_once(tmp_path, monkeypatch):
    decoded, begun = [], threading.Event()

    def slowly(path):
        decoded.append(path)
        begun.wait(10)
        return read(path)

    monkeypatch.setattr(_record_files, "read", slowly)
    results = []
    read_here = partial(records.tetrominoes, file("tetrominoes"), cache=tmp_path)
    workers = [
        threading.Thread(target=lambda: results.append(read_here())) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    begun.set()
    for worker in workers:
        worker.join()
    assert len(decoded) == 1
    np.testing.assert_array_equal(results[0].images, results[1].images)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EIO])
def test_a_disk_that_gives_no_lock(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    read_here = partial(records.tetrominoes, file("tetrominoes"), cache=tmp_path)
    if code == errno.ENOSYS:  # it has none: go on
        assert len(read_here()) == 3
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            read_here()


@pytest.mark.usefixtures("as_users_run")
def test_a_count_of_numpy(tmp_path):
    options = {"count": np.int64(2), "cache": tmp_path}
    assert len(records.tetrominoes(file("tetrominoes"), **options)) == 2


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "record 0: gzip says: Compressed file"),
        (lambda data: damaged(data, len(data) - 6), "record 3: gzip says: CRC check"),
        (lambda data: damaged(data, len(data) // 2), "damaged|gzip says"),
        (lambda _: b"image,mask\n" * 30, "record 0: the checksum of its length"),
        (lambda _: b"short", "record 0: the file ends within it"),
        (lambda data: gzip.decompress(data)[:-7], "record 2: the file ends within it"),
        (lambda _: framed(b"\x0a\x7f"), "record 0: it is no `tf.Example`"),
        (lambda _: framed(b"\x0b"), "unknown kind 3"),
        (lambda _: framed(b""), "'visibility', but none of those expected"),
    ],
)
def test_damaged_files(tmp_path, spoil, message):
    path = tmp_path / "file.tfrecords"
    path.write_bytes(spoil(file("tetrominoes").read_bytes()))
    with pytest.raises(ValueError, match=message) as raised:
        records.tetrominoes(path, cache=tmp_path)
    assert str(path) in str(raised.value)


def test_files_of_another_kind(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"record 0: it has no feature 'orientation', 'scale', but color",
    ):
        records.multi_dsprites(file("tetrominoes"), "binarized", cache=tmp_path)
    with pytest.raises(
        ValueError, match=r"'image' has 3675 numbers, expected are bytes"
    ):
        records.objects_room(file("tetrominoes"), cache=tmp_path)


def framed(record):
    """A record as it stands in a file."""
    head = len(record).to_bytes(8, "little")
    check = lambda data: masked_crc(data).to_bytes(4, "little")
    return head + check(head) + record + check(record)


def test_a_file_without_compression(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(gzip.decompress(file("tetrominoes").read_bytes()))
    plain = records.tetrominoes(path, cache=tmp_path)
    packed = records.tetrominoes(file("tetrominoes"), cache=tmp_path)
    np.testing.assert_array_equal(plain.images, packed.images)


def test_checksum():
    assert (
        masked_crc(b"123456789")
        == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    )


def message(*parts):
    """Of a protocol buffer: parts of a number and a text."""
    return b"".join(bytes([8 * n + 2, len(text)]) + text for n, text in parts)


def test_other_ways_to_write_the_same():
    """All bytes as one value, floats one by one, and parts that nobody asked for."""
    numbers = np.array([1.5, -2.0], "<f4")
    one_by_one = b"".join(bytes([13]) + x.tobytes() for x in numbers)
    features = {
        b"image": message((1, message((1, b"abcdef")))),
        b"x": message((2, one_by_one)),
        b"y": message((2, message((1, numbers.tobytes())))),
        b"count": message((3, bytes([8, 200, 1]))),
    }
    entries = [(1, message((1, k), (2, value))) for k, value in features.items()]
    extra = bytes([16, 150, 1]) + bytes([25]) + bytes(8)  # a number, eight bytes
    record = message((1, message(*entries)))
    schema = {"image": Field((2, 3), is_bytes=True), "x": Field((2,)), "y": Field((2,))}
    found = parse(record, schema, Path("file"), 0)
    assert found["image"].tobytes() == b"abcdef"
    np.testing.assert_array_equal(found["x"], numbers)
    np.testing.assert_array_equal(found["y"], numbers)
    with pytest.raises(ValueError, match="a list of floats is missing"):
        parse(record, {"image": Field((2,))}, Path("file"), 0)
    # Of other fields beside, the text is as long as its tag says.
    entry = extra + message((1, b"x"), (2, features[b"x"]))
    beside = message((1, message((1, entry))))
    found = parse(beside, {"x": Field((2,))}, Path("file"), 0)
    np.testing.assert_array_equal(found["x"], numbers)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: records.tetrominoes("nowhere"), "there is none at nowhere"),
        (lambda: records.multi_dsprites("x", "white"), "`kind` must be one of"),
        (lambda: records.objects_room("x", "hall"), '"train", "six_objects"'),
        (
            lambda: records.tetrominoes(file("tetrominoes"), count=0),
            "`count` must be a positive integer",
        ),
        (
            lambda: records.clevr_with_masks("x", crop=((0, 241), (0, 9))),
            "rows from and to with 0 <= from < to <= 240",
        ),
        (
            lambda: records.clevr_with_masks("x", image_size=(0, 9)),
            "`height` must be",
        ),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
