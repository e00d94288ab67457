"""From a folder to a model, and from pictures to masks: the two examples for that."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from eqx_slots import serialisation, viz
from eqx_slots.data import blocks

from .test_examples import load


PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # of scikit-learn
pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


def scene(rng, size=(16, 16)):
    """Two bright squares on a dark picture, side by side."""
    picture = np.full((*size, 3), 20, np.uint8)
    labels = np.zeros(size, np.uint8)
    for number, left in enumerate((0, size[1] // 2), 1):
        top, left = rng.integers(1, size[0] - 5), left + rng.integers(1, 3)
        picture[top : top + 4, left : left + 4] = rng.integers(120, 256, 3)
        labels[top : top + 4, left : left + 4] = number
    return picture, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for kind in ("pictures", "masks"):
        (path / kind).mkdir()
    for index in range(14):
        for kind, array in zip(("pictures", "masks"), scene(rng)):
            Image.fromarray(array).save(path / kind / f"{index}.png")
    return path


@pytest.fixture
def trained(folder, monkeypatch):
    """Two steps of it, made once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    own, run = load("own_pictures"), folder / "run"
    few = functools.partial(
        own.Arguments,
        folder=folder / "pictures",
        masks=folder / "masks",
        batch_size=2,
        num_slots=3,
        output=run,
    )
    if not run.exists():
        own.main(few(steps=2))
    return run, own, few


def test_a_folder_becomes_a_model(trained, capsys):
    run, own, few = trained
    assert {path.name for path in run.iterdir()} == {
        *("checkpoints", "options.json", "metrics.json", "history.jsonl"),
        *("overlay.png", "training.png", "model.safetensors", "model.json"),
    }
    written = json.loads((run / "metrics.json").read_text())
    assert written["stopped"] == "finished"
    assert written["image_size"] == [16, 16]
    assert np.isfinite(written["soft_fg_ari"])
    model = serialisation.load(run / "model.safetensors")
    assert model.decoder.image_size == (16, 16)
    assert model.slot_attention.grad_iters is None
    kind = json.loads((run / "model.json").read_text())
    assert kind["fit"] == "crop"
    low, middle, high = kind["quantiles"]["darkest"]
    assert low == middle == high == pytest.approx(20 / 255, abs=1e-6)
    with Image.open(run / "overlay.png") as image:
        assert image.size == (6 * (3 * 16 + 2) + 2, 8 * (3 * 16 + 2) + 2)
    # What is there is gone on with, and what it was is the same.
    again = own.main(few(steps=2, resume=True))
    assert again["steps"] == 2
    printed = capsys.readouterr().out
    assert "12 pictures to train on, 2 held out" in printed
    assert "size   16 x 16: most pictures are 16 x 16." in printed
    assert "slots  5: up to 2 things on a plain background" in printed


def test_pictures_become_masks(trained, folder, tmp_path, capsys):
    run, _, _ = trained
    segment = load("segment")
    strange, rng = tmp_path / "strange", np.random.default_rng(5)
    (strange / "sub").mkdir(parents=True)
    own, _ = scene(rng, (16, 16))
    files = {
        "own.png": own,
        "inverted.png": 255 - own,
        "blank.png": np.full((16, 16, 3), 20, np.uint8),
        "sub/photograph.jpg": rng.integers(0, 256, (40, 60, 3)).astype(np.uint8),
        "tiny.png": own[:8],
    }
    for name, array in files.items():
        Image.fromarray(array).save(strange / name)
    model = str(run / "model.safetensors")
    result = segment.main(strange, model=model, output=tmp_path / "out")
    names = [entry["file_name"] for entry in result["images"]]
    assert names == ["blank.png", "inverted.png", "own.png", "sub/photograph.jpg"]
    assert set(result["not_of_its_kind"]) == set(names) - {"own.png"}
    with Image.open(tmp_path / "out" / "masks" / "sub" / "photograph.jpg.png") as mask:
        assert (mask.mode, mask.size) == ("P", (60, 40))
        assert not np.any(np.asarray(mask)[:, :9])  # the model was not shown that
    with Image.open(tmp_path / "out" / "overlays" / "own.png.png") as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (16, 16))
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert written["images"] == result["images"]
    printed = capsys.readouterr().out
    assert "! tiny.png is left out: Row 0" in printed
    assert "! blank.png is not of this model's kind: " in printed
    assert "4 pictures, " in printed
    # One picture is enough.
    one = segment.main(strange / "own.png", model=model, output=tmp_path / "one")
    assert [entry["file_name"] for entry in one["images"]] == ["own.png"]


def test_a_model_that_is_damaged(trained, tmp_path, capsys):
    segment = load("segment")
    for name in ("model.safetensors", "model.json"):
        for kept in ("model.safetensors", "model.json"):
            content = (trained[0] / kept).read_bytes()
            content = content[:-9] if kept == name else content
            (tmp_path / kept).write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            segment.main(tmp_path, model=str(tmp_path / "model.safetensors"))
        assert ended.value.code == 2
        assert "cannot be read" in capsys.readouterr().err


def test_masks_of_a_model_by_its_name(tmp_path, capsys):
    """Scenes of blocks, and two photographs and a blank picture, which are none."""
    segment, datasets = load("segment"), pytest.importorskip("sklearn.datasets")
    scenes = jax.jit(jax.vmap(blocks.scene))(jax.random.split(jax.random.key(5), 64))
    painted = map(viz.picture, np.asarray(scenes.image))
    files = {f"{index:02}.png": picture for index, picture in enumerate(painted)}
    photographs = {f"{x}.png": datasets.load_sample_image(x) for x in PHOTOGRAPHS}
    strange = photographs | {"blank.png": np.full((40, 32, 3), 128, np.uint8)}
    for name, array in (files | strange).items():
        Image.fromarray(array).save(tmp_path / name)
    out = tmp_path / "out"
    result = segment.main(tmp_path, model="blocks", output=out)
    assert len(result["images"]) == 64 + 3
    others = result["not_of_its_kind"]
    assert others.keys() >= strange.keys()
    assert len(others) <= 2 + len(strange)
    found = []
    for name, truth in zip(files, np.asarray(scenes.segmentation)):
        with Image.open(out / "masks" / f"{name}.png") as mask:
            found.append(np.mean((np.asarray(mask) > 0) == (truth > 0)))
    assert np.mean(found) > 0.98
    assert "67 pictures, " in capsys.readouterr().out


# pycocotools 2.0.11 with NumPy 2, where it decodes; to encode it does without.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_as_runs():
    """Lengths column by column, beginning with what is outside, as COCO has them."""
    segment, rng = load("segment"), np.random.default_rng(2)
    for shape in ((1, 1), (5, 7), (40, 3), (64, 96)):
        for share in (0, 0.1, 0.5, 1):
            where = rng.random(shape) < share
            runs = segment.encoded(where)
            assert json.loads(json.dumps(runs)) == runs
            np.testing.assert_array_equal(coco.decode(runs), where)
            ends = np.flatnonzero(np.diff(where.T.ravel(), prepend=0, append=2))
            lengths = np.diff(ends, prepend=0).tolist()
            plain = {"size": list(shape), "counts": lengths}
            want = coco.frPyObjects(plain, *shape)["counts"].decode()
            assert (runs["size"], runs["counts"]) == (plain["size"], want)


def test_few_of_its_own_are_called_strange():
    """With limits from as many pictures as a small folder leaves."""
    kind, rng = load("own_kind"), np.random.default_rng(3)
    make = lambda number: np.stack([scene(rng)[0] for _ in range(number)]) / 255
    images = jnp.moveaxis(jnp.asarray(2 * make(192) - 1, jnp.float32), 3, 1)
    uniform = jnp.full((192, 3, 16, 16), 1 / 3)
    made = SimpleNamespace(image=images * 0.98, masks=uniform)
    figures = kind.figures_of(images, made, -1.0)
    first = {name: values[:128] for name, values in figures.items()}
    quantiles = kind.quantiles_of(first)
    rows = [{name: x[i] for name, x in figures.items()} for i in range(128, 192)]
    assert sum(bool(kind.complaints(row, quantiles)) for row in rows) <= 2
    np.testing.assert_allclose(figures["mask entropy"], 0, atol=1e-5)
    want = np.log10(np.mean((0.01 * np.asarray(images)) ** 2, axis=(1, 2, 3)) + 1e-8)
    np.testing.assert_allclose(figures["error"], want, atol=1e-4)
    worse = rows[0] | {"error": rows[0]["error"] + 2}
    (sentence,) = kind.complaints(worse, quantiles)
    assert sentence.startswith("error ")
    better = rows[0] | {"error": rows[0]["error"] - 2}
    assert not kind.complaints(better, quantiles)


@pytest.mark.parametrize(
    ("fit", "whole", "box"),
    [
        ("crop", (40, 20), [20, 5, 5, 5]),
        ("stretch", (40, 20), [20, 5, 10, 5]),
        ("pad", (40, 20), [20, 0, 10, 10]),
        ("pad", (4, 4), [2, 0, 2, 2]),
    ],
)
def test_masks_lie_where_the_model_has_looked(fit, whole, box):
    """A slot that has rows 2 to 4 and columns 4 to 6 of 8 x 8."""
    segment = load("segment")
    kind = {"fit": fit, "image_size": [8, 8]}
    mask = np.zeros((8, 8), np.float32)
    mask[2:4, 4:6] = 1
    made = SimpleNamespace(masks=jnp.asarray([1 - mask, mask]))
    masks = segment.masks_of(made, Image.new("RGB", whole), kind)
    labels = segment.label(masks)
    assert set(np.unique(labels)) == {0, 2}
    (found,) = segment.boxes_of(labels, masks, smallest=1)
    np.testing.assert_allclose(found["bbox"], box, atol=1)
    assert found["area"] == np.sum(labels == 2)
    assert 0.5 < found["score"] <= 1
    assert not segment.boxes_of(labels, masks, smallest=found["area"] + 1)


def test_proposals():
    proposal = load("proposal")
    rng = np.random.default_rng(0)
    plain = [scene(rng, (30, 60))[0] for _ in range(9)]
    large = [Image.fromarray(np.kron(x, np.ones((8, 8, 1), np.uint8))) for x in plain]
    size, slots, why = proposal.propose([(image.size, image) for image in large])
    assert (size, slots) == ((32, 64), 5)
    assert "most pictures are 240 x 480, which would take hours" in why["size"]
    assert "0.07 to " in why["range"]
    noise = [Image.fromarray(rng.integers(90, 120, (9, 9, 3)).astype(np.uint8))]
    noise += [Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8))]
    size, slots, why = proposal.propose([(image.size, image) for image in noise[1:]])
    assert (size, slots) == ((9, 9), 7)
    assert "no plain background" in why["slots"]
    _, _, why = proposal.propose([(image.size, image) for image in noise[:1]])
    assert "There is little contrast." in why["range"]


def test_16_bits_and_masks_beside_pictures(tmp_path):
    proposal, segment = load("proposal"), load("segment")
    (tmp_path / "masks").mkdir()
    path = tmp_path / "a.png"
    Image.fromarray(np.full((9, 9), 30_000, np.uint16)).save(path)
    Image.new("L", (20, 30)).save(tmp_path / "masks" / "a.png")
    ((size, seen),) = proposal.some_of(tmp_path, tmp_path / "masks")
    assert size == (9, 9)
    kind = {"fit": "crop", "channels": 1, "image_size": [9, 9], "black": 0.0}
    whole, image = segment.read(path, kind)
    np.testing.assert_allclose(255 * image, 117, rtol=1e-6)
    assert seen.getpixel((0, 0)) == whole.getpixel((0, 0)) == (117, 117, 117)


def test_mistakes(trained, folder, tmp_path, capsys):
    _, own, few = trained
    proposal, segment = load("proposal"), load("segment")
    for wrong, sentence in (
        (lambda: few(batch_size=3, devices=2), "does not divide among --devices 2"),
        (lambda: few(sparsity=-1.0), "--sparsity must be 0 or more, got -1.0"),
        (lambda: few(seeds=2), "--seeds is no option here, got 2"),
        (lambda: own.main(few(folder=tmp_path)), "has no picture that can be read"),
        (
            lambda: proposal.read(few(batch_size=13, image_size=(16, 16), channels=3)),
            "has 14 pictures, too few for --batch-size 13",
        ),
        (lambda: proposal.read(few(image_size=(99, 99))), "smaller than 99 x 99"),
        (lambda: segment.main(tmp_path, model=f"{tmp_path}/x"), "no x there"),
        (lambda: segment.main(tmp_path, model="x"), 'must be one of "blocks"'),
        (
            lambda: segment.main(tmp_path, model=f"{folder}/run/model.safetensors"),
            "is no picture, and no folder with pictures in it",
        ),
    ):
        with pytest.raises(SystemExit):
            wrong()
        assert sentence in capsys.readouterr().err


def test_digits(tmp_path):
    digits = load("digits_folder")
    digits.main(number=5, output=tmp_path)
    for index in range(5):
        with Image.open(tmp_path / "pictures" / f"{index:05}.png") as image:
            picture = np.asarray(image)
        with Image.open(tmp_path / "masks" / f"{index:05}.png") as image:
            labels = np.asarray(image)
        assert picture.shape == labels.shape == (48, 48)
        assert 2 <= labels.max() <= 3
        assert np.all((picture >= 255 * digits.INK // 16) == (labels > 0))
