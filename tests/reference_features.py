"""The decoders of features as their papers write them: slow, in NumPy, float64.

A loop over places and slots where the equations have indices; the parameters are those
of our modules, the code is not.
"""

import numpy as np

from .reference import array, layer_norm, linear, softmax


def relu(x):
    return np.maximum(x, 0)


def deep_mlp(layers, x, activation=relu):
    for layer in layers[:-1]:
        x = activation(linear(layer, x))
    return linear(layers[-1], x)


def patch_decoder(model, slots, attention=None, activation=relu):
    """DINOSAUR's; with `top_k` as FT-DINOSAUR chooses."""
    slots, places = array(slots), array(model.places)
    features, masks = [], np.zeros((len(slots), len(places)))
    for n, place in enumerate(places):
        chosen = np.arange(len(slots))
        if attention is not None:
            chosen = np.argsort(-array(attention)[:, n], kind="stable")[: model.top_k]
        seen = [slots[k] + place for k in chosen]
        made = np.stack([deep_mlp(model.layers, x, activation) for x in seen])
        share = softmax(made[:, -1], axis=0)
        masks[chosen, n] = share
        features.append(share @ made[:, :-1])
    return np.stack(features), masks


def attend(attention, queries, memory, allowed=lambda n, m: True):
    """One query after the other, one head after the other."""
    heads = attention.num_heads
    rows, shares = [], np.zeros((len(queries), len(memory)))
    for n, query in enumerate(queries):
        seen = [m for m in range(len(memory)) if allowed(n, m)]
        q = np.split(linear(attention.query_proj, query), heads)
        k = [np.split(linear(attention.key_proj, memory[m]), heads) for m in seen]
        v = [np.split(linear(attention.value_proj, memory[m]), heads) for m in seen]
        taken = []
        for h in range(heads):
            logits = np.array([q[h] @ one[h] for one in k]) / np.sqrt(len(q[h]))
            share = softmax(logits, axis=0)
            taken.append(share @ np.stack([one[h] for one in v]))
            shares[n, seen] += share / heads
        rows.append(linear(attention.output_proj, np.concatenate(taken)))
    return np.stack(rows), shares


def block(model, x, slots):
    """Pre-norm: causal self-attention where there is one, slots, then an MLP."""
    if model.attend_self is not None:
        normed = [layer_norm(model.norm_self, row) for row in x]
        x = x + attend(model.attend_self, normed, normed, lambda n, m: m <= n)[0]
    normed = [layer_norm(model.norm_slots, row) for row in x]
    taken, shares = attend(model.attend_slots, normed, slots)
    x = x + taken
    normed = [layer_norm(model.norm_mlp, row) for row in x]
    return x + np.stack([deep_mlp(model.mlp, row) for row in normed]), shares


def autoregressive_decoder(model, slots, features, order):
    features = array(features)
    before = [array(model.start), *(features[n] for n in order[:-1])]
    x = [layer_norm(model.norm_inputs, linear(model.input_proj, b)) for b in before]
    x = np.stack(x)
    if model.places is not None:
        x = x + array(model.places)[order]
    slots = [linear(model.slot_proj, slot) for slot in array(slots)]
    slots = [layer_norm(model.norm_slots, slot) for slot in slots]
    for one in model.blocks:
        x, shares = block(one, x, slots)
    if model.output_proj is not None:
        x = np.stack([linear(model.output_proj, row) for row in x])
    made, masks = np.zeros_like(x), np.zeros((len(slots), len(x)))
    for step, place in enumerate(order):
        made[place], masks[:, place] = x[step], shares[step]
    return made, masks


def slot_mixer(model, slots):
    slots, places = array(slots), array(model.places)
    memory = [layer_norm(model.norm_memory, slot) for slot in slots]
    x = places
    for one in model.blocks:
        x, _ = block(one, x, memory)
    keys = [linear(model.key_proj, layer_norm(model.norm_slots, s)) for s in slots]
    features, masks = [], []
    for row, place in zip(x, places):
        query = linear(model.query_proj, layer_norm(model.norm_places, row))
        logits = np.array([query @ k for k in keys]) / np.sqrt(slots.shape[1])
        share = softmax(logits, axis=0)
        features.append(deep_mlp(model.layers, share @ slots + place))
        masks.append(share)
    return np.stack(features), np.stack(masks, axis=1)
