"""Features that are computed once: what is kept, what is refused, and what goes on."""

import errno
import functools
import pickle
import threading
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from eqx_slots.data import _cache, features, Scene
from eqx_slots.data._digest import digest_of_callable


IMAGES = np.random.default_rng(0).normal(size=(5, 3, 4, 6)).astype(np.float32)


class Backbone(eqx.Module):
    """A linear map of each pixel; as NumPy, for speed."""

    weight: np.ndarray
    power: int = eqx.field(static=True)

    def __init__(self, seed=0, power=1):
        self.weight = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
        self.power = power

    def __call__(self, image):
        places = np.moveaxis(np.asarray(image), 0, -1).reshape(-1, 3)
        return (places @ self.weight) ** self.power


def half(image):
    return image[:, ::2]


def want(index, backbone=Backbone()):
    return backbone(IMAGES[index])


def test_features_in_any_order(tmp_path):
    done = []
    path = tmp_path / "deep" / "coco.small"
    kept = features.cached(Backbone(), IMAGES, path, progress=done.append)
    assert len(kept) == 5 and isinstance(kept.array, np.memmap)
    for index in (3, 0, -1):
        np.testing.assert_array_equal(kept[index], want(index))
        assert kept[index].dtype == np.float32
    np.testing.assert_array_equal(kept[1:3], np.stack([want(1), want(2)]))
    assert kept[3:3].shape == (0, 24, 2)
    with pytest.raises(IndexError):
        kept[5]
    assert np.stack(list(kept)).shape == (5, 24, 2)
    left = {x.name for x in path.parent.iterdir()}
    assert left == {"coco.small", "coco.small.lock"}


def test_they_are_computed_once(tmp_path):
    calls = []

    class Counted(list):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    source = Counted(IMAGES)
    first = features.cached(Backbone(), source, tmp_path / "kept")
    assert calls == [0, 0, 1, 2, 3, 4]  # the first tells their shape
    again = features.cached(Backbone(), source, tmp_path / "kept")
    assert len(calls) == 6
    np.testing.assert_array_equal(again[4], first[4])


def test_scenes_and_what_is_done_to_them(tmp_path):
    scenes = [Scene(jnp.asarray(x), jnp.zeros((4, 6), int), None) for x in IMAGES]
    plain = features.cached(Backbone(), scenes, tmp_path / "plain")
    np.testing.assert_array_equal(plain[2], want(2))
    prepare = lambda scene: np.asarray(scene.image)[:, :2]
    cut = features.cached(Backbone(), scenes, tmp_path / "cut", preprocess=prepare)
    np.testing.assert_array_equal(cut[2], Backbone()(IMAGES[2, :, :2]))


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_in_batches(tmp_path, batch_size):
    weight = jnp.asarray(Backbone().weight)
    traced = []

    def backbone(image):
        traced.append(image.shape)
        return jnp.einsum("chw,cd->hwd", image, weight).reshape(24, 2)

    kept = features.cached(backbone, IMAGES, tmp_path / "kept", batch_size=batch_size)
    assert traced == [(3, 4, 6)]
    for index in range(5):
        np.testing.assert_allclose(kept[index], want(index), rtol=1e-5, atol=1e-6)


def test_half_of_the_bytes(tmp_path):
    wide = features.cached(Backbone(), IMAGES, tmp_path / "wide")
    kept = features.cached(Backbone(), IMAGES, tmp_path / "half", dtype="float16")
    sizes = [(tmp_path / x / "features").stat().st_size for x in ("wide", "half")]
    assert sizes == [5 * 24 * 2 * 4, 5 * 24 * 2 * 2]
    assert kept[0].dtype == np.float32
    np.testing.assert_array_equal(kept[0], wide[0].astype(np.float16))


def test_a_stopped_call_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "_BLOCK", 1)

    def stop(count):
        if count == 3:
            raise KeyboardInterrupt

    call = functools.partial(features.cached, Backbone(), path=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        call(IMAGES, progress=stop)
    assert not (tmp_path / "kept").exists()
    with open(tmp_path / "kept.partial" / "features", "ab") as file:
        file.write(b"of an image half written")
    other = functools.partial(features.cached, path=tmp_path / "kept")
    with pytest.raises(
        ValueError, match=r"kept.partial was made with another backbone"
    ):
        other(Backbone(1), IMAGES)
    done = []
    kept = call(IMAGES, progress=done.append)
    assert done == [4, 5]
    np.testing.assert_array_equal(kept[:], np.stack([want(i) for i in range(5)]))
    assert not (tmp_path / "kept.partial").exists()


CALLS = []


class Slow:
    """Waits until both have asked."""

    begun = threading.Event()

    def __call__(self, image):
        CALLS.append(1)
        self.begun.wait(10)
        return want(0)


def test_two_at_once(tmp_path):
    results = []
    call = lambda: results.append(features.cached(Slow(), IMAGES, tmp_path / "kept"))
    workers = [threading.Thread(target=call) for _ in range(2)]
    for worker in workers:
        worker.start()
    Slow.begun.set()
    for worker in workers:
        worker.join()
    assert len(CALLS) == 6
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_another_backbone_and_other_preprocessing_are_refused(tmp_path):
    call = functools.partial(features.cached, path=tmp_path / "kept")
    call(Backbone(), IMAGES, preprocess=half)
    digests = [digest_of_callable(Backbone(seed)) for seed in (0, 1)]
    both = rf"another backbone: digest {digests[0]} there, {digests[1]} given"
    with pytest.raises(ValueError, match=both):
        call(Backbone(1), IMAGES, preprocess=half)
    digests = [digest_of_callable(x) for x in (half, None)]
    both = rf"other preprocessing: digest {digests[0]} there, {digests[1]} given"
    with pytest.raises(ValueError, match=both):
        call(Backbone(), IMAGES)
    with pytest.raises(ValueError, match="another number of images: 5 there, 4 given"):
        call(Backbone(), IMAGES[:4], preprocess=half)
    with pytest.raises(ValueError, match="`dtype`: float32 there, float16 given"):
        call(Backbone(), IMAGES, preprocess=half, dtype="float16")
    assert len(call(Backbone(), IMAGES, preprocess=half)) == 5


@pytest.mark.parametrize("length", [0, 100, 3 * 192 + 1, 5 * 192 - 1])
def test_a_file_cut_short_is_refused(tmp_path, length):
    call = functools.partial(features.cached, Backbone(), IMAGES, tmp_path / "kept")
    call()
    file = tmp_path / "kept" / "features"
    data = file.read_bytes()
    file.write_bytes(data[:length])
    index = length // 192
    digests = (tmp_path / "kept" / "digests").read_bytes()
    stated = digests[16 * index :][:16].hex()
    found = features._digest(data[192 * index : length]).hex()
    message = f"digest of image {index} should be {stated}, found {found}; delete"
    with pytest.raises(ValueError, match=message):
        call()
    file.write_bytes(data)
    (tmp_path / "kept" / "digests").write_bytes(digests[:-1])
    with pytest.raises(ValueError, match="should hold 5 digests, found 4"):
        call()


@pytest.mark.usefixtures("as_users_run")  # beartype would read one of them
def test_a_flipped_bit_is_refused_where_it_is(tmp_path):
    call = functools.partial(features.cached, Backbone(), IMAGES, tmp_path / "kept")
    call()
    file = tmp_path / "kept" / "features"
    data = bytearray(file.read_bytes())
    data[2 * 192 + 5] ^= 1
    file.write_bytes(data)
    kept = call()
    np.testing.assert_array_equal(kept[1], want(1))
    with pytest.raises(ValueError, match=r"digest of image 2 should be \w{32}, found"):
        kept[2]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    call = functools.partial(features.cached, Backbone(), IMAGES, tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(_cache.os, "fsync", full)
        with pytest.raises(OSError, match=r"after 5 records .* `dtype=.float16.`") as e:
            call()
    assert e.value.errno == errno.ENOSPC
    assert len(call()) == 5


def test_a_disk_that_was_full_at_once(tmp_path, monkeypatch):
    def full(path, _):
        path.write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    call = functools.partial(features.cached, Backbone(), IMAGES, tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            call()
    assert len(call()) == 5


def test_workers_get_the_file_and_not_what_is_in_it(tmp_path):
    tokens = np.random.default_rng(0).normal(size=(40, 24, 2)).astype(np.float32)
    np.save(tmp_path / "c.npy", tokens)
    np.save(tmp_path / "f.npy", np.asfortranarray(tokens))
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    source, path = range(len(tokens)), tmp_path / "kept"
    for kept in (
        features.cached(lambda number: tokens[number], source, path),
        features.saved(tmp_path / "c.npy"),
        features.saved(tmp_path / "f.npy"),
        features.saved(tmp_path / "tokens.safetensors"),
    ):
        sent = pickle.dumps(kept)
        assert len(sent) < 3000 < tokens.nbytes
        np.testing.assert_array_equal(pickle.loads(sent)[-2:], tokens[-2:])


def test_broken_files_of_numpy(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.zeros((4, 6, 3)))
    for content in (path.read_bytes()[:-1], b"", b"of no kind"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"tokens.npy must be a file of `numpy.s"):
            features.saved(path)
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 6, 3)))
    (tmp_path / "a.npz").rename(path)
    with pytest.raises(ValueError, match=r"tokens.npy .* `numpy.savez` that has x"):
        features.saved(path)


def test_features_of_others(tmp_path):
    tokens = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float16)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = features.saved(tmp_path / "tokens.npy")
    assert isinstance(mapped.array, np.memmap)
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": tokens}, path)
    for kept in (
        mapped,
        features.saved(path),
        features.saved(str(path), name="tokens"),
    ):
        assert len(kept) == 4 and kept[2].dtype == np.float32
        np.testing.assert_array_equal(kept[2], tokens[2])
        np.testing.assert_array_equal(kept[-2:], tokens[-2:])
    save_file({"a": tokens, "b": tokens[0], "c": np.array(tokens[0, 0, 0])}, path)
    with pytest.raises(ValueError, match=r"must be one of a, b, c in .* got None"):
        features.saved(path)
    with pytest.raises(
        ValueError, match=r"b of .* must hold features .images, inputs, width."
    ):
        features.saved(path, name="b")
    with pytest.raises(ValueError, match=r"c of .* must hold features"):
        features.saved(path, name="c")
    with pytest.raises(ValueError, match=r"got int64\[4, 2, 1\]"):
        features.Features(np.zeros((4, 2, 1), np.int64))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        features.saved(path)
    with pytest.raises(ValueError, match=r"must end in .npy or .safetensors"):
        features.saved("tokens.pt")


@pytest.mark.usefixtures("as_users_run")
def test_mistakes(tmp_path):
    call = functools.partial(features.cached, path=tmp_path / "kept")
    with pytest.raises(ValueError, match="`images` must be a positive integer"):
        call(Backbone(), [])
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        call(Backbone(), IMAGES, batch_size=0)
    with pytest.raises(ValueError, match=r"`dtype` must be .* got 'bfloat16'"):
        call(Backbone(), IMAGES, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"must give \(inputs, width\) .* \(3, 4, 6\)"):
        call(lambda image: image, IMAGES)
    sizes = [IMAGES[0], IMAGES[1, :, 1:]]
    with pytest.raises(
        ValueError, match=r"image 1 has \(18, 2\) and the first \(24, 2"
    ):
        call(Backbone(), sizes)
    with pytest.raises(ValueError, match=r"image 0, .* are none that float16 can hold"):
        features.cached(Backbone(), 1e6 * IMAGES, tmp_path / "large", dtype="float16")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"`features.cached` has not written it"):
        features.cached(Backbone(), IMAGES, Path(tmp_path) / "mine")
