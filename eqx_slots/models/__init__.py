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
from ._hints import BoxHints as BoxHints, MaskHints as MaskHints
from ._set_predictor import (
    SetPrediction as SetPrediction,
    SlotSetPredictor as SlotSetPredictor,
)
from ._standardization import Standardization as Standardization
from ._start import (
    start_from_colour as start_from_colour,
    start_from_images as start_from_images,
)
from ._video import SlotVideo as SlotVideo
from ._video_reconstruction import (
    Painted as Painted,
    VideoReconstruction as VideoReconstruction,
)
