"""The reference implementations as their own code defines them: slow, NumPy, float64.

Each takes weights under the names that the original gives them, and shares no code with
`eqx_slots`.
"""

import numpy as np

from .reference import sigmoid, softmax


# Every name and shape as the originals wrote them.
_RECORDED = {
    "google_layer": """
        slot_attention/slots_mu 1 1 24
        slot_attention/slots_log_sigma 1 1 24
        slot_attention/layer_normalization/gamma 24
        slot_attention/layer_normalization/beta 24
        slot_attention/layer_normalization_1/gamma 24
        slot_attention/layer_normalization_1/beta 24
        slot_attention/layer_normalization_2/gamma 24
        slot_attention/layer_normalization_2/beta 24
        slot_attention/q/kernel 24 24
        slot_attention/k/kernel 24 24
        slot_attention/v/kernel 24 24
        slot_attention/gru_cell/kernel 24 72
        slot_attention/gru_cell/recurrent_kernel 24 72
        slot_attention/gru_cell/bias 2 72
        slot_attention/mlp/dense/kernel 24 40
        slot_attention/mlp/dense/bias 40
        slot_attention/mlp/dense_1/kernel 40 24
        slot_attention/mlp/dense_1/bias 24
    """,
    "google_autoencoder": """
        slot_attention_auto_encoder/encoder_cnn/conv2d/kernel 5 5 3 64
        slot_attention_auto_encoder/encoder_cnn/conv2d/bias 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_1/kernel 5 5 64 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_1/bias 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_2/kernel 5 5 64 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_2/bias 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_3/kernel 5 5 64 64
        slot_attention_auto_encoder/encoder_cnn/conv2d_3/bias 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose/kernel 5 5 64 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose/bias 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_1/kernel 5 5 64 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_1/bias 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_2/kernel 5 5 64 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_2/bias 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_3/kernel 3 3 4 64
        slot_attention_auto_encoder/decoder_cnn/conv2d_transpose_3/bias 4
        slot_attention_auto_encoder/soft_position_embed/dense_2/kernel 4 64
        slot_attention_auto_encoder/soft_position_embed/dense_2/bias 64
        slot_attention_auto_encoder/soft_position_embed_1/dense_3/kernel 4 64
        slot_attention_auto_encoder/soft_position_embed_1/dense_3/bias 64
        slot_attention_auto_encoder/layer_normalization_3/gamma 64
        slot_attention_auto_encoder/layer_normalization_3/beta 64
        slot_attention_auto_encoder/feedforward/dense_4/kernel 64 64
        slot_attention_auto_encoder/feedforward/dense_4/bias 64
        slot_attention_auto_encoder/feedforward/dense_5/kernel 64 64
        slot_attention_auto_encoder/feedforward/dense_5/bias 64
        slot_attention_1/slots_mu 1 1 64
        slot_attention_1/slots_log_sigma 1 1 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_4/gamma 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_4/beta 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_5/gamma 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_5/beta 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_6/gamma 64
        slot_attention_auto_encoder/slot_attention_1/layer_normalization_6/beta 64
        slot_attention_auto_encoder/slot_attention_1/q/kernel 64 64
        slot_attention_auto_encoder/slot_attention_1/k/kernel 64 64
        slot_attention_auto_encoder/slot_attention_1/v/kernel 64 64
        slot_attention_auto_encoder/slot_attention_1/gru_cell_1/kernel 64 192
        slot_attention_auto_encoder/slot_attention_1/gru_cell_1/recurrent_kernel 64 192
        slot_attention_auto_encoder/slot_attention_1/gru_cell_1/bias 2 192
        slot_attention_auto_encoder/slot_attention_1/mlp/dense_6/kernel 64 128
        slot_attention_auto_encoder/slot_attention_1/mlp/dense_6/bias 128
        slot_attention_auto_encoder/slot_attention_1/mlp/dense_7/kernel 128 64
        slot_attention_auto_encoder/slot_attention_1/mlp/dense_7/bias 64
    """,
    "lucidrains_single": """
        slots_mu 1 1 24
        slots_logsigma 1 1 24
        to_q.weight 24 24
        to_q.bias 24
        to_k.weight 24 24
        to_k.bias 24
        to_v.weight 24 24
        to_v.bias 24
        gru.weight_ih 72 24
        gru.weight_hh 72 24
        gru.bias_ih 72
        gru.bias_hh 72
        mlp.0.weight 40 24
        mlp.0.bias 40
        mlp.2.weight 24 40
        mlp.2.bias 24
        norm_input.weight 24
        norm_input.bias 24
        norm_slots.weight 24
        norm_slots.bias 24
        norm_pre_ff.weight 24
        norm_pre_ff.bias 24
    """,
    "lucidrains_multi": """
        slots_mu 1 1 24
        slots_logsigma 1 1 24
        norm_input.weight 24
        norm_input.bias 24
        norm_slots.weight 24
        norm_slots.bias 24
        to_q.weight 24 24
        to_q.bias 24
        to_k.weight 24 24
        to_k.bias 24
        to_v.weight 24 24
        to_v.bias 24
        combine_heads.weight 24 24
        combine_heads.bias 24
        gru.weight_ih 72 24
        gru.weight_hh 72 24
        gru.bias_ih 72
        gru.bias_hh 72
        norm_pre_ff.weight 24
        norm_pre_ff.bias 24
        mlp.0.weight 40 24
        mlp.0.bias 40
        mlp.2.weight 24 40
        mlp.2.bias 24
    """,
    "savi_single": """
        GRU_0/GRUCell_0/hn/bias 24
        GRU_0/GRUCell_0/hn/kernel 24 24
        GRU_0/GRUCell_0/hr/kernel 24 24
        GRU_0/GRUCell_0/hz/kernel 24 24
        GRU_0/GRUCell_0/in/bias 24
        GRU_0/GRUCell_0/in/kernel 24 24
        GRU_0/GRUCell_0/ir/bias 24
        GRU_0/GRUCell_0/ir/kernel 24 24
        GRU_0/GRUCell_0/iz/bias 24
        GRU_0/GRUCell_0/iz/kernel 24 24
        LayerNorm_0/bias 24
        LayerNorm_0/scale 24
        LayerNorm_1/bias 24
        LayerNorm_1/scale 24
        MLP_0/LayerNorm_0/bias 24
        MLP_0/LayerNorm_0/scale 24
        MLP_0/dense_mlp_0/bias 40
        MLP_0/dense_mlp_0/kernel 24 40
        MLP_0/dense_mlp_1/bias 24
        MLP_0/dense_mlp_1/kernel 40 24
        general_dense_k_0/kernel 24 1 24
        general_dense_q_0/kernel 24 1 24
        general_dense_v_0/kernel 24 1 24
    """,
    "savi_multi": """
        GRU_0/GRUCell_0/hn/bias 24
        GRU_0/GRUCell_0/hn/kernel 24 24
        GRU_0/GRUCell_0/hr/kernel 24 24
        GRU_0/GRUCell_0/hz/kernel 24 24
        GRU_0/GRUCell_0/in/bias 24
        GRU_0/GRUCell_0/in/kernel 8 24
        GRU_0/GRUCell_0/ir/bias 24
        GRU_0/GRUCell_0/ir/kernel 8 24
        GRU_0/GRUCell_0/iz/bias 24
        GRU_0/GRUCell_0/iz/kernel 8 24
        InvertedDotProductAttention_0/DenseGeneral_0/bias 8
        InvertedDotProductAttention_0/DenseGeneral_0/kernel 3 8 8
        LayerNorm_0/bias 24
        LayerNorm_0/scale 24
        LayerNorm_1/bias 24
        LayerNorm_1/scale 24
        MLP_0/LayerNorm_0/bias 24
        MLP_0/LayerNorm_0/scale 24
        MLP_0/dense_mlp_0/bias 40
        MLP_0/dense_mlp_0/kernel 24 40
        MLP_0/dense_mlp_1/bias 24
        MLP_0/dense_mlp_1/kernel 40 24
        general_dense_k_0/kernel 24 3 8
        general_dense_q_0/kernel 24 3 8
        general_dense_v_0/kernel 24 3 8
    """,
}
SHAPES = {
    source: {
        name: tuple(map(int, shape))
        for name, *shape in map(str.split, table.strip().splitlines())
    }
    for source, table in _RECORDED.items()
}


def layer_norm(x, scale, shift, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * scale + shift


def relu(x):
    return np.maximum(x, 0)


# Google's TensorFlow code


def keras_norm(w, name, x):
    return layer_norm(x, w[f"{name}/gamma"], w[f"{name}/beta"], eps=1e-3)


def keras_dense(w, name, x):
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)


def keras_gru(w, name, x, h):
    """Gates update, reset, new; the reset gate acts after the recurrent product."""
    bias, recurrent_bias = w[f"{name}/bias"]
    xz, xr, xn = np.split(x @ w[f"{name}/kernel"] + bias, 3, axis=-1)
    recurrent = h @ w[f"{name}/recurrent_kernel"] + recurrent_bias
    hz, hr, hn = np.split(recurrent, 3, axis=-1)
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return z * h + (1 - z) * np.tanh(xn + r * hn)


def google_layer(w, inputs, slots, num_iters=3, eps=1e-8, first=0, scope=""):
    """`first` is where the counter of the norms stands, as `_4` in the autoencoder."""
    norms = [f"{scope}layer_normalization_{first + i}" for i in range(3)]
    norms = [name.removesuffix("_0") for name in norms]
    dense, dense_1 = ("dense_6", "dense_7") if first else ("dense", "dense_1")
    gru = "gru_cell_1" if first else "gru_cell"
    inputs = keras_norm(w, norms[0], inputs)
    k, v = inputs @ w[f"{scope}k/kernel"], inputs @ w[f"{scope}v/kernel"]
    for _ in range(num_iters):
        q = keras_norm(w, norms[1], slots) @ w[f"{scope}q/kernel"]
        q = q * q.shape[-1] ** -0.5
        attention = softmax(k @ q.T, axis=-1) + eps
        attention = attention / attention.sum(axis=-2, keepdims=True)
        slots = keras_gru(w, f"{scope}{gru}", attention.T @ v, slots)
        hidden = keras_dense(w, f"{scope}mlp/{dense}", keras_norm(w, norms[2], slots))
        slots = slots + keras_dense(w, f"{scope}mlp/{dense_1}", relu(hidden))
    return slots


def same_padding(size, kernel, stride):
    """TensorFlow's: what is needed in all, the smaller half of it in front."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def keras_conv(x, kernel, stride):
    """Image and kernel with channels last."""
    edges = [same_padding(n, k, stride) for n, k in zip(x.shape, kernel.shape[:2])]
    height, width = (-(-n // stride) for n in x.shape[:2])
    padded = np.pad(x, [*edges, (0, 0)])
    y = 0
    for i, row in enumerate(kernel):
        for j, tap in enumerate(row):
            rows = padded[i : i + stride * (height - 1) + 1 : stride]
            y = y + rows[:, j : j + stride * (width - 1) + 1 : stride] @ tap
    return y


def keras_conv_transpose(y, kernel, stride):
    """The gradient of <y, conv(x)> with respect to x, which is `stride` times as large.

    The kernel is that of the convolution: the channels of x, then those of y.
    """
    height, width, _ = y.shape
    shape = (stride * height, stride * width)
    edges = [same_padding(n, k, stride) for n, k in zip(shape, kernel.shape[:2])]
    padded = [n + sum(edge) for n, edge in zip(shape, edges)]
    x = np.zeros((*padded, kernel.shape[2]))
    for i, row in enumerate(kernel):
        for j, tap in enumerate(row):
            rows = x[i : i + stride * (height - 1) + 1 : stride]
            rows[:, j : j + stride * (width - 1) + 1 : stride] += y @ tap.T
    (top, _), (left, _) = edges
    return x[top : top + shape[0], left : left + shape[1]]


def keras_positions(w, name, x):
    axes = [np.linspace(0, 1, n) for n in x.shape[:2]]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return x + keras_dense(w, name, np.concatenate([grid, 1 - grid], axis=-1))


def google_autoencoder(
    w, image, slots, *, broadcast_size, encoder_strides, decoder_strides, num_iters=3
):
    """Channels last, as there; gives image, rgb, masks and slots."""
    scope = "slot_attention_auto_encoder/"
    x = image
    for i, stride in enumerate(encoder_strides):
        name = f"{scope}encoder_cnn/conv2d_{i}".removesuffix("_0")
        x = relu(keras_conv(x, w[f"{name}/kernel"], stride) + w[f"{name}/bias"])
    x = keras_positions(w, f"{scope}soft_position_embed/dense_2", x)
    x = x.reshape(-1, x.shape[-1])
    x = keras_norm(w, f"{scope}layer_normalization_3", x)
    x = relu(keras_dense(w, f"{scope}feedforward/dense_4", x))
    x = keras_dense(w, f"{scope}feedforward/dense_5", x)
    inner = f"{scope}slot_attention_1/"
    slots = google_layer(w, x, slots, num_iters, first=4, scope=inner)
    painted = []
    for slot in slots:
        x = np.broadcast_to(slot, (*broadcast_size, len(slot)))
        x = keras_positions(w, f"{scope}soft_position_embed_1/dense_3", x)
        for i, stride in enumerate(decoder_strides):
            name = f"{scope}decoder_cnn/conv2d_transpose_{i}".removesuffix("_0")
            x = relu(x) if i else x
            x = keras_conv_transpose(x, w[f"{name}/kernel"], stride) + w[f"{name}/bias"]
        painted.append(x)
    painted = np.stack(painted)
    rgb, masks = painted[..., :-1], softmax(painted[..., -1:], axis=0)
    return (rgb * masks).sum(axis=0), rgb, masks[..., 0], slots


# lucidrains' PyTorch code


def torch_norm(w, name, x):
    return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def torch_linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def torch_gru(w, x, h):
    """Gates reset, update, new, each with two biases."""
    xr, xz, xn = np.split(x @ w["gru.weight_ih"].T + w["gru.bias_ih"], 3, axis=-1)
    hr, hz, hn = np.split(h @ w["gru.weight_hh"].T + w["gru.bias_hh"], 3, axis=-1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + r * hn) + z * h


def lucidrains(w, inputs, slots, num_iters=3, eps=1e-8, num_heads=1, scale=None):
    scale = slots.shape[-1] ** -0.5 if scale is None else scale
    inputs = torch_norm(w, "norm_input", inputs)
    k, v = torch_linear(w, "to_k", inputs), torch_linear(w, "to_v", inputs)
    for _ in range(num_iters):
        q = torch_linear(w, "to_q", torch_norm(w, "norm_slots", slots))
        updates = []
        for qh, kh, vh in zip(*(np.split(x, num_heads, axis=-1) for x in (q, k, v))):
            attention = softmax(qh @ kh.T * scale, axis=0) + eps
            updates.append(attention / attention.sum(axis=1, keepdims=True) @ vh)
        update = np.concatenate(updates, axis=-1)
        if "combine_heads.weight" in w:
            update = torch_linear(w, "combine_heads", update)
        slots = torch_gru(w, update, slots)
        hidden = torch_linear(w, "mlp.0", torch_norm(w, "norm_pre_ff", slots))
        slots = slots + torch_linear(w, "mlp.2", relu(hidden))
    return slots


# SAVi's Flax code


def flax_norm(w, name, x):
    return layer_norm(x, w[f"{name}/scale"], w[f"{name}/bias"], eps=1e-6)


def flax_gru(w, x, h):
    """Biases on the inputs of all gates, and on the recurrent part of the new state."""
    w = {name.removeprefix("GRU_0/GRUCell_0/"): value for name, value in w.items()}
    xr, xz, xn = (x @ w[f"i{gate}/kernel"] + w[f"i{gate}/bias"] for gate in "rzn")
    r, z = sigmoid(xr + h @ w["hr/kernel"]), sigmoid(xz + h @ w["hz/kernel"])
    n = np.tanh(xn + r * (h @ w["hn/kernel"] + w["hn/bias"]))
    return (1 - z) * n + z * h


def savi(w, inputs, slots, num_iters=1, eps=1e-8):
    inputs = flax_norm(w, "LayerNorm_1", inputs)
    k, v = (
        np.einsum("ni,ihd->hnd", inputs, w[f"general_dense_{x}_0/kernel"]) for x in "kv"
    )
    for _ in range(num_iters):
        normed = flax_norm(w, "LayerNorm_0", slots)
        q = np.einsum("si,ihd->hsd", normed, w["general_dense_q_0/kernel"])
        q = q / np.sqrt(q.shape[-1])
        attention = softmax(np.einsum("hsd,hnd->hsn", q, k), axis=1)
        attention = attention / (attention.sum(axis=2, keepdims=True) + eps)
        updates = np.einsum("hsn,hnd->shd", attention, v)
        combine = "InvertedDotProductAttention_0/DenseGeneral_0"
        if f"{combine}/kernel" in w:
            kernel, bias = w[f"{combine}/kernel"], w[f"{combine}/bias"]
            update = np.einsum("shd,hde->se", updates, kernel) + bias
        else:
            update = updates[:, 0]
        slots = flax_gru(w, update, slots)
        if "MLP_0/LayerNorm_0/scale" in w:
            x = flax_norm(w, "MLP_0/LayerNorm_0", slots)
            x = relu(keras_dense(w, "MLP_0/dense_mlp_0", x))
            slots = slots + keras_dense(w, "MLP_0/dense_mlp_1", x)
    return slots
