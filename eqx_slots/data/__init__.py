"""Scenes with exact ground truth, painted from a PRNG key."""

from . import blocks as blocks, tetrominoes as tetrominoes
from ._scene import Objects as Objects, paint as paint, Scene as Scene
