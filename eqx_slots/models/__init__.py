"""Whole models, built from the layers of `eqx_slots.nn`."""

from . import presets as presets
from ._autoencoder import (
    Reconstruction as Reconstruction,
    SlotAutoencoder as SlotAutoencoder,
)
from ._decoder import (
    Composite as Composite,
    composite as composite,
    Decoded as Decoded,
    SpatialBroadcastDecoder as SpatialBroadcastDecoder,
)
from ._encoder import Encoder as Encoder
from ._set_predictor import (
    SetPrediction as SetPrediction,
    SlotSetPredictor as SlotSetPredictor,
)
from ._standardization import Standardization as Standardization
from ._start import (
    start_from_colour as start_from_colour,
    start_from_images as start_from_images,
)
