import json
import shutil
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.models import _pretrained, model_card, presets, pretrained

from . import weights
from .test_examples import load


NAMES = sorted(path.stem for path in weights.FOLDER.glob("*.json"))
EXTRAS = "safetensors orbax grain PIL tyro matplotlib scipy.stats".split()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The files of a model, to be damaged."""
    for suffix in ("json", "eqx"):
        shutil.copy(weights.FOLDER / f"blocks.{suffix}", tmp_path)
    monkeypatch.setattr(_pretrained, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", NAMES)
def test_scores_on_fresh_scenes_are_those_of_the_card(name):
    """64 scenes of a key that neither training nor the stored scores have seen."""
    card, model = model_card(name), pretrained(name)
    example, arguments = weights.parsed(card.command)
    told = weights.facts(arguments) | {"seed": arguments.seed}
    for field in ("seed", "image_size", "channels", "image_range"):
        assert jax.tree.leaves(told[field]) == jax.tree.leaves(getattr(card, field))
    key = jr.key(2**31 - 2)
    scores, quantiles = weights.scored(model, example, arguments, key, 64)
    assert (scores.keys(), quantiles.keys()) == (
        card.scores.keys(),
        card.quantiles.keys(),
    )
    for score, value in card.scores.items():
        limit = 0.03
        if not card.quantiles:  # shares: of 64 counts, or of about 290 objects
            of = 64 if score == "count_accuracy" else 290
            limit = 3 * (value * (1 - value) / of) ** 0.5
        assert scores[score] == pytest.approx(value, abs=limit), score


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_float16_in_the_file_and_float32_in_the_model(name):
    model, floats = pretrained(name), eqx.is_inexact_array
    leaves = jax.tree.leaves(eqx.filter(model, floats))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
    in_half = jax.tree.map(lambda x: x.astype(jnp.float16) if floats(x) else x, model)
    again = jax.tree.map(lambda x: x.astype(jnp.float32) if floats(x) else x, in_half)
    assert eqx.tree_equal(again, model)
    stored = (weights.FOLDER / f"{name}.eqx").stat().st_size
    numbers = sum(leaf.size for leaf in leaves)
    assert 2 * numbers < stored < 2.2 * numbers


def test_other_names_are_told_which_there_are():
    for ask in (pretrained, model_card):
        with pytest.raises(ValueError, match=r'must be one of ("\w+", )*"blocks".*7\.'):
            ask("blocks_7.")


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        ("eqx", None, None),  # the lowest bit of the last number
        ("json", '"fg_ari": 0.9', '"fg_ari": 0.8'),
        ("json", '"grad_iters": 1', '"grad_iters": 2'),
        ("json", "{", "["),
        ("json", '"sha256": "', '"sha256": "0'),
        ("json", '"sha256"', '"sha257"'),
    ],
)
def test_a_changed_byte_is_refused(copied, suffix, old, new):
    path = copied / f"blocks.{suffix}"
    data = bytearray(path.read_bytes())
    if old is None:
        data[-2] ^= 1
    else:
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode(), 1)
    assert isinstance(pretrained("blocks"), eqx.Module)
    path.write_bytes(data)
    for ask in (pretrained, model_card):
        with pytest.raises(ValueError, match=r"of 'blocks' in .* were changed: "):
            ask("blocks")


def test_it_needs_nothing_but_what_is_needed_at_run_time():
    """In a process of its own, away from this copy's root."""
    code = "import sys; from eqx_slots.models import pretrained; pretrained('blocks');"
    code += f"print([name for name in {EXTRAS} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_all_are_small_enough_for_the_wheel():
    files = list(weights.FOLDER.iterdir())
    assert {path.name for path in files} == {
        f"{name}.{suffix}" for name in NAMES for suffix in ("eqx", "json")
    }
    assert sum(path.stat().st_size for path in files) < 2_000_000


@pytest.mark.usefixtures("as_users_run")
def test_a_run_becomes_such_files(tmp_path, monkeypatch, capsys):
    """By the maintainers' script, from what the example leaves behind."""
    autoencoder = load("autoencoder")
    options = {"steps": 2, "batch_size": 2, "background": "black", "seed": 3}
    scores = dict.fromkeys(autoencoder.FIGURES, 0.25)
    run, black = tmp_path / "run", autoencoder.Arguments(**options)
    model = eqx.filter_jit(presets.blocks)(**black.built_with, key=jr.key(7))
    run.mkdir()
    autoencoder.serialisation.save(
        run / "model.safetensors",
        model,
        make=presets.blocks,
        arguments=black.built_with,
    )
    said = load("options").identity(black)
    (run / "options.json").write_text(json.dumps(said))
    metrics = scores | {"stopped": "interrupted", "steps": 1}
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit, match="was interrupted after 1 steps"):
        weights.main("mine", run, tmp_path / "made")
    (run / "metrics.json").write_text(json.dumps(metrics | {"stopped": "finished"}))
    asked = []
    found = scores, {"error": [0.5]}
    monkeypatch.setattr(weights, "scored", lambda *x: asked.append(x) or found)
    card = weights.main("mine", run, tmp_path / "made")
    monkeypatch.setattr(_pretrained, "WEIGHTS", tmp_path / "made")
    want = jax.tree.map(
        lambda x: x.astype(np.float16).astype(x.dtype) if eqx.is_array(x) else x, model
    )
    assert eqx.tree_equal(pretrained("mine"), want)
    assert eqx.tree_equal(asked[0][0], want)  # scored are the stored weights
    assert model_card("mine") == _pretrained.ModelCard(
        command=card["command"],
        seed=3,
        scores=scores,
        image_size=(32, 32),
        channels=3,
        image_range=(-1.0, 1.0),
        quantiles={"error": [0.5]},
    )
    words = "--steps 2 --seed 3 --background black --batch-size 2"
    assert card["command"] == f"python examples/autoencoder.py {words}"
    assert f"mine: {(tmp_path / 'made' / 'mine.eqx').stat().st_size:,} bytes" in (
        capsys.readouterr().out
    )


def test_models_that_predict_sets_can_be_stored_too():
    example, identity = load("set_prediction"), load("options").identity
    said = identity(example.Arguments(scenes="solids", objects=(2, 6), seed=1))
    command = weights.command_of(said)
    words = "--seed 1 --scenes solids --objects 2 6"
    assert command == f"python examples/set_prediction.py {words}"
    assert weights.facts(weights.parsed(command)[1]) == {
        "make": "solid_sets",
        "arguments": {"num_slots": 8},
        "image_size": [64, 64],
        "channels": 3,
        "image_range": [-1.0, 1.0],
    }
