"""Whatever happens to a checkpoint on a disk is noticed, by one kind of error."""

import json
import shutil

import jax.numpy as jnp
import pytest

from eqx_slots.training import _manifest, CheckpointError, Checkpoints

from .test_checkpoint import bits, state_at


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two checkpoints, the last of which is to be damaged."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("whole"))
    for step in (5, 10):
        checkpoints.save(state_at(step, seed=step))
    return checkpoints


@pytest.fixture
def checkpoints(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "copy")
    return Checkpoints(tmp_path / "copy")


def files_of(checkpoints, step=10):
    found = (checkpoints.folder / str(step)).rglob("*")
    return sorted(path for path in found if path.is_file())


def assert_noticed(checkpoints, match=None):
    """An error that names the one before, which can be restored as it says."""
    with pytest.raises(CheckpointError, match=match) as error:
        checkpoints.restore(state_at(0))
    folder = checkpoints.folder / "10"
    assert str(folder) in str(error.value)
    advice = f"Step 5 can be restored: delete {folder} and restore again, or"
    assert f"{advice} `restore(like, step=5)`." in str(error.value)


def test_the_advice_is_good(checkpoints):
    folder = checkpoints.folder / "10"
    (folder / "manifest.json").unlink()
    assert_noticed(checkpoints)
    want = bits(state_at(5, seed=5))
    assert bits(checkpoints.restore(state_at(0), step=5)) == want
    shutil.rmtree(folder)
    assert bits(checkpoints.restore(state_at(0))) == want


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_bit_in_any_file(checkpoints, place):
    files = files_of(checkpoints)
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        position = round(place * (len(data) - 1))
        for bit in (0, 6):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            assert_noticed(checkpoints)
        path.write_bytes(data)
    assert bits(checkpoints.restore(state_at(0))) == bits(state_at(10, seed=10))


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_any_file_cut_short(checkpoints, share):
    for path in files_of(checkpoints):
        data = path.read_bytes()
        path.write_bytes(data[: round(share * (len(data) - 1))])
        assert_noticed(checkpoints)
        path.write_bytes(data)


def test_any_file_gone_or_longer(checkpoints):
    for path in files_of(checkpoints):
        data = path.read_bytes()
        path.unlink()
        assert_noticed(checkpoints, "but cannot be read")
        path.mkdir()
        assert_noticed(checkpoints, "but cannot be read")
        path.rmdir()
        path.write_bytes(data + b"\n")
        assert_noticed(checkpoints)
        path.write_bytes(data)


def test_every_byte_of_the_manifest_counts(checkpoints):
    folder = checkpoints.folder / "10"
    path = folder / "manifest.json"
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            _manifest.read_manifest(folder)
    path.write_bytes(data)
    assert _manifest.read_manifest(folder)["step"] == 10


def write_manifest(checkpoints, change):
    """Another manifest, with a digest that fits it."""
    path = checkpoints.folder / "10" / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    content |= change
    content["sha256"] = _manifest._digest(content)
    path.write_text(_manifest._written(content))


FORMATS = {
    "eqx_slots.training 2": "found 'eqx_slots.training 2': upgrade eqx_slots",
    "eqx_slots.training 0": "it is damaged or of another kind",
    "eqx_slots.training": "it is damaged or of another kind",
    "orbax": "the format 'eqx_slots.training 1', found 'orbax': it is damaged",
}


@pytest.mark.parametrize("found", FORMATS)
def test_other_formats(checkpoints, found):
    write_manifest(checkpoints, {"format": found})
    assert_noticed(checkpoints, FORMATS[found])


NO_MANIFEST = ["", "{}", "[]", "3", '"format"', '{"format": 1}', "[" * 99_999, "\x00"]


@pytest.mark.parametrize("text", NO_MANIFEST, ids=range(len(NO_MANIFEST)))
def test_what_is_no_manifest(checkpoints, text):
    (checkpoints.folder / "10" / "manifest.json").write_text(text)
    assert_noticed(checkpoints, r"cannot be read.*10 is damaged or no checkpoint\.")


def test_a_manifest_that_is_no_text(checkpoints):
    (checkpoints.folder / "10" / "manifest.json").write_bytes(b"\xff\xfe")
    assert_noticed(checkpoints, "UnicodeDecodeError")


def test_a_manifest_that_means_the_same_in_other_words(checkpoints):
    path = checkpoints.folder / "10" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert_noticed(checkpoints, "changed after saving")


def test_a_foreign_folder_or_file(checkpoints):
    folder = checkpoints.folder / "10"
    shutil.rmtree(folder)
    (folder / "images").mkdir(parents=True)
    assert_noticed(checkpoints, "10 is damaged or no checkpoint")
    shutil.rmtree(folder)
    folder.write_text("ten")
    assert_noticed(checkpoints, "10 is damaged or no checkpoint")


def test_a_renamed_checkpoint(checkpoints):
    shutil.rmtree(checkpoints.folder / "10")
    shutil.copytree(checkpoints.folder / "5", checkpoints.folder / "10")
    assert_noticed(checkpoints, "must hold step 10, found step 5: it was renamed")


def another(checkpoints, **options):
    """The folder of a checkpoint of the same step from another run."""
    other = Checkpoints(checkpoints.folder.with_name("other"))
    other.save(state_at(10, seed=99, **options))
    return other.folder / "10"


def test_another_models_checkpoint(checkpoints):
    folder = another(checkpoints, model={"weight": jnp.zeros((3, 7))})
    shutil.rmtree(checkpoints.folder / "10")
    shutil.copytree(folder, checkpoints.folder / "10")
    assert_noticed(checkpoints, "10 is of another model")


@pytest.mark.parametrize("part", ["arrays", "manifest.json"])
def test_parts_of_two_checkpoints(checkpoints, part):
    source, target = another(checkpoints) / part, checkpoints.folder / "10" / part
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    assert_noticed(checkpoints)


def test_files_that_fit_and_arrays_that_do_not(checkpoints):
    write_manifest(checkpoints, {"leaves_sha256": "0" * 64})
    assert_noticed(checkpoints, "10 came back changed: .*should be 0000.*, found")


def test_all_of_them_damaged(checkpoints):
    for step in (5, 10):
        files_of(checkpoints, step)[0].write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"earlier ones, \[5\], can be"):
        checkpoints.restore(state_at(0))
