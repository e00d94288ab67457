"""The layer on more than one device: what has to be sent between them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sharded import SETS, SIZE, SLOTS


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-m", "tests.sharded"]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    environment = os.environ | devices | {"JAX_PLATFORMS": "cpu"}
    options = {"cwd": Path(__file__).parents[1], "env": environment}
    made = subprocess.run(command, **options, stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


@pytest.mark.parametrize("way", ["batch", "inputs"])
def test_gradients_are_those_of_one_device(report, way):
    assert report[way]["error"] < 1e-5
    assert report[way]["shared out"]


def test_a_batch_shares_nothing_but_the_gradients_of_the_weights(report):
    assert list(report["batch"]["sent"]) == ["all-reduce"]
    assert len(report["batch"]["sent"]["all-reduce"]) == 1


def test_inputs_stay_where_they_are(report):
    # A round, compiled once, moves what each slot takes, forwards and backwards.
    sent = report["inputs"]["sent"]
    assert list(sent) == ["all-reduce"]
    assert max(sent["all-reduce"]) <= SETS * SLOTS * (SIZE + 1)
    assert len(sent["all-reduce"]) <= 8
