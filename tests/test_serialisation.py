import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from eqx_slots import nn, serialisation
from eqx_slots.models import presets

from .helpers import run


def own(*, width, dtype="float32", key):
    """A model of a user's own, not among the presets."""
    return nn.SlotAttention(
        width, 7, num_slots=3, mlp_size=5, dtype=jnp.dtype(dtype), key=key
    )


@pytest.mark.parametrize("name", ["blocks", "tetrominoes"])
def test_a_preset_comes_back_whole(tmp_path, name):
    make = getattr(presets, name)
    model = run(make, num_slots=3, key=jr.key(1))
    path = tmp_path / "model.safetensors"
    serialisation.save(path, model, make=make, arguments={"num_slots": 3})
    assert eqx.tree_equal(serialisation.load(path), model)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_own_models_come_back_through_their_builder(tmp_path, dtype):
    model = eqx.filter_jit(own)(width=11, dtype=dtype, key=jr.key(1))
    path = tmp_path / "model.safetensors"
    serialisation.save(path, model, make=own, arguments={"width": 11, "dtype": dtype})
    loaded = serialisation.load(path, make=own)
    assert eqx.tree_equal(
        eqx.filter(loaded, eqx.is_array), eqx.filter(model, eqx.is_array)
    )
    with pytest.raises(ValueError, match="pass that function as `make=`"):
        serialisation.load(path)


def test_names_are_readable_and_nothing_is_missing(tmp_path):
    model = run(presets.blocks, key=jr.key(1))
    path = tmp_path / "model.safetensors"
    serialisation.save(path, model, make=presets.blocks)
    with safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        weight = file.get_tensor("slot_attention.query_proj.weight")
    assert len(names) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    np.testing.assert_array_equal(weight, model.slot_attention.query_proj.weight)


def test_saving_what_the_builder_does_not_build(tmp_path):
    model = run(presets.blocks, num_slots=3, key=jr.key(0))
    with pytest.raises(ValueError, match=r"slot_init.slots` should be float32\[4, 64"):
        serialisation.save(
            tmp_path / "x", model, make=presets.blocks, arguments={"num_slots": 4}
        )
    assert not list(tmp_path.iterdir())


def test_saving_a_model_of_other_settings(tmp_path):
    model = nn.SlotAttention(11, 7, num_slots=3, mlp_size=5, num_iters=5, key=jr.key(0))
    with pytest.raises(ValueError, match="other settings"):
        serialisation.save(tmp_path / "x", model, make=own, arguments={"width": 11})
    assert not list(tmp_path.iterdir())


def test_a_builder_with_the_name_of_a_preset_is_refused(tmp_path):
    def blocks(*, key):
        return own(width=11, key=key)

    with pytest.raises(ValueError, match="another name"):
        serialisation.save(tmp_path / "x", blocks(key=jr.key(0)), make=blocks)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    serialisation.save(
        path, own(width=11, key=jr.key(0)), make=own, arguments={"width": 11}
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        serialisation.load(path, make=own)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="must be a file of format"):
        serialisation.load(path, make=own)
    metadata = {
        "format": f"eqx_slots {serialisation.FORMAT_VERSION}",
        "make": "own",
        "arguments": json.dumps({"width": 11}),
    }
    save_file({"a": np.zeros(3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="`a` should be absent"):
        serialisation.load(path, make=own)
