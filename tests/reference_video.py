"""A video model as SAVi's paper and code describe it: slow, in NumPy, float64.

As in `reference.py`, loops stand where the equations have indices, and no code is
shared with the modules whose parameters it takes.
"""

import numpy as np

from .reference import (
    array,
    decoder,
    encoder,
    layer_norm,
    linear,
    mlp,
    slot_attention,
    softmax,
)


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


def box_hints(start, boxes):
    """A slot of each box, and before them one of the box of zeros."""
    boxes = [np.zeros(start.size), *array(boxes)]
    missing = 0 if start.num_slots is None else start.num_slots - len(boxes)
    boxes += [np.zeros(start.size)] * missing
    return np.stack([mlp(start.mlp, box) for box in boxes])


def mask_hints(start, labels):
    """A slot of each label's mask; that of the background is blank."""
    slots = []
    for label in range(start.num_slots):
        mask = array(np.asarray(labels) == label) * (label > 0)
        features = encoder(start.encoder, mask[None])
        slots.append(mlp(start.mlp, features.mean(axis=0)))
    return np.stack(slots)


def corrector(layer, features, slots, num_iters):
    """Slot attention whose epsilon is where the layer has it."""
    if layer.reduction.eps_in == "weights":
        return slot_attention(layer, features, slots, num_iters)

    def update(weights, values, eps=layer.reduction.eps):
        return sum(w * v for w, v in zip(weights, values)) / (sum(weights) + eps)

    return slot_attention(layer, features, slots, num_iters, update=update)


def slot_video(model, video, slots, rounds, activation):
    """Frame by frame: encode, correct, paint, predict. `rounds` is for each frame."""
    made = []
    for image, num_iters in zip(array(video), rounds):
        features = encoder(model.encoder, image)
        slots, attention = corrector(model.corrector, features, slots, num_iters)
        painted = [decoder(model.decoder, slot, activation) for slot in slots]
        rgb = np.stack([p[0] for p in painted])
        masks = softmax(np.stack([p[1] for p in painted]), axis=0)
        whole = (rgb * masks[:, None]).sum(axis=0)
        predicted = slot_predictor(model.predictor, slots)
        made.append((whole, rgb, masks, slots, attention, predicted))
        slots = predicted
    return [np.stack(parts) for parts in zip(*made)]
