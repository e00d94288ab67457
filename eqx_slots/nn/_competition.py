import equinox as eqx
import jax
from jaxtyping import Array, Float


class Softmax(eqx.Module):
    r"""Slots compete for each input: a softmax over the *slots*.

    $$A_{kn} = \frac{\exp(L_{kn} / \tau)}{\sum_j \exp(L_{jn} / \tau)}$$

    This one choice of axis is what sets Slot Attention apart from ordinary
    cross-attention, whose softmax runs over the inputs.

    **Arguments:**

    - `temperature`: How soft the competition is: towards 0 the winner takes all,
        towards infinity all take the same. Not positive is a `ValueError`.
    """

    temperature: float = 1.0

    def __check_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")

    def __call__(
        self, logits: Float[Array, "slots inputs"]
    ) -> Float[Array, "slots inputs"]:
        """**Arguments:**

        - `logits`: Similarity of each slot to each input, already scaled.

        **Returns:**

        The attention: non-negative, and for each input its sum over slots is 1.
        """
        return jax.nn.softmax(logits / self.temperature, axis=0)
