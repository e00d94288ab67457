import equinox as eqx
from einops import einsum, reduce
from jaxtyping import Array, Float


class WeightedMean(eqx.Module):
    r"""Each slot takes the weighted mean of the inputs that it won.

    $$W_{kn} = \frac{A_{kn} + \epsilon}{\sum_m (A_{km} + \epsilon)},
    \qquad u_k = \sum_n W_{kn} v_n$$

    The epsilon sits inside the weights, as in the paper's official code: a slot
    that won nothing at all gets the plain mean of the inputs instead of 0/0.

    **Arguments:**

    - `eps`: Added to every weight before they are divided by their sum. Negative is a
        `ValueError`.
    """

    eps: float = 1e-8

    def __check_init__(self):
        if not self.eps >= 0:
            raise ValueError(f"`eps` must not be negative, got {self.eps}.")

    def __call__(
        self,
        attention: Float[Array, "slots inputs"],
        values: Float[Array, "inputs value_size"],
    ) -> Float[Array, "slots value_size"]:
        """**Arguments:**

        - `attention`: What share of each input each slot has won.
        - `values`: What each input has to say.

        **Returns:**

        One update for each slot.
        """
        weights = attention + self.eps
        total = reduce(weights, "slots inputs -> slots 1", "sum")
        return einsum(
            weights / total, values, "slots inputs, inputs size -> slots size"
        )
