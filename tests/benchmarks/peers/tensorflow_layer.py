"""The official algorithm in Keras, as in the code of Locatello et al. 2020."""

import os

import numpy as np


os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}

import keras
import tensorflow as tf

from . import Peer


SIZE, ROUNDS = 64, 3


class SlotAttention(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        dense = keras.layers.Dense
        self.norms = [keras.layers.LayerNormalization() for _ in range(3)]
        self.q, self.k, self.v = (dense(SIZE, use_bias=False) for _ in range(3))
        self.gru = keras.layers.GRUCell(SIZE)
        self.mlp = [dense(128, activation="relu"), dense(SIZE)]

    def call(self, inputs, slots):
        norm_inputs, norm_slots, norm_mlp = self.norms
        inputs = norm_inputs(inputs)
        k, v = self.k(inputs), self.v(inputs)
        for _ in range(ROUNDS):
            before = slots
            q = self.q(norm_slots(slots)) * SIZE**-0.5
            attention = tf.nn.softmax(tf.matmul(k, q, transpose_b=True), axis=-1) + 1e-8
            attention /= tf.reduce_sum(attention, axis=1, keepdims=True)
            updates = tf.matmul(attention, v, transpose_a=True)
            flat = lambda x: tf.reshape(x, (-1, SIZE))
            slots, _ = self.gru(flat(updates), [flat(before)])
            slots = tf.reshape(slots, tf.shape(before))
            slots += self.mlp[1](self.mlp[0](norm_mlp(slots)))
        return slots


def build(way: str, inputs: np.ndarray, slots: np.ndarray) -> Peer:
    keras.utils.set_random_seed(0)
    layer = SlotAttention()
    inputs, slots = tf.constant(inputs), tf.constant(slots)
    layer(inputs[:1], slots[:1])
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(weight + 0.05 * rng.normal(size=weight.shape))
    xla = way == "tensorflow_xla"

    @tf.function(jit_compile=xla)
    def forward(inputs, slots):
        return layer(inputs, slots)

    @tf.function(jit_compile=xla)
    def gradient(inputs, slots):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(layer(inputs, slots) ** 2)
        return tape.gradient(total, [inputs, *layer.trainable_weights])

    def done(results):
        for result in tf.nest.flatten(results):
            np.asarray(tf.reshape(result, (-1,))[0])  # waits, and copies one number
        return results

    norm = lambda name, norm: {f"{name}/gamma": norm.gamma, f"{name}/beta": norm.beta}
    weights = {
        "slots_mu": np.zeros((1, 1, SIZE), np.float32),
        "slots_log_sigma": np.zeros((1, 1, SIZE), np.float32),
        **norm("layer_normalization", layer.norms[0]),
        **norm("layer_normalization_1", layer.norms[1]),
        **norm("layer_normalization_2", layer.norms[2]),
        "q/kernel": layer.q.kernel,
        "k/kernel": layer.k.kernel,
        "v/kernel": layer.v.kernel,
        "gru_cell/kernel": layer.gru.kernel,
        "gru_cell/recurrent_kernel": layer.gru.recurrent_kernel,
        "gru_cell/bias": layer.gru.bias,
        "mlp/dense/kernel": layer.mlp[0].kernel,
        "mlp/dense/bias": layer.mlp[0].bias,
        "mlp/dense_1/kernel": layer.mlp[1].kernel,
        "mlp/dense_1/bias": layer.mlp[1].bias,
    }
    return Peer(
        lambda: done(forward(inputs, slots)),
        lambda: done(gradient(inputs, slots)),
        {name: np.asarray(weight) for name, weight in weights.items()},
    )
