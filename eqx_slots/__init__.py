"""Slot Attention for Equinox: start at [`eqx_slots.nn.SlotAttention`][]."""

from importlib.metadata import version as _version

from . import (
    data as data,
    diagnostics as diagnostics,
    interop as interop,
    losses as losses,
    metrics as metrics,
    models as models,
    nn as nn,
    properties as properties,
    serialisation as serialisation,
    training as training,
    viz as viz,
)
from .models import SlotAutoencoder as SlotAutoencoder
from .nn import SlotAttention as SlotAttention, SlotState as SlotState


__version__ = _version("eqx-slots")
