"""Slot Attention and its autoencoder as the paper writes them: slow, in NumPy, float64.

Written from the equations of Locatello et al. (2020) and of the layers it is built
from, with loops where the equations have indices. It takes the parameters of our
modules as they are and shares no code with them.
"""

import numpy as np


def array(x):
    return np.asarray(x, dtype=np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def linear(layer, x):
    y = array(layer.weight) @ x
    return y if layer.bias is None else y + array(layer.bias)


def layer_norm(layer, x):
    centred = x - x.mean()
    normed = centred / np.sqrt((centred**2).mean() + layer.eps)
    return normed * array(layer.weight) + array(layer.bias)


def mlp(layer, x):
    """One hidden layer with ReLU."""
    first, last = layer.layers
    return linear(last, np.maximum(linear(first, x), 0))


def gru(cell, x, h):
    """Gates in the order reset, update, new; the reset gate acts after the product."""
    wx = np.split(array(cell.weight_ih) @ x + array(cell.bias), 3)
    wh = np.split(array(cell.weight_hh) @ h, 3)
    r = sigmoid(wx[0] + wh[0])
    z = sigmoid(wx[1] + wh[1])
    n = np.tanh(wx[2] + r * (wh[2] + array(cell.bias_n)))
    return (1 - z) * n + z * h


def weighted_mean(weights, values, eps=1e-8):
    """One slot's update: the epsilon of the official code sits in the weights."""
    weights = [w + eps for w in weights]
    return sum(w * v for w, v in zip(weights, values)) / sum(weights)


def slot_attention(
    layer, inputs, slots, num_iters=None, over_heads=False, update=weighted_mean
):
    """Algorithm 1 of the paper; with several heads, each on its part of q, k and v."""
    inputs, slots = array(inputs), array(slots)
    num_iters = layer.num_iters if num_iters is None else num_iters
    normed = [layer_norm(layer.norm_inputs, x) for x in inputs]
    heads = layer.num_heads

    def split(vectors):
        return [np.split(x, heads) for x in vectors]

    k = split([linear(layer.key_proj, x) for x in normed])
    v = split([linear(layer.value_proj, x) for x in normed])
    scale = len(k[0][0]) ** -0.5 if layer.scale is None else layer.scale
    for _ in range(num_iters):
        normed = [layer_norm(layer.norm_slots, s) for s in slots]
        q = split([linear(layer.query_proj, s) for s in normed])
        logits = np.array(
            [[[scale * (qi[h] @ kn[h]) for kn in k] for qi in q] for h in range(heads)]
        )
        attention = softmax(logits, axis=(0, 1) if over_heads else 1)
        updated = []
        for i, slot in enumerate(slots):
            taken = [update(attention[h, i], [vn[h] for vn in v]) for h in range(heads)]
            taken = np.concatenate(taken)
            if layer.output_proj is not None:
                taken = linear(layer.output_proj, taken)
            slot = gru(layer.cell, taken, slot)
            if layer.mlp is not None:
                slot = slot + mlp(layer.mlp, layer_norm(layer.norm_mlp, slot))
            updated.append(slot)
        slots = np.stack(updated)
    return slots, attention.sum(axis=0) if over_heads else attention.mean(axis=0)


def sinkhorn(logits, wanted, num_iters):
    """Scale rows to what each slot is to win and columns to one, in turn."""
    plan = np.exp(array(logits))
    for _ in range(num_iters):
        for i in range(len(plan)):
            plan[i] *= wanted[i] / plan[i].sum()
        for n in range(plan.shape[1]):
            plan[:, n] /= plan[:, n].sum()
    return plan


def add_positions(layer, features):
    _, height, width = features.shape
    out = features.copy()
    for i in range(height):
        for j in range(width):
            y = i / (height - 1) if height > 1 else 0.0
            x = j / (width - 1) if width > 1 else 0.0
            place = [y, x, 1 - y, 1 - x]
            if layer.grid == "savi":
                place = [2 * y - 1, 2 * x - 1]
            out[:, i, j] += linear(layer.proj, np.array(place))
    return out


def convolution(conv, x):
    """Cross-correlation with TensorFlow's "SAME" padding."""
    weight, stride = array(conv.weight), conv.stride[0]
    out, _, kernel, _ = weight.shape
    sizes = [-(-n // stride) for n in x.shape[1:]]
    totals = [max((m - 1) * stride + kernel - n, 0) for m, n in zip(sizes, x.shape[1:])]
    edges = [(t // 2, t - t // 2) for t in totals]
    padded = np.pad(x, [(0, 0), *edges])
    y = np.zeros((out, *sizes))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            a, b = i * stride, j * stride
            patch = padded[:, a : a + kernel, b : b + kernel]
            y[:, i, j] = np.tensordot(weight, patch, axes=3)
    return y + array(conv.bias)


def transposed_convolution(conv, x):
    """Spread every pixel over the large image through the flipped kernel, then crop."""
    weight = array(conv.weight)[:, :, ::-1, ::-1]
    out, _, kernel, _ = weight.shape
    stride = conv.stride
    _, height, width = x.shape
    full = np.zeros(
        (out, (height - 1) * stride + kernel, (width - 1) * stride + kernel)
    )
    for i in range(height):
        for j in range(width):
            a, b = i * stride, j * stride
            spread = np.einsum("oikl,i->okl", weight, x[:, i, j])
            full[:, a : a + kernel, b : b + kernel] += spread
    # "SAME": the image is `stride` times as large; cut half of the surplus in front,
    # the smaller half if it is odd.
    surplus = max(kernel - stride, 0)
    front = surplus // 2
    full = full[:, front:, front:]
    missing = [max(stride * n - m, 0) for n, m in zip((height, width), full.shape[1:])]
    full = np.pad(full, [(0, 0), (0, missing[0]), (0, missing[1])])
    full = full[:, : stride * height, : stride * width]
    return full if conv.bias is None else full + array(conv.bias)


def encoder(model, image):
    features = array(image)
    for conv in model.convs:
        features = np.maximum(convolution(conv, features), 0)
    features = add_positions(model.positions, features)
    places = features.reshape(features.shape[0], -1).swapaxes(0, 1)
    return np.stack([mlp(model.mlp, layer_norm(model.norm, p)) for p in places])


def decoder(model, slot, activation):
    height, width = model.grid_size
    features = np.repeat(array(slot), height * width).reshape(-1, height, width)
    features = add_positions(model.positions, features)
    for i, conv in enumerate(model.convs):
        if i > 0:
            features = np.maximum(features, 0)
        features = transposed_convolution(conv, features)
    return activation(features[:-1]), features[-1]


def autoencoder(model, image, slots, activation):
    features = encoder(model.encoder, image)
    slots, attention = slot_attention(model.slot_attention, features, slots)
    painted = [decoder(model.decoder, slot, activation) for slot in slots]
    rgb = np.stack([p[0] for p in painted])
    masks = softmax(np.stack([p[1] for p in painted]), axis=0)
    return (rgb * masks[:, None]).sum(axis=0), rgb, masks, slots, attention
