"""The PyTorch package `slot-attention`, eager and compiled."""

import numpy as np
import torch
from slot_attention import SlotAttention

from . import Peer


SIZE, ROUNDS = 64, 3
DRAW = torch.randn


def build(way: str, inputs: np.ndarray, slots: np.ndarray) -> Peer:
    torch.randn = DRAW
    torch.manual_seed(0)
    layer = SlotAttention(slots.shape[1], SIZE, iters=ROUNDS, hidden_dim=128)
    with torch.no_grad():
        # It draws its slots as mean + scale * noise; the noise is to be ours.
        layer.slots_mu.zero_()
        layer.slots_logsigma.zero_()
    weights = {k: v.detach().numpy().copy() for k, v in layer.state_dict().items()}
    learned = [
        p for name, p in layer.named_parameters() if not name.startswith("slots_")
    ]
    given = torch.from_numpy(slots)
    torch.randn = lambda *args, **kwargs: given
    call = torch.compile(layer) if way == "torch_compiled" else layer
    x = torch.from_numpy(inputs)
    leaf = x.clone().requires_grad_()

    def forward():
        with torch.no_grad():
            return call(x)

    def gradient():
        return torch.autograd.grad(call(leaf).square().sum(), [leaf, *learned])

    return Peer(forward, gradient, weights)
