import functools
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from PIL import Image

from eqx_slots import serialisation
from eqx_slots.data import records

from .test_examples import load


FIXTURES = Path(__file__).parent / "fixtures"
pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


def test_kinds_of_scenes_and_their_models():
    """Pictures of each, in the model's range, and what the models are built with."""
    autoencoder = load("autoencoder")
    for options, shape, slots in (
        ({"scenes": "tetrominoes"}, (3, 35, 35), 5),
        ({"scenes": "sprites"}, (3, 64, 64), 7),
        ({"scenes": "sprites", "kind": "binarized"}, (1, 64, 64), 5),
        ({"scenes": "solids", "image_size": 16, "pool": 4}, (3, 16, 16), 7),
        ({"scenes": "tetrominoes", "preset": "tetrominoes"}, (3, 35, 35), 4),
        ({"scenes": "sprites", "preset": "multi_dsprites"}, (3, 64, 64), 6),
        ({"scenes": "solids", "preset": "clevr"}, (3, 128, 128), 7),
    ):
        run = autoencoder.Arguments(batch_size=2, **options)
        key = jax.random.key(0)
        make = functools.partial(run.recipe.make, key=key)
        model = eqx.filter_eval_shape(make, **run.built_with)
        made = eqx.filter_eval_shape(model, np.zeros(shape, np.float32), key=key)
        assert made.masks.shape == (slots, *shape[1:])
        if not run.recipe.is_small:
            continue
        batch_at = eqx.filter_jit(autoencoder.scenes_at(key, 2, run))
        scenes, again, other = batch_at(3), batch_at(3), batch_at(4)
        assert scenes.image.shape == (2, *shape)
        pictures = autoencoder.in_range(scenes, run.black).image
        assert -1 <= float(pictures.min()) < -0.2 < float(pictures.max()) <= 1
        np.testing.assert_array_equal(again.image, scenes.image)
        assert np.any(np.asarray(other.image != scenes.image))


def test_other_scenes_are_learned_from_a_pool(tmp_path, monkeypatch):
    autoencoder = load("autoencoder")
    monkeypatch.setattr(autoencoder, "HELD_OUT", 9)
    sizes = {"image_size": 16, "pool": 8, "batch_size": 2}
    arguments = autoencoder.Arguments(
        scenes="solids", steps=2, output=tmp_path, **sizes
    )
    result = autoencoder.main(arguments)
    assert result["scenes"] == "solids"
    model = serialisation.load(tmp_path / "model.safetensors")
    assert model.decoder.image_size == (16, 16)
    assert model.slot_attention.grad_iters is None


def test_paint_scenes_writes_what_it_promises(tmp_path, capsys, monkeypatch):
    module = load("paint_scenes")
    some = {name: module.KINDS[name] for name in ("blocks", "sprites, binarized")}
    monkeypatch.setattr(module, "KINDS", some)
    module.main(number=2, output=tmp_path)
    with Image.open(tmp_path / "scenes.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 2 * 130 + 2, 2 * 130 + 2, 3)
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10
    with Image.open(tmp_path / "solids.png") as image:
        picture, depth, behind = np.split(np.asarray(image)[:-2], 3)
    assert not np.array_equal(picture, behind)
    assert np.all(depth[..., 0] == depth[..., 2])  # gray, and darker far away
    assert depth[10:30, 2:130].mean() < depth[100:120, 2:130].mean()
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in some)
    assert " scenes a minute" in printed


FILE = FIXTURES / "tetrominoes.tfrecords"


def test_a_file_is_trained_on_but_for_the_last_scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    autoencoder = load("autoencoder")
    monkeypatch.setattr(autoencoder, "HELD_OUT", 2)
    options = {"scenes": "tetrominoes", "records": ("tetrominoes", FILE)}
    options |= {"batch_size": 1, "output": tmp_path / "run"}
    arguments = autoencoder.Arguments(steps=2, **options)
    source, held_out = autoencoder.read(arguments, 2)
    scenes = records.tetrominoes(FILE, cache=tmp_path / "other")
    assert len(source) == 1
    np.testing.assert_array_equal(source[0].image, scenes[0].image)
    np.testing.assert_allclose(held_out.image[1], 2 * scenes[2].image - 1, atol=1e-6)
    result = autoencoder.main(arguments)
    assert (result["steps"], result["objects"]) == (2, [3, 3])
    assert result["records"] == ["tetrominoes", str(FILE)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": ("clevr", FILE)}, "must begin with one of tetrominoes, multi"),
        ({"records": ("tetrominoes", FILE / "x")}, "there is no file"),
        ({"records": ("objects_room", FILE)}, "objects_room are for --scenes solids"),
    ],
)
def test_a_mistake_in_a_file(options, message, capsys):
    with pytest.raises(SystemExit):
        load("autoencoder").Arguments(scenes="tetrominoes", **options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 9}, "too few for a batch of 9"), ({"image_size": 36}, "35 alone")],
)
def test_a_file_of_other_sizes(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    autoencoder = load("autoencoder")
    options = {"batch_size": 1} | options
    record = {"scenes": "tetrominoes", "records": ("tetrominoes", FILE)}
    arguments = autoencoder.Arguments(**record, **options)
    with pytest.raises(SystemExit):
        autoencoder.read(arguments, 1)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "options", "shape"),
    [
        ("multi_dsprites", "multi_dsprites_binarized", {"kind": "binarized"}, 64),
        ("objects_room", "objects_room_train", {}, 64),
        ("clevr_with_masks", "clevr_with_masks", {"image_size": 48}, 48),
    ],
)
def test_files_of_all_kinds(kind, name, options, shape, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    autoencoder = load("autoencoder")
    file = FIXTURES / f"{name}.tfrecords"
    scenes = "sprites" if kind == "multi_dsprites" else "solids"
    sizes = {"batch_size": 1, "objects": (1, 10)} if "clevr" in kind else {}
    options = {"batch_size": 1} | options | sizes
    arguments = autoencoder.Arguments(scenes=scenes, records=(kind, file), **options)
    source, held_out = autoencoder.read(arguments, 1)
    assert held_out.image.shape == (1, arguments.channels, shape, shape)
    assert source[0].image.shape == held_out.image.shape[1:]
    if kind == "objects_room":
        assert arguments.num_slots == 4


def test_paint_videos_writes_what_it_promises(tmp_path, capsys, monkeypatch):
    module = load("paint_videos")
    some = {"blocks, occlusion": module.KINDS["blocks, occlusion"]}
    monkeypatch.setattr(module, "KINDS", some)
    module.main(num_frames=4, output=tmp_path)
    with Image.open(tmp_path / "videos.gif") as image:
        assert (image.n_frames, image.size) == (4, (132, 3 * 130 + 2))
        frames = []
        for index in range(4):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    assert len({frame.tobytes() for frame in frames}) == 4
    flow = [frame[2 * 130 + 2 : -2, 2:-2] for frame in frames]
    assert np.all(flow[0] > 250)  # nothing has moved yet
    assert all(np.any(frame < 50) for frame in flow[1:])
    assert "blocks, occlusion" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main(num_frames=3, output=tmp_path)
    assert "--num-frames must be 4 or more, got 3." in capsys.readouterr().err
