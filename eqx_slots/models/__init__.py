"""Whole models, built from the layers of `eqx_slots.nn`."""

from . import presets as presets
from ._autoencoder import (
    Reconstruction as Reconstruction,
    SlotAutoencoder as SlotAutoencoder,
)
from ._autoregressive_decoder import AutoregressiveDecoder as AutoregressiveDecoder
from ._decoded_features import DecodedFeatures as DecodedFeatures
from ._decoder import (
    Composite as Composite,
    composite as composite,
    Decoded as Decoded,
    SpatialBroadcastDecoder as SpatialBroadcastDecoder,
)
from ._encoder import Encoder as Encoder
from ._feature_autoencoder import (
    FeatureAutoencoder as FeatureAutoencoder,
    FeatureProjection as FeatureProjection,
    FeatureReconstruction as FeatureReconstruction,
)
from ._hints import BoxHints as BoxHints, MaskHints as MaskHints
from ._patch_decoder import PatchDecoder as PatchDecoder
from ._pretrained import (
    model_card as model_card,
    ModelCard as ModelCard,
    pretrained as pretrained,
)
from ._set_predictor import (
    SetPrediction as SetPrediction,
    SlotSetPredictor as SlotSetPredictor,
)
from ._slot_mixer import SlotMixer as SlotMixer
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
from ._vit_features import ViTFeatures as ViTFeatures
