"""Other implementations of the layer, each to be run in a process of its own.

A module here has `build(way, inputs, slots)`, which gives a `Peer`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Peer(NamedTuple):
    """Calls that return when they are done, and the weights by their own names."""

    forward: Callable[[], Any]  # the slots
    gradient: Callable[[], Any]  # of the sum of their squares, the inputs' in front
    weights: dict[str, np.ndarray]
