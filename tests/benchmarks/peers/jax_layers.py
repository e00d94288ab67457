"""Our layer, and what one would write in JAX without it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_slots import SlotAttention

from . import Peer


SIZE, ROUNDS = 64, 3


def layer_of(num_slots: int) -> SlotAttention:
    """No scale is one and no shift is zero: a mistake would show."""
    layer = SlotAttention(SIZE, SIZE, num_slots=num_slots, key=jr.key(0))
    rng = np.random.default_rng(0)
    moved = lambda x: x + 0.05 * jnp.asarray(rng.normal(size=x.shape), x.dtype)
    return jax.tree.map(lambda x: moved(x) if eqx.is_inexact_array(x) else x, layer)


def ours(layer, inputs, slots):
    return layer(inputs, slots=slots).slots


def textbook(layer, inputs, slots):
    """The algorithm as the paper prints it."""
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
    for _ in range(ROUNDS):
        q = jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots))
        attention = jax.nn.softmax(k @ q.T * SIZE**-0.5, axis=1) + 1e-8
        weights = attention / jnp.sum(attention, axis=0, keepdims=True)
        slots = jax.vmap(layer.cell)(weights.T @ v, slots)
        slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
    return slots


def savi(layer, inputs, slots):
    """As SAVi's `SlotAttention`: an axis for the one head, epsilon in the sum."""
    heads = lambda x: x[:, None]
    normed = jax.vmap(layer.norm_inputs)(inputs)
    k = heads(jax.vmap(layer.key_proj)(normed))
    v = heads(jax.vmap(layer.value_proj)(normed))
    for _ in range(ROUNDS):
        q = heads(jax.vmap(layer.query_proj)(jax.vmap(layer.norm_slots)(slots)))
        logits = jnp.einsum("qhd,khd->hqk", q / SIZE**0.5, k)
        attention = jax.nn.softmax(logits, axis=1)
        attention = attention / (jnp.sum(attention, axis=2, keepdims=True) + 1e-8)
        updates = jnp.einsum("hqk,khd->qhd", attention, v)[:, 0]
        slots = jax.vmap(layer.cell)(updates, slots)
        slots = slots + jax.vmap(layer.mlp)(jax.vmap(layer.norm_mlp)(slots))
    return slots


def build(way: str, inputs: np.ndarray, slots: np.ndarray) -> Peer:
    call = {"eqx_slots": ours, "textbook": textbook, "savi": savi}[way]
    layer = layer_of(slots.shape[1])
    params, static = eqx.partition(layer, eqx.is_inexact_array)
    inputs, slots = jnp.asarray(inputs), jnp.asarray(slots)

    @jax.jit
    def forward(params, inputs, slots):
        layer = eqx.combine(params, static)
        return jax.vmap(call, in_axes=(None, 0, 0))(layer, inputs, slots)

    total = lambda *args: jnp.sum(forward(*args) ** 2)
    gradient = jax.jit(jax.grad(total, argnums=(1, 0)))
    return Peer(
        lambda: jax.block_until_ready(forward(params, inputs, slots)),
        lambda: jax.block_until_ready(gradient(params, inputs, slots)),
        {},
    )
