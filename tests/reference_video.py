"""A video model as SAVi's paper and code describe it: slow, in NumPy, float64.

As in `reference.py`, loops stand where the equations have indices, and no code is
shared with the modules whose parameters it takes.
"""

import numpy as np

from .reference import array, layer_norm, linear, mlp, softmax


def self_attention(layer, slots):
    """Multi-head attention of every slot to all of them."""
    heads = layer.num_heads
    q, k, v = (
        [np.split(linear(proj, s), heads) for s in slots]
        for proj in (layer.query_proj, layer.key_proj, layer.value_proj)
    )
    taken = []
    for i in range(len(slots)):
        of_heads = []
        for h in range(heads):
            logits = [q[i][h] @ kj[h] / np.sqrt(len(q[i][h])) for kj in k]
            weights = softmax(np.array(logits), axis=0)
            of_heads.append(sum(w * vj[h] for w, vj in zip(weights, v)))
        taken.append(linear(layer.output_proj, np.concatenate(of_heads)))
    return np.stack(taken)


def slot_predictor(block, slots):
    """A transformer block, with its norms first or last."""
    slots = array(slots)
    every = lambda layer, x: np.stack([layer_norm(layer, s) for s in x])
    if block.norm_first:
        slots = slots + self_attention(
            block.attention, every(block.norm_attention, slots)
        )
        normed = every(block.norm_mlp, slots)
        return slots + np.stack([mlp(block.mlp, s) for s in normed])
    attended = slots + self_attention(block.attention, slots)
    slots = every(block.norm_attention, attended)
    moved = slots + np.stack([mlp(block.mlp, s) for s in slots])
    return every(block.norm_mlp, moved)
