"""Scenes with exact truth, painted from a key or read from files; your own pictures."""

from . import (
    blocks as blocks,
    features as features,
    pictures as pictures,
    records as records,
    solids as solids,
    sprites as sprites,
    tetrominoes as tetrominoes,
)
from ._flow import flow_to_rgb as flow_to_rgb
from ._pool import Pool as Pool, pool as pool
from ._scene import (
    boxes as boxes,
    Objects as Objects,
    paint as paint,
    Scene as Scene,
    Video as Video,
)
