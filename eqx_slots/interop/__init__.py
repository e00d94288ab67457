"""Weights to and from the reference implementations, as plain dicts of NumPy arrays.

Names and shapes are those of the originals; none of their libraries is imported.
"""

from ._google import google_layer as google_layer, to_google_layer as to_google_layer
from ._google_autoencoder import (
    google_autoencoder as google_autoencoder,
    to_google_autoencoder as to_google_autoencoder,
)
from ._lucidrains import lucidrains as lucidrains, to_lucidrains as to_lucidrains
from ._savi import savi as savi, to_savi as to_savi
from ._savi_video import savi_video as savi_video, to_savi_video as to_savi_video
