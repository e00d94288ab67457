import json
import os

import numpy as np
import pytest
from PIL import Image

from eqx_slots.data import records
from eqx_slots.data._record_files import bilinear
from eqx_slots.properties import CLEVR


OBJECTS = [
    {
        "color": "purple",
        "size": "large",
        "rotation": 178.9,
        "shape": "cylinder",
        "3d_coords": [-1.5, 2.25, 0.7],
        "material": "rubber",
        "pixel_coords": [193, 110, 11.5],
    },
    {
        "color": "gray",
        "size": "small",
        "rotation": 12.0,
        "shape": "cube",
        "3d_coords": [0.5, -2.75, 0.35],
        "material": "metal",
        "pixel_coords": [300, 200, 9.25],
    },
]
COUNTS = (2, 0, 1, 2)


def pixels(index):
    return np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)


def write(folder, counts=COUNTS, split="val"):
    """Pictures that are smaller than the real ones, all else as it is there."""
    (folder / "scenes").mkdir(exist_ok=True)
    (folder / "images" / split).mkdir(parents=True)
    scenes = []
    for index, count in enumerate(counts):
        name = f"CLEVR_{split}_{index:06}.png"
        alpha = np.full((20, 30, 1), 255, np.uint8)
        picture = Image.fromarray(np.concatenate([pixels(index), alpha], axis=2))
        picture.save(folder / "images" / split / name)
        objects = OBJECTS[::-1][:count] if index else OBJECTS
        scenes.append({"image_filename": name, "objects": objects, "split": split})
    path = folder / "scenes" / f"CLEVR_{split}_scenes.json"
    path.write_text(json.dumps({"info": {}, "scenes": scenes}))
    return path


def read(folder, **options):
    options = {"image_size": (20, 30), "cache": folder / "cache"} | options
    return records.clevr(folder, "val", **options)


def test_pictures_and_what_is_in_them(tmp_path):
    write(tmp_path)
    pictures = read(tmp_path)
    assert len(pictures) == 4
    assert read(tmp_path, image_size=7)[0].image.shape == (3, 7, 7)
    image, objects = pictures[0]
    np.testing.assert_array_equal(image, np.moveaxis(pixels(0), 2, 0) / np.float32(255))
    assert list(objects.present) == [True] * 2 + [False] * 8
    for name in ("size", "material", "shape", "colour"):
        labels, theirs = CLEVR.group(name).labels, name.replace("colour", "color")
        found = [labels[i] for i in getattr(objects, name)[:2]]
        assert found == [each[theirs] for each in OBJECTS]
        assert not getattr(objects, name)[2:].any()
    np.testing.assert_allclose(objects.coordinates[0], [-1.5, 2.25, 0.7])
    np.testing.assert_allclose(objects.pixel_coords[1], [300, 200, 9.25])
    np.testing.assert_allclose(objects.rotation[:3], [178.9, 12.0, 0.0])
    assert [each.objects.present.sum() for each in pictures[1:]] == [0, 1, 2]
    rows = records.elements(objects)
    assert not rows[2:].any()
    text = CLEVR.describe(rows[0])
    assert "large" in text and "purple" in text and "cylinder" in text


def test_cut_resized_and_left_out(tmp_path):
    write(tmp_path)
    options = {"crop": ((2, 18), (5, 25)), "image_size": (8, 9)}
    few = read(tmp_path, max_objects=1, **options)
    assert [each.objects.present.sum() for each in few] == [0, 1]
    want = bilinear(pixels(2)[2:18, 5:25], (8, 9))
    np.testing.assert_array_equal(
        few[1].image, np.moveaxis(want, 2, 0) / np.float32(255)
    )
    assert len(read(tmp_path, count=3)) == 3


def test_what_is_kept_needs_the_folder_no_more(tmp_path):
    path = write(tmp_path)
    before = read(tmp_path)[3]
    for picture in (tmp_path / "images" / "val").iterdir():
        picture.write_bytes(b"")
    np.testing.assert_array_equal(read(tmp_path)[3].image, before.image)
    os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=r"CLEVR_val_000000.png cannot be read as"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda f: records.clevr(f, "test"), '"train", "val", got \'test\''),
        (lambda f: records.clevr(f / "images"), "train_scenes.json is not there"),
        (lambda f: read(f, image_size=(0, 3)), "`height` must be a positive"),
        (lambda f: read(f, count=0), "`count` must be a positive"),
        (lambda f: read(f, crop=((2, 21), (0, 5))), "within 20 x 30, got"),
    ],
)
def test_mistakes(tmp_path, mistake, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        mistake(tmp_path)


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ("nothing", "must hold the scenes of CLEVR"),
        ({"scenes": [{"objects": []}]}, "each with `image_filename`"),
        ({"scenes": [{"image_filename": "x", "objects": OBJECTS * 6}]}, "up to 10"),
        ({"scene": []}, "must hold the scenes of CLEVR"),
    ],
)
def test_other_files(tmp_path, scenes, message):
    path = write(tmp_path)
    path.write_text(scenes if isinstance(scenes, str) else json.dumps(scenes))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    "change", [{"color": "pink"}, {"3d_coords": [1, 2]}, {"material": None}]
)
def test_objects_of_another_kind(tmp_path, change):
    path = write(tmp_path)
    objects = [OBJECTS[0] | change]
    scene = {"image_filename": "CLEVR_val_000000.png", "objects": objects}
    path.write_text(json.dumps({"scenes": [scene]}))
    with pytest.raises(ValueError, match=r"object of CLEVR_val_000000.png is not one"):
        read(tmp_path)
