"""States come back as they were saved, and failures say what to do."""

import errno
import os
import re
import shutil
import sys
from unittest.mock import Mock

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.training import _checkpoint, CheckpointError, Checkpoints, TrainState

from .helpers import float64


def state_at(step, *, model=None, seed=0, key=None):
    """A state that no optimiser has made: nothing is compiled."""
    rng = np.random.default_rng(seed)
    weights = {"weight": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
    return TrainState(
        model=weights if model is None else model,
        opt_state=(jnp.asarray(rng.normal(size=5), jnp.bfloat16),),
        key=jr.key(seed) if key is None else key,
        step=jnp.asarray(step, jnp.int32),
        ema=None,
        skipped=jnp.asarray(0, jnp.int32),
        taken=jnp.asarray(step, jnp.int32),
        moved=jnp.asarray(step, jnp.int32),
        mean_grad_norm=jnp.asarray(0.5, jnp.float32),
        usual_grad_norm=jnp.asarray(2.0, jnp.float32),
    )


def bits(tree):
    """Every array as what it is made of: NaNs and signed zeros told apart."""
    leaves = []
    for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        raw = jr.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        leaves.append((str(x.dtype), x.shape, np.asarray(raw).tobytes()))
    return leaves


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "made" / "here", keep=2)
    for step in (5, 10):
        made.save(state_at(step, seed=step))
    return made


def test_a_state_comes_back_bit_for_bit(checkpoints):
    assert checkpoints.steps() == [5, 10]
    like = state_at(0)
    assert bits(checkpoints.restore(like)) == bits(state_at(10, seed=10))
    assert bits(checkpoints.restore(like, step=5)) == bits(state_at(5, seed=5))
    assert bits(like) == bits(state_at(0))


def unusual(fill, **changes):
    raw = np.random.default_rng(fill).integers(0, 256, 64, np.uint8)
    dtypes = ("float16", "float32", "int8", "uint32", "complex64", "float8_e4m3fn")
    arrays = {name: jnp.asarray(raw.view(jnp.dtype(name))) for name in dtypes}
    return arrays | {
        "a/b'].w[0] é": jnp.asarray(fill, jnp.float32),  # any name at all
        "": jnp.asarray([True, False, fill > 1]),
        "four bits": jnp.asarray([fill, 3], jnp.int4),
        "no entries": jnp.zeros((0, 2), jnp.bfloat16),
        "numpy": np.full(3, fill + 1e-9),
        "key of another kind": jr.key(fill, impl="rbg"),
        "several keys": jr.split(jr.key(fill), 2),
        "function": jnp.tanh,
        "setting": 3,
        **changes,
    }


def test_arrays_of_every_kind_and_nothing_else(tmp_path):
    checkpoints, saved = Checkpoints(tmp_path), unusual(1)
    checkpoints.save(state_at(0, model=saved))
    like = unusual(2, function=jnp.sin, setting=5)
    restored = checkpoints.restore(state_at(0, model=like)).model
    assert bits(restored) == bits(saved)
    assert isinstance(restored["numpy"], np.ndarray)
    assert (restored["function"], restored["setting"]) == (jnp.sin, 5)


def test_what_was_bound_to_a_device_is_and_what_was_not_is_not(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(0))
    like = state_at(0)
    bound = jax.device_put(like.model["weight"], jax.devices()[0])
    restored = checkpoints.restore(like._replace(model={"weight": bound}))
    assert restored.model["weight"].committed
    assert not restored.opt_state[0].committed
    assert not restored.key.committed


def test_only_the_last_are_kept_and_other_files_are_left_alone(checkpoints):
    folder = checkpoints.folder
    other = {"notes.txt", "007", "5.partial.txt"}
    for name in other:
        (folder / name).touch()
    for name in ("15.partial", "3.partial"):  # of processes that were killed
        (folder / name / "arrays").mkdir(parents=True)
    checkpoints.save(state_at(100))
    assert checkpoints.steps() == [10, 100]
    assert set(os.listdir(folder)) == {"10", "100", *other}


def test_clearing(checkpoints):
    checkpoints.clear(after=5)
    assert checkpoints.steps() == [5]
    checkpoints.clear()
    assert os.listdir(checkpoints.folder) == []
    checkpoints.folder.rmdir()
    assert checkpoints.steps() == []
    checkpoints.clear()


def test_a_folder_means_the_same_after_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("here")
    monkeypatch.chdir("/")
    checkpoints.save(state_at(0))
    assert (tmp_path / "here" / "0").is_dir()


def test_the_data_are_on_the_disk_before_the_name_is(checkpoints, monkeypatch):
    fsync, replace, events = os.fsync, os.replace, []

    def watched_fsync(file):
        events.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    def watched_replace(source, target):
        files = [path for path in source.rglob("*") if source.name == "15.partial"]
        assert {str(path) for path in [source, *files]} <= set(events)
        # The manifest is the last file, and its name comes after it.
        assert events[-2:] == [str(source / "manifest.json"), str(source)]
        events.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(_checkpoint.os, "replace", watched_replace)
    monkeypatch.setattr(_checkpoint, "_delete", lambda folder: None)
    checkpoints.save(state_at(15))
    folder = checkpoints.folder
    assert events[-2:] == [folder / "15", str(folder)]


# What a user gets wrong


def test_mistakes(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="`keep` must be"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match=r"`folder` must be one.*'gs://a/b'"):
        Checkpoints("gs://a/b")
    for step, later in ((10, r"\[10\]"), (3, r"\[5, 10\]")):
        match = rf"{step} could not.*but earlier.*found {later}.*after={step - 1}\)`"
        with pytest.raises(CheckpointError, match=match):
            checkpoints.save(state_at(step))
    shapes = eqx.filter_eval_shape(lambda: state_at(0))
    with pytest.raises(ValueError, match=r"must hold arrays.*\(3, 2\).*`model\['wei"):
        checkpoints.restore(shapes)
    assert checkpoints.steps() == [5, 10]
    with pytest.raises(CheckpointError, match=r"of step 7, found \[5, 10\]"):
        checkpoints.restore(state_at(0), step=7)
    with pytest.raises(CheckpointError, match=r"of a step, found \[\]: .*the start"):
        Checkpoints(tmp_path / "none").restore(state_at(0))
    assert issubclass(CheckpointError, ValueError)


def test_without_orbax_it_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("orbax")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "orbax", None)
    with pytest.raises(ImportError, match=r'pip install "eqx-slots\[checkpoints\]"'):
        Checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("like", "difference"),
    [
        (
            {"model": {"weight": jnp.zeros((4, 2))}},
            r"float32\[4, 2\], found float32\[3",
        ),
        (
            {"model": {"weight": jnp.zeros((3, 2), jnp.int32)}},
            r"int32\[3, 2\], found f",
        ),
        ({"model": {"other": jnp.zeros((3, 2))}}, "other'].* found nothing; .* absent"),
        ({"ema": {"weight": jnp.zeros((3, 2))}}, r"`ema\['weight'\]`.*found nothing"),
        ({"key": jr.key(0, impl="rbg")}, r"key<rbg>\[\], found key<fry>\[\]"),
        ({"key": jr.PRNGKey(0)}, r"uint32\[2\], found key<fry>\[\]"),
    ],
)
def test_another_model_is_told_by_what_differs(checkpoints, like, difference):
    match = (
        f"10 is of another model.*{difference}.*saved with.*'jax': '{jax.__version__}"
    )
    with pytest.raises(CheckpointError, match=match) as error:
        checkpoints.restore(state_at(0)._replace(**like))
    assert "None of the earlier ones, [5], can be restored: give" in str(error.value)
    with pytest.raises(CheckpointError, match="No other can be restored: give `like`"):
        checkpoints.restore(state_at(0)._replace(**like), step=5)


def test_numbers_that_jax_would_make_shorter(tmp_path):
    with float64():
        wide = state_at(0, model={"weight": jnp.ones(3, jnp.float64)})
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(wide)
        assert bits(checkpoints.restore(wide)) == bits(wide)
    with pytest.raises(
        CheckpointError, match=r"float64 but .*float32.*`jax_enable_x64`"
    ):
        checkpoints.restore(wide)


# What a machine gets wrong


def assert_still_there(checkpoints, steps=(5, 10)):
    assert checkpoints.steps() == list(steps)
    for step in steps:
        restored = checkpoints.restore(state_at(0), step=step)
        assert bits(restored) == bits(state_at(step, seed=step))


BROKEN = {
    "disk full": (
        shutil,
        "disk_usage",
        Mock(return_value=Mock(free=10)),
        "10 are free",
    ),
    "disk full later": (
        os,
        "fsync",
        Mock(side_effect=OSError(errno.ENOSPC, "full")),
        "",
    ),
    "no rename": (os, "replace", Mock(side_effect=PermissionError("no")), "no. Make r"),
    "manifest": (_checkpoint, "write_manifest", Mock(side_effect=KeyError), "KeyErr"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_failed_save_says_so_and_leaves_the_others(checkpoints, monkeypatch, name):
    module, function, broken, reason = BROKEN[name]
    with monkeypatch.context() as patch:
        patch.setattr(module, function, broken)
        match = rf"Step 15 could not be saved in {checkpoints.folder}: .*{reason}"
        with pytest.raises(CheckpointError, match=match):
            checkpoints.save(state_at(15))
    assert sorted(os.listdir(checkpoints.folder)) == ["10", "5"]
    assert_still_there(checkpoints)
    checkpoints.save(state_at(15, seed=15))
    assert_still_there(checkpoints, (10, 15))


def test_an_error_of_many_lines_is_told_in_one(checkpoints):
    checkpoints._orbax = Mock(save=Mock(side_effect=ValueError(f"{'x' * 999}\ny")))
    with pytest.raises(CheckpointError) as error:
        checkpoints.save(state_at(15))
    assert f": ValueError: {'x' * 288}. Make room" in str(error.value)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be saved"):
        Checkpoints(tmp_path / "file" / "folder").save(state_at(0))
    with pytest.raises(CheckpointError, match=r"could not be listed.*NotADir.*Give a"):
        Checkpoints(tmp_path / "file").restore(state_at(0))


def test_no_process_waits_for_one_that_cannot_save(tmp_path, monkeypatch):
    """What process 0 finds in its way ends the save of all, before Orbax waits."""
    asked = []
    for is_first, reason in ((True, "OSError: up to"), (False, "process 0 could not")):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_index", lambda first=is_first: int(not first))
            patch.setattr(shutil, "disk_usage", Mock(return_value=Mock(free=10)))
            in_any = lambda flag, state: asked.append(flag) or True
            patch.setattr(_checkpoint, "in_any_process", in_any)
            checkpoints = Checkpoints(tmp_path)
            checkpoints._orbax = Mock()
            with pytest.raises(CheckpointError, match=reason):
                checkpoints.save(state_at(5))
            assert not checkpoints._orbax.save.called
    assert asked == [True, False]


def test_old_ones_that_stay_do_not_cost_the_new_one(checkpoints, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "_delete", Mock(side_effect=PermissionError("no")))
        with pytest.raises(CheckpointError, match="What is old could not be deleted"):
            checkpoints.save(state_at(15, seed=15))
        with pytest.raises(CheckpointError, match="Checkpoints could not be deleted"):
            checkpoints.clear()
    assert_still_there(checkpoints, (5, 10, 15))


def test_what_is_half_deleted_is_no_checkpoint(checkpoints, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", Mock(side_effect=PermissionError("no")))
        with pytest.raises(CheckpointError):
            checkpoints.clear(after=5)
    assert_still_there(checkpoints, (5,))


def test_only_the_first_process_writes_beside_orbax(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints._orbax = Mock()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    checkpoints.save(state_at(5))
    (call,) = checkpoints._orbax.save.call_args_list
    assert call.args == (tmp_path / "5.partial" / "arrays",)
    assert set(call.kwargs["args"].item) >= {"model['weight']", "key", "step"}
    assert os.listdir(tmp_path) == []


def test_what_orbax_gives_back_is_not_trusted(checkpoints):
    orbax = checkpoints._orbax

    def flipped(folder, args):
        arrays = orbax.restore(folder, args=args)
        weight = np.array(arrays["model['weight']"])
        weight[2, 1] *= -1
        return arrays | {"model['weight']": weight}

    checkpoints._orbax = Mock(restore=flipped)
    with pytest.raises(CheckpointError, match=r"10 came back changed: .*None of the"):
        checkpoints.restore(state_at(0))
    checkpoints._orbax = Mock(restore=Mock(side_effect=RuntimeError("odd")))
    match = re.escape(f"Step 10 could not be read in {checkpoints.folder}: Runtime")
    with pytest.raises(CheckpointError, match=match):
        checkpoints.restore(state_at(0))
