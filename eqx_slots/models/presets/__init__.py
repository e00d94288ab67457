"""Models by name: `presets.clevr(key=key)` is the published architecture.

Every function gives a [`eqx_slots.models.SlotAutoencoder`][]; where its name ends in
`_sets` a [`eqx_slots.models.SlotSetPredictor`][], `block_videos` and `savi_small` a
[`eqx_slots.models.SlotVideo`][], and `dinosaur` a
[`eqx_slots.models.FeatureAutoencoder`][]; with the official codes' initial weights. All
take the same two arguments, both keyword only: `num_slots`, how many slots compete, and
`key`, the randomness of the weights; `blocks` and `block_videos` come in any image
size, `dinosaur` for features of any width and number. `equinox.filter_jit` builds a
model faster. How to train one is not part of a model; see `examples/`.
"""

from ._blocks import blocks as blocks
from ._features import dinosaur as dinosaur
from ._paper import (
    blog as blog,
    clevr as clevr,
    multi_dsprites as multi_dsprites,
    tetrominoes as tetrominoes,
)
from ._savi import savi_small as savi_small
from ._sets import (
    block_sets as block_sets,
    clevr_sets as clevr_sets,
    solid_sets as solid_sets,
)
from ._videos import block_videos as block_videos
