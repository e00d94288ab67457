"""Convolutions of many images with one kernel, fast both ways on every backend.

This room knows no slots. It is for those above it; what users may call is in `nn`.
"""

from ._convolve import convolve as convolve
from ._layers import convolve_last as convolve_last, ConvTranspose2d as ConvTranspose2d
from ._transpose import conv_transpose as conv_transpose, taps_met as taps_met
