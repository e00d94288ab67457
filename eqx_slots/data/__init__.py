"""Scenes with exact ground truth, painted from a PRNG key, or read from files."""

from . import (
    blocks as blocks,
    records as records,
    solids as solids,
    sprites as sprites,
    tetrominoes as tetrominoes,
)
from ._pool import Pool as Pool, pool as pool
from ._scene import Objects as Objects, paint as paint, Scene as Scene
