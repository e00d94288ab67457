from typing import NamedTuple

from jaxtyping import Array, Float, Int


class SlotState(NamedTuple):
    """Slots, and the attention that led to them.

    `attention` says what share of each input each slot won in the last round, seen
    from the slots *before* that round's update. Its columns sum to 1, or are 0 for an
    input that is masked; heads are averaged, or summed where they compete together.

    **Fields:**

    - `slots`: The slots after the last round, `slots slot_size`.
    - `attention`: The share of each slot in each input, `slots inputs`.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import SlotAttention

    layer = SlotAttention(32, 64, num_slots=7, key=jr.key(0))
    features = jr.normal(jr.key(1), (256, 32))
    state = layer(features, key=jr.key(2))
    owner = jnp.argmax(state.attention, axis=0)  # the slot that won most of each
    print(owner.shape)  # (256,)
    every = layer.rounds(features, key=jr.key(2))
    print(every.attention.shape)  # (3, 7, 256)
    ```
    """

    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]


class Converged(NamedTuple):
    """What [`eqx_slots.nn.SlotAttention.converge`][] gives back.

    **Fields:**

    - `state`: The [`eqx_slots.nn.SlotState`][] after the last round.
    - `num_iters`: How many rounds were made in all, an integer.
    - `residual`: The relative change of the slots in the last one, a number.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import SlotAttention

    layer = SlotAttention(32, 64, num_slots=7, key=jr.key(0))
    features = jr.normal(jr.key(1), (256, 32))
    made = layer.converge(features, tol=0.1, max_iters=50, key=jr.key(2))
    print(made.state.slots.shape, made.num_iters < 50)  # (7, 64) True
    ```
    """

    state: SlotState
    num_iters: Int[Array, ""]
    residual: Float[Array, ""]
