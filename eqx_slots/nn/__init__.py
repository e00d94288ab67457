"""Layers: one set of feature vectors in, one set of slots out."""

from ..convolution import (
    conv_transpose as conv_transpose,
    ConvTranspose2d as ConvTranspose2d,
)
from ._adaptive import (
    KeepSlots as KeepSlots,
    Kept as Kept,
    merge_duplicates as merge_duplicates,
    Merged as Merged,
)
from ._attention import Attended as Attended, inverted_attention as inverted_attention
from ._competition import (
    GumbelSoftmax as GumbelSoftmax,
    Sinkhorn as Sinkhorn,
    Softmax as Softmax,
)
from ._positions import (
    coordinate_grid as coordinate_grid,
    SoftPositionEmbedding as SoftPositionEmbedding,
)
from ._reduction import (
    AbstractLinearReduction as AbstractLinearReduction,
    LayerNormSum as LayerNormSum,
    ScaledMean as ScaledMean,
    WeightedMean as WeightedMean,
    WeightedSum as WeightedSum,
)
from ._slot_attention import SlotAttention as SlotAttention
from ._slot_init import (
    GaussianSlots as GaussianSlots,
    GivenSlots as GivenSlots,
    LearnedGaussianSlots as LearnedGaussianSlots,
    LearnedSlots as LearnedSlots,
)
from ._slot_predictor import SlotPredictor as SlotPredictor
from ._slot_state import Converged as Converged, SlotState as SlotState
from ._weight_init import paper_weights as paper_weights
