"""The layer on more than one device: what has to be sent between them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sharded import numbers_sent, SETS, SIZE, SLOTS, WIDTH


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-m", "tests.sharded"]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    environment = os.environ | devices | {"JAX_PLATFORMS": "cpu"}
    options = {"cwd": Path(__file__).parents[1], "env": environment}
    made = subprocess.run(command, **options, stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


@pytest.mark.parametrize(
    "kind",
    [
        "all-gather",
        "all-reduce",
        "all-to-all",
        "collective-broadcast",
        "collective-permute",
        "ragged-all-to-all",
        "reduce-scatter",
    ],
)
def test_everything_that_is_sent_is_counted(kind):
    """As XLA writes programs, at once or in two halves, and several arrays in one."""
    text = f"""
  %one = f32[8,3]{{1,0}} {kind}(%a), channel_id=1
  ROOT %two = (f32[2]{{0}}, bf16[]) {kind}-start(f32[8,3]{{1,0}} %one), channel_id=2
  %three = f32[2]{{0}} {kind}-done(%two)
  %four = f32[8,3]{{1,0}} add(%one, %one), metadata={{op_name="all-to-all"}}
"""
    assert numbers_sent(text) == {kind: [24, 3]}


@pytest.mark.parametrize("way", ["batch", "inputs", "both"])
def test_gradients_are_those_of_one_device(report, way):
    assert report["small"][way]["error"] < 1e-5
    assert report["small"][way]["shared out"]


def test_a_batch_shares_nothing_but_the_gradients_of_the_weights(report):
    assert list(report["small"]["batch"]["sent"]) == ["all-reduce"]
    assert len(report["small"]["batch"]["sent"]["all-reduce"]) == 1


def test_inputs_stay_where_they_are(report):
    # A round, compiled once, moves what each slot takes, forwards and backwards.
    sent = report["small"]["inputs"]["sent"]
    assert list(sent) == ["all-reduce"]
    assert max(sent["all-reduce"]) <= SETS * SLOTS * (SIZE + 1)
    assert len(sent["all-reduce"]) <= 8


def test_inputs_of_any_number_stay_where_they_are(report):
    for sent in report["of any number"].values():
        assert list(sent) == ["all-reduce"]
        assert max(sent["all-reduce"]) <= SETS * SLOTS * (SIZE + 1)


def test_batch_and_inputs_are_shared_out_together(report):
    # Two sets a row of devices: beside the rounds, one sum of the weights' gradients.
    sent = report["small"]["both"]["sent"]
    assert list(sent) == ["all-reduce"]
    *rounds, weights = sorted(sent["all-reduce"])
    assert max(rounds) <= SETS // 2 * SLOTS * (SIZE + 1)
    assert weights == sum(report["small"]["batch"]["sent"]["all-reduce"])


@pytest.mark.parametrize("way", ["inputs", "both"])
def test_a_million_inputs_are_never_sent(report, way):
    """One set over eight devices; two sets, each over four."""
    found, alone = report["a million"][way], report["a million"]["alone"]
    assert list(found["sent"]) == ["all-reduce"]
    rounds = [sent for sent in found["sent"]["all-reduce"] if sent < 10_000]
    assert len(rounds) <= 8
    assert max(rounds) <= SLOTS * (WIDTH + 1)
    # The gradients of the weights are summed over sets; one set needs no such sum.
    assert len(found["sent"]["all-reduce"]) - len(rounds) == (way == "both")
    sets = 2 if way == "both" else 1
    assert found["bytes"] < 1.02 * sets * alone["bytes"] / 8
