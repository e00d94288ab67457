from typing import NamedTuple

from jaxtyping import Array, Float, Int


class SlotState(NamedTuple):
    """Slots, and the attention that led to them.

    `attention` says what share of each input each slot won in the last round, seen
    from the slots *before* that round's update. Its columns sum to 1, or are 0 for an
    input that is masked; heads are averaged, or summed where they compete together.
    """

    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]


class Converged(NamedTuple):
    """What [`eqx_slots.nn.SlotAttention.converge`][] gives back.

    `num_iters` counts all rounds made, and `residual` is the relative change of the
    slots in the last one.
    """

    state: SlotState
    num_iters: Int[Array, ""]
    residual: Float[Array, ""]
