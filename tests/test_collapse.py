"""Dead from alive, on the scenes that killed an earlier recipe."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import as_users_compile
from .test_examples import load


EXAMPLES = Path(__file__).parents[1] / "examples"


def test_which_recipe_kills_a_decoder(tmp_path):
    """In a process of its own, compiled as users do: what dies depends on rounding."""
    runs = ("Muon", "both, waiting")
    options = ["--steps", "120", "--every", "40", "--output", str(tmp_path)]
    command = [sys.executable, str(EXAMPLES / "collapse.py"), *options]
    subprocess.run([*command, "--only", *runs], env=as_users_compile(), check=True)
    assert (tmp_path / "collapse.png").exists()
    made = json.loads((tmp_path / "collapse.json").read_text())
    before, now = (made[name] for name in runs)
    # A random first picture is far worse than none, and to flatten it kills units.
    assert before[0]["error"] > 3
    assert before[0]["dead_decoder"] == 0
    assert before[-1]["error"] == pytest.approx(1, abs=0.1)
    assert before[-1]["dead_decoder"] > 0.3
    # The other begins with the plain background and loses nothing.
    assert now[0]["error"] == pytest.approx(1, abs=1e-4)
    for row in now:
        assert row["dead_decoder"] < 0.1
        assert row["colours"] == 6
    # It waits: a third of the other's steps, once both are warm.
    assert now[-1]["step"] < 0.6 * before[-1]["step"]


def test_a_run_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        load("collapse").main(only=("Moun",))
    assert "--only 'Moun' is none of 'Muon'," in capsys.readouterr().err
