"""The autoencoder in PyTorch, contiguous and in channels-last order."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class SlotAttention(nn.Module):
    def __init__(self, size, num_slots):
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(num_slots, size))
        self.norm_inputs, self.norm_slots, self.norm_mlp = (
            nn.LayerNorm(size, eps=1e-3) for _ in range(3)
        )
        self.q, self.k, self.v = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.gru = nn.GRUCell(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, size))

    def forward(self, inputs):
        inputs = self.norm_inputs(inputs)
        k, v = self.k(inputs), self.v(inputs)
        slots = self.slots.expand(inputs.shape[0], -1, -1)
        for _ in range(3):
            q = self.q(self.norm_slots(slots)) * slots.shape[-1] ** -0.5
            attention = torch.softmax(q @ k.mT, dim=1) + 1e-8
            updates = attention / attention.sum(dim=-1, keepdim=True) @ v
            moved = self.gru(updates.flatten(0, 1), slots.flatten(0, 1))
            slots = moved.view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots


def grid(height, width):
    axes = (torch.linspace(0, 1, n) for n in (height, width))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([places, 1 - places])


class Autoencoder(nn.Module):
    """PyTorch pads transposed convolutions on the other side: all that is decoded is
    upside down and turned around, and so are the kernels."""

    def __init__(self, num_slots, size=64, hidden=32):
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Conv2d(channels, hidden, 5, padding=2)
            for channels in (3, hidden, hidden, hidden)
        )
        self.encoder_positions = nn.Linear(4, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-3)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, size)
        )
        self.slot_attention = SlotAttention(size, num_slots)
        self.decoder_positions = nn.Linear(4, size)
        up, same = {"stride": 2, "output_padding": 1}, {}
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(before, after, kernel, padding=kernel // 2, **options)
            for before, after, kernel, options in (
                (size, hidden, 5, up),
                (hidden, hidden, 5, up),
                (hidden, hidden, 5, same),
                (hidden, 4, 3, same),
            )
        )

    def forward(self, images):
        features = images
        for conv in self.encoder:
            features = functional.relu(conv(features))
        places = self.encoder_positions(grid(32, 32).permute(1, 2, 0))
        features = features.permute(0, 2, 3, 1) + places
        slots = self.slot_attention(self.mlp(self.norm(features.flatten(1, 2))))
        places = self.decoder_positions(grid(8, 8).permute(1, 2, 0)).flip(0, 1)
        features = (slots.flatten(0, 1)[:, None, None] + places).permute(0, 3, 1, 2)
        for index, conv in enumerate(self.decoder):
            features = conv(functional.relu(features) if index else features)
        painted = features.unflatten(0, slots.shape[:2])
        rgb, masks = torch.sigmoid(painted[:, :, :3]), painted[:, :, 3:].softmax(dim=1)
        return (rgb * masks).sum(dim=1)


def build(way: str, images: np.ndarray, weights: Mapping[str, np.ndarray]):
    """The reconstructions before any step, and a training step to be repeated."""
    model = Autoencoder(len(weights["slot_attention.slots"]))
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    model.load_state_dict(tensors)
    images = torch.from_numpy(images).to(torch.get_default_device())
    if way == "torch_channels_last":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    target = images.flip(2, 3)
    optim = torch.optim.Adam(model.parameters(), lr=4e-4)

    def step():
        optim.zero_grad()
        functional.mse_loss(model(images), target).backward()
        optim.step()

    with torch.no_grad():
        return model(images).flip(2, 3).contiguous().cpu().numpy(), step
