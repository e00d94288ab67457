"""Layers: one set of feature vectors in, one set of slots out."""

from ._attention import Attended as Attended, inverted_attention as inverted_attention
from ._competition import Softmax as Softmax
from ._conv import (
    conv_transpose as conv_transpose,
    ConvTranspose2d as ConvTranspose2d,
)
from ._positions import (
    coordinate_grid as coordinate_grid,
    SoftPositionEmbedding as SoftPositionEmbedding,
)
from ._reduction import WeightedMean as WeightedMean
from ._slot_attention import SlotAttention as SlotAttention, SlotState as SlotState
from ._slot_init import GaussianSlots as GaussianSlots, LearnedSlots as LearnedSlots
from ._weight_init import paper_weights as paper_weights
