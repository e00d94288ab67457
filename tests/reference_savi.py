"""All of SAVi-S from its Flax parameters: slow, in NumPy, float64, channels last.

Written from the layers that the original is made of; the shapes are those recorded of
its configuration, at widths that no two axes share.
"""

import numpy as np

from .reference_interop import flax_norm, relu, savi, softmax


SIDE, GRID = 16, 2
_SIZES = {"C": 3, "H": 5, "F": 6, "M": 7, "D": 8, "S": 9, "P": 10, "V": 11}
_DENSES = {
    "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0": "4 S",
    "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_1": "S D",
    "FrameEncoder_0/CNN_0/conv_0": "5 5 C H",
    "FrameEncoder_0/CNN_0/conv_1": "5 5 H H",
    "FrameEncoder_0/CNN_0/conv_2": "5 5 H H",
    "FrameEncoder_0/CNN_0/conv_3": "5 5 H H",
    "FrameEncoder_0/PositionEmbedding_0/MLP_0/dense_mlp_0": "H M",
    "FrameEncoder_0/PositionEmbedding_0/MLP_0/dense_mlp_1": "M F",
    "FrameEncoder_0/PositionEmbedding_0/dense_pe_0": "2 H",
    "SlotAttention_0/GRU_0/GRUCell_0/hn": "D D",
    "SlotAttention_0/GRU_0/GRUCell_0/in": "D D",
    "SlotAttention_0/GRU_0/GRUCell_0/ir": "D D",
    "SlotAttention_0/GRU_0/GRUCell_0/iz": "D D",
    "SpatialBroadcastDecoder_0/CNN_0/conv_0": "5 5 D V",
    "SpatialBroadcastDecoder_0/CNN_0/conv_1": "5 5 V V",
    "SpatialBroadcastDecoder_0/CNN_0/conv_2": "5 5 V V",
    "SpatialBroadcastDecoder_0/CNN_0/conv_3": "5 5 V V",
    "SpatialBroadcastDecoder_0/PositionEmbedding_0/dense_pe_0": "2 D",
    "SpatialBroadcastDecoder_0/Readout_0/Dense_0/Dense_0": "V C",
    "SpatialBroadcastDecoder_0/alpha_logits": "V 1",
    "TransformerBlock_0/MLP_0/dense_mlp_0": "D P",
    "TransformerBlock_0/MLP_0/dense_mlp_1": "P D",
}
_NORMS = {
    "FrameEncoder_0/PositionEmbedding_0/MLP_0/LayerNorm_0": "H",
    "SlotAttention_0/LayerNorm_0": "D",
    "SlotAttention_0/LayerNorm_1": "F",
    "TransformerBlock_0/LayerNorm_0": "D",
    "TransformerBlock_0/LayerNorm_1": "D",
}
_ATTENTION = "TransformerBlock_0/MultiHeadDotProductAttention_0"
_OTHERS = {
    "SlotAttention_0/GRU_0/GRUCell_0/hr/kernel": "D D",
    "SlotAttention_0/GRU_0/GRUCell_0/hz/kernel": "D D",
    "SlotAttention_0/general_dense_k_0/kernel": "F 1 D",
    "SlotAttention_0/general_dense_q_0/kernel": "D 1 D",
    "SlotAttention_0/general_dense_v_0/kernel": "F 1 D",
    **{f"{_ATTENTION}/{name}/bias": "2 4" for name in ("key", "query", "value")},
    **{f"{_ATTENTION}/{name}/kernel": "D 2 4" for name in ("key", "query", "value")},
    f"{_ATTENTION}/out/bias": "D",
    f"{_ATTENTION}/out/kernel": "2 4 D",
}


def _shapes():
    shapes = dict(_OTHERS)
    for name, axes in _DENSES.items():
        shapes |= {f"{name}/kernel": axes, f"{name}/bias": axes.split()[-1]}
    for name, axes in _NORMS.items():
        shapes |= {f"{name}/scale": axes, f"{name}/bias": axes}
    return {
        name: tuple(_SIZES[x] if x in _SIZES else int(x) for x in axes.split())
        for name, axes in sorted(shapes.items())
    }


SHAPES = _shapes()


def grid(side):
    """`y` and `x` from -1 to 1."""
    out = np.zeros((1, side, side, 2))
    for i in range(side):
        for j in range(side):
            out[0, i, j] = 2 * i / (side - 1) - 1, 2 * j / (side - 1) - 1
    return out


def parameters(seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    params = {
        name: np.asarray(scale * rng.normal(size=shape), np.float32)
        for name, shape in SHAPES.items()
    }
    params["FrameEncoder_0/PositionEmbedding_0/pos_embedding"] = np.float32(grid(SIDE))
    name = "SpatialBroadcastDecoder_0/PositionEmbedding_0/pos_embedding"
    params[name] = np.float32(grid(GRID))
    return params


def _dense(w, name, x):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def _conv(w, name, x, stride=1):
    """Correlation; with a stride, of the map with zeros between its places."""
    kernel, bias = w[f"{name}/kernel"], w[f"{name}/bias"]
    height, width = stride * x.shape[0], stride * x.shape[1]
    before = 2 if stride == 1 else 3  # five taps, "SAME" as JAX shares the rest out
    padded = np.zeros((height + 8, width + 8, x.shape[2]))
    padded[before : before + height : stride, before : before + width : stride] = x
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            out[i, j] = np.tensordot(padded[i : i + 5, j : j + 5], kernel, axes=3)
    return relu(out + bias)


def _mlp(w, name, x):
    return _dense(w, f"{name}/dense_mlp_1", relu(_dense(w, f"{name}/dense_mlp_0", x)))


def _place(w, part, x):
    """The stored grid has these places in float32."""
    return x + _dense(w, f"{part}/PositionEmbedding_0/dense_pe_0", grid(len(x))[0])


def encode(w, image):
    for i in range(4):
        image = _conv(w, f"FrameEncoder_0/CNN_0/conv_{i}", image)
    x = _place(w, "FrameEncoder_0", image).reshape(-1, image.shape[-1])
    name = "FrameEncoder_0/PositionEmbedding_0/MLP_0"
    return _mlp(w, name, flax_norm(w, f"{name}/LayerNorm_0", x))


def predict(w, slots):
    q, k, v = (
        np.einsum("si,ihd->hsd", slots, w[f"{_ATTENTION}/{name}/kernel"])
        + w[f"{_ATTENTION}/{name}/bias"][:, None]
        for name in ("query", "key", "value")
    )
    logits = np.einsum("hsd,htd->hst", q, k) / np.sqrt(q.shape[-1])
    taken = np.einsum("hst,htd->shd", softmax(logits, axis=2), v)
    taken = np.einsum("shd,hdo->so", taken, w[f"{_ATTENTION}/out/kernel"])
    slots = slots + taken + w[f"{_ATTENTION}/out/bias"]
    slots = flax_norm(w, "TransformerBlock_0/LayerNorm_0", slots)
    slots = slots + _mlp(w, "TransformerBlock_0/MLP_0", slots)
    return flax_norm(w, "TransformerBlock_0/LayerNorm_1", slots)


def decode(w, slots):
    flow, alphas = [], []
    for slot in slots:
        x = _place(w, "SpatialBroadcastDecoder_0", np.tile(slot, (GRID, GRID, 1)))
        for i, stride in enumerate((2, 2, 2, 1)):
            x = _conv(w, f"SpatialBroadcastDecoder_0/CNN_0/conv_{i}", x, stride)
        name = "SpatialBroadcastDecoder_0"
        flow.append(_dense(w, f"{name}/Readout_0/Dense_0/Dense_0", x))
        alphas.append(_dense(w, f"{name}/alpha_logits", x))
    masks = softmax(np.stack(alphas), axis=0)
    return np.sum(masks * np.stack(flow), axis=0), masks[..., 0]


def model(params, video, boxes):
    """The flow, the masks, the slots and the predicted slots of each frame."""
    w = {name: np.asarray(x, np.float64) for name, x in params.items()}
    layer = {
        name.removeprefix("SlotAttention_0/"): x
        for name, x in w.items()
        if name.startswith("SlotAttention_0/")
    }
    boxes = np.concatenate([np.zeros((1, 4)), boxes])
    slots, made = _mlp(w, "CoordinateEncoderStateInit_0/MLP_0", boxes), []
    for image in video:
        slots = savi(layer, encode(w, image), slots)
        predicted = predict(w, slots)
        made.append((*decode(w, slots), slots, predicted))
        slots = predicted
    return [np.stack(x) for x in zip(*made)]
