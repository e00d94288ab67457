import errno
import functools as ft
import inspect
import json
import os
import re
import resource
import stat
from unittest.mock import Mock

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from eqx_slots import nn, serialisation
from eqx_slots._misc import digest_of
from eqx_slots.models import presets

from .helpers import built, float64


def own(*, width, num_iters=3, key):
    """A model of a user's own, not among the presets."""
    return nn.SlotAttention(width, 7, num_slots=3, num_iters=num_iters, key=key)


def tiny(*, width=2, dtype="float32", key=None):
    """Nothing to compile; a scalar, an empty array and several dtypes."""
    return {
        "weight": np.ones((width, 3), dtype),
        "half": np.ones(2, jnp.bfloat16),
        "count": np.asarray(5, np.int32),
        "flags": np.asarray([True, False, True]),
        "none": np.zeros((0, 2), np.float32),
    }


def listed(*, sizes, dtype="float32", fun="", key=None):
    return [np.zeros(size, jnp.dtype(dtype)) for size in sizes]


def saved(folder, **arguments):
    """The path of a file with a `tiny` model, and the bytes in it."""
    path = folder / "model.safetensors"
    serialisation.save(path, tiny(**arguments), make=tiny, arguments=arguments)
    return path, path.read_bytes()


ARRAYS = {"a": np.zeros(3)}


def write_by_hand(path, arrays=ARRAYS, **metadata):
    """A file with a digest that fits: what `save` writes, or a forger."""
    whole = {"format": "eqx_slots 1", "make": "tiny", "arguments": "{}"} | metadata
    given = {name: text for name, text in whole.items() if text is not None}
    digest = {"sha256": digest_of(given, arrays)}
    given = given if "sha256" in whole else digest | given
    save_file(arrays, path, metadata=given or None)
    return path


def content(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def bits(tree):
    """Every array as what it is made of: NaNs and signed zeros told apart."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in leaves]


@pytest.mark.parametrize("name", ["blocks", "tetrominoes"])
def test_a_preset_comes_back_whole_by_readable_names(tmp_path, name):
    make = getattr(presets, name)
    model = built(ft.partial(make, num_slots=3))
    path = tmp_path / "model.safetensors"
    serialisation.save(path, model, make=make, arguments={"num_slots": 3})
    assert eqx.tree_equal(serialisation.load(path), model)
    with pytest.raises(ValueError, match="needs the function"):
        serialisation.load(path, make=tiny)
    _, arrays = content(path)
    assert len(arrays) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    weight = model.slot_attention.query_proj.weight
    np.testing.assert_array_equal(arrays["slot_attention.query_proj.weight"], weight)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_table_holds_every_preset():
    functions = dict(inspect.getmembers(presets, inspect.isfunction))
    assert serialisation.BUILDERS == functions


def test_other_models_come_back_through_their_builder_by_any_name(tmp_path):
    arguments = {"input_size": 3, "slot_size": 2, "num_slots": 2, "mlp_size": None}
    model, path = built(ft.partial(nn.SlotAttention, **arguments)), tmp_path / "x"
    serialisation.save(path, model, make=nn.SlotAttention, arguments=arguments)
    for make in (nn.SlotAttention, ft.partial(nn.SlotAttention)):
        assert eqx.tree_equal(serialisation.load(path, make=make), model)
    with pytest.raises(ValueError, match=r"`SlotAttention`.*that function as `make=`"):
        serialisation.load(path)


@pytest.mark.parametrize("dtype", sorted(serialisation._DTYPES))
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dtype):
    raw = np.random.default_rng(0).integers(0, 256, 6 * 64, np.uint8)
    raw = raw % 2 if dtype == "bool" else raw
    array = raw.view(jnp.dtype(dtype)).reshape(-1, 2)
    arguments = {"sizes": [array.shape], "dtype": dtype}
    with float64():
        serialisation.save(tmp_path / "x", [array], make=listed, arguments=arguments)
        loaded = serialisation.load(tmp_path / "x", make=listed)
    assert bits(loaded) == bits([array])
    assert len(serialisation._DTYPES) == 13


def test_arrays_in_any_layout_and_arguments_of_any_name(tmp_path):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = [np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a[::-1, ::-1]]
    arguments = {"sizes": ((2, 3),) * 3, "fun": "as `filter_eval_shape` has"}
    serialisation.save(tmp_path / "x", model, make=listed, arguments=arguments)
    loaded = serialisation.load(tmp_path / "x", make=listed)
    np.testing.assert_array_equal(np.stack(loaded), np.stack([a, a, a[::-1, ::-1]]))


def test_the_same_model_is_the_same_file(tmp_path):
    """Metadata too, which safetensors writes in an order that changes every time."""
    first = saved(tmp_path, width=3)[1]
    assert {saved(tmp_path, width=3)[1] for _ in range(8)} == {first}
    assert int.from_bytes(first[:8], "little") % 8 == 0


# What `save` refuses


def check_not_saved(folder, match, model, **kwargs):
    with pytest.raises(ValueError, match=match):
        serialisation.save(folder / "x", model, **kwargs)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("as_users_run")
def test_saving_what_the_builder_does_not_build(tmp_path):
    other, four = built(ft.partial(presets.blocks, num_slots=3)), {"num_slots": 4}
    shapes = r"slot_init.slots` should be float32\[4, 64\], found float32\[3, 64\]"
    check_not_saved(tmp_path, shapes, other, make=presets.blocks, arguments=four)
    weight = r"weight'\]` should be float32\[2, 3\], found float32\[5, 3\]; pass"
    check_not_saved(tmp_path, weight, tiny(width=5), make=tiny)
    other, width = built(ft.partial(own, width=11, num_iters=5)), {"width": 11}
    statics = r"\(own\) builds .* other settings.*: static fields .*as `arguments`"
    check_not_saved(tmp_path, statics, other, make=own, arguments=width)


@pytest.mark.usefixtures("as_users_run")
def test_a_builder_without_a_name_of_its_own_is_refused(tmp_path):
    def blocks(*, key):
        return tiny()

    for make in (blocks, ft.partial(tiny)):
        message = r"with a name, and another .*\(blocks, bl.*; got .*(blocks|partial)"
        check_not_saved(tmp_path, message, tiny(), make=make)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "arguments, place, value",
    [
        ({"width": float("nan")}, "arguments['width']", "nan"),
        ({"a": [1, -float("inf")]}, "arguments['a'][1]", "-inf"),
        ({"a": {"b": {2: 3}}}, "arguments['a']['b']", "{2: 3}"),
        ({"a": ({"b": np.float32(1)},)}, "arguments['a'][0]['b']", "np.float32(1.0)"),
        ({"a": np.zeros(1)}, "arguments['a']", "array([0.])"),
    ],
)
def test_arguments_that_json_would_change(tmp_path, arguments, place, value):
    message = re.escape(f"`{place}`") + f" must be a finite .*, got {re.escape(value)}"
    check_not_saved(tmp_path, message, tiny(), make=tiny, arguments=arguments)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"height": 3}, "TypeError.*unexpected keyword argument 'height'"),
        ({"key": 3}, "TypeError.*multiple values for keyword argument 'key'"),
        ({"width": -3}, "'tiny' raised ValueError: negative dimensions"),
        ([3], "TypeError.*mapping"),
    ],
)
def test_arguments_that_the_builder_does_not_take(tmp_path, arguments, reason):
    message = f"`arguments` must be what `make` accepts.*{reason}"
    check_not_saved(tmp_path, message, tiny(), make=tiny, arguments=arguments)
    for written, why in ((json.dumps(arguments), reason), ("{", "JSONDecodeError")):
        path = write_by_hand(tmp_path / "x", arguments=written)
        with pytest.raises(ValueError, match=f"{path} needs .*`make=`.*{why}"):
            serialisation.load(path, make=tiny)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("dtype", ["key<fry>", "float8_e4m3fn", "complex128"])
def test_arrays_that_a_file_cannot_hold(tmp_path, dtype):
    leaf = jr.key(0) if dtype == "key<fry>" else np.zeros(2, jnp.dtype(dtype))
    message = rf"`\['a'\]` is {dtype}, which .*cast.*'float32'.* keep `jax.random.key_d"
    check_not_saved(tmp_path, message, {"a": leaf}, make=tiny)


# Saving is all or nothing


def check_the_old_file_is_kept(path, whole, error):
    with pytest.raises(OSError) as caught:
        saved(path.parent, width=500)
    assert caught.value.errno == error
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, step):
    path, whole = saved(tmp_path)
    monkeypatch.setattr(os, step, Mock(side_effect=OSError(errno.EIO, "gone")))
    check_the_old_file_is_kept(path, whole, errno.EIO)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path, whole = saved(tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, old[1]))
    try:
        check_the_old_file_is_kept(path, whole, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_the_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(file):
        status = os.fstat(file)
        steps.append("folder" if stat.S_ISDIR(status.st_mode) else status.st_size)
        fsync(file)

    def watched_replace(source, target):
        steps.append((source.parent, target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    (tmp_path / "model.safetensors.partial").touch()  # killed in the middle
    files = len(os.listdir("/proc/self/fd"))
    path, whole = saved(tmp_path)
    assert steps == [len(whole), (tmp_path, path.name), "folder"]
    assert len(os.listdir("/proc/self/fd")) == files


def test_where_folders_cannot_be_opened_saving_works(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError))
    path, _ = saved(tmp_path)
    assert bits(serialisation.load(path, make=tiny)) == bits(tiny())
