import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum, reduce
from jaxtyping import Array, Bool, DTypeLike, Float

from .._misc import accumulator_dtype, check_positive


class AbstractLinearReduction(eqx.Module):
    """A weighted sum of the values: one that has `weights`.

    To make one of your own, write that method. The layer relies on nothing else being
    done to the values: where it is cheaper, it averages the inputs instead and projects
    the averages.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    class PlainSum(nn.AbstractLinearReduction):
        def weights(self, attention, *, mask=None):
            return attention

    options = {"num_slots": 7, "reduction": PlainSum()}
    layer = nn.SlotAttention(32, 64, **options, key=jr.key(0))
    slots, _ = layer(jr.normal(jr.key(1), (256, 32)), key=jr.key(2))
    print(slots.shape)  # (7, 64)
    ```
    """

    @abc.abstractmethod
    def weights(
        self,
        attention: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """How much of each value goes into the update of each slot.

        **Arguments:**

        - `attention`: What share of each input each slot has won.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)

        **Returns:**

        The weights; 0 where masked.
        """

    def __call__(
        self,
        attention: Float[Array, "*heads slots inputs"],
        values: Float[Array, "*heads inputs value_size"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots value_size"]:
        """**Arguments:**

        - `attention`: What share of each input each slot has won.
        - `values`: What each input has to say.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)

        **Returns:**

        One update for each slot; 0 for a slot that may take nothing.
        """
        return _weighted_sum(self.weights(attention, mask=mask), values)


class WeightedMean(AbstractLinearReduction):
    r"""Each slot takes the weighted mean of the inputs that it won.

    $$W_{kn} = \frac{A_{kn} + \epsilon}{\sum_m (A_{km} + \epsilon)},
    \qquad u_k = \sum_n W_{kn} v_n$$

    The default, and the one to start with (Locatello et al. 2020, equation 2). The
    epsilon sits inside the weights, as in the paper's official code: a slot that won
    nothing at all gets the plain mean of the inputs instead of 0/0.

    **Arguments:**

    - `eps`: Keeps the division from 0/0; 1e-8 by default. Negative is a `ValueError`.
    - `eps_in`: `"weights"`, the default, adds it to every weight as above (Locatello et
        al. 2020);
        `"sum"` adds it once to the sum, $W_{kn} = A_{kn} / (\epsilon + \sum_m A_{km})$,
        so a slot that won nothing gets 0 (SAVi, Kipf et al. 2022, with 1e-8; BO-QSA,
        Jia et al. 2023, with 1).

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import nn

    attention = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # of two slots
    values = jnp.array([[1.5], [3.0], [6.0]])
    print(nn.WeightedMean()(attention, values).tolist())  # [[2.25], [6.0]]
    ```
    """

    eps: float = 1e-8
    eps_in: Literal["weights", "sum"] = eqx.field(static=True, default="weights")

    def __check_init__(self) -> None:
        _check_eps(self.eps)
        if self.eps_in not in ("weights", "sum"):
            raise ValueError(
                f'`eps_in` must be "weights" or "sum", got {self.eps_in!r}.'
            )

    def weights(
        self,
        attention: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """What a slot won over all that it won: rows sum to 1."""
        won = attention.astype(accumulator_dtype(attention.dtype))
        if self.eps_in == "weights":
            weights = won + self.eps
            if mask is not None:
                weights = jnp.where(jnp.broadcast_to(mask, weights.shape), weights, 0)
            total = reduce(weights, "... slots inputs -> ... slots 1", "sum")
        else:
            weights = won
            total = reduce(weights, "... slots inputs -> ... slots 1", "sum") + self.eps
        if mask is not None or self.eps == 0:
            total = jnp.where(total > 0, total, 1)
        return (weights / total).astype(attention.dtype)


class WeightedSum(AbstractLinearReduction):
    r"""Each slot takes the sum of what it won, as a share of all inputs.

    $$u_k = \frac{1}{N} \sum_n A_{kn} v_n$$

    Unlike a mean it tells a slot how much it won: one without an object stays quiet. To
    use where there are many more slots at test than in training (Krimmel et al. 2024,
    "weighted sum"). $N$ counts the inputs that are not masked.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import nn

    attention = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # of two slots
    values = jnp.array([[1.5], [3.0], [6.0]])
    print(nn.WeightedSum()(attention, values).tolist())  # [[1.5], [2.0]]
    ```
    """

    def weights(
        self,
        attention: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """What a slot won over the number of inputs: rows sum to its share."""
        if mask is None:
            return attention / attention.shape[-1]
        number = jnp.sum(reduce(mask, "k n -> n", "any"), dtype=attention.dtype)
        return attention / jnp.maximum(number, 1)


class ScaledMean(AbstractLinearReduction):
    r"""The weighted mean, smaller the more slots share the inputs.

    $$u_k = \frac{K_\text{train}}{K} \, \mathrm{WeightedMean}(A, v)_k$$

    With as many slots as in training it is the weighted mean; with more, each has
    less to say. For comparison where there are more slots at test (Krimmel et al. 2024,
    "scaled mean"); on our blocks it did harm. $K$ counts the slots that are not masked.

    **Arguments:**

    - `num_slots`: Slots in training.
    - `eps`: Added to every weight before they are divided by their sum; 1e-8 by
        default. Negative is a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import nn

    reduction = nn.ScaledMean(num_slots=7)
    attention = jnp.full((14, 256), 1 / 14)  # twice as many as in training
    updates = reduction(attention, jnp.ones((256, 64)))
    print(updates.shape, jnp.allclose(updates, 0.5))  # (14, 64) True
    ```
    """

    num_slots: int = eqx.field(static=True)
    eps: float = 1e-8

    def __check_init__(self) -> None:
        check_positive(num_slots=self.num_slots)
        _check_eps(self.eps)

    def weights(
        self,
        attention: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """The weights of the mean, less the more slots there are."""
        mean = WeightedMean(self.eps).weights(attention, mask=mask)
        if mask is None:
            return mean * (self.num_slots / attention.shape[-2])
        number = jnp.sum(reduce(mask, "k n -> k", "any"), dtype=attention.dtype)
        return mean * (self.num_slots / jnp.maximum(number, 1))


class LayerNormSum(eqx.Module):
    r"""Each slot takes the sum of what it won, brought to one size by a LayerNorm.

    $$u_k = \mathrm{LN}\Big(\sum_n A_{kn} v_n\Big)$$

    The size of an update then depends neither on the number of inputs nor on that of
    slots. To use where sets differ in size (SAVi's `norm_type="layernorm"`; Krimmel et
    al. 2024, "layer norm").

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    options = {"num_slots": 7, "reduction": nn.LayerNormSum(64)}
    layer = nn.SlotAttention(32, 64, **options, key=jr.key(0))
    slots, _ = layer(jr.normal(jr.key(1), (256, 32)), key=jr.key(2))
    print(slots.shape)  # (7, 64)
    ```
    """

    norm: eqx.nn.LayerNorm

    def __init__(
        self, value_size: int, *, eps: float = 1e-3, dtype: DTypeLike | None = None
    ):
        """**Arguments:**

        - `value_size`: Width of a value: `qkv_size / num_heads` of the layer.
        - `eps`: Added to the variance. (Keyword only argument.)
        - `dtype`: Of the parameters; `None` is JAX's default. (Keyword only argument.)
        """
        check_positive(value_size=value_size)
        self.norm = eqx.nn.LayerNorm(value_size, eps=eps, dtype=dtype)

    def __call__(
        self,
        attention: Float[Array, "*heads slots inputs"],
        values: Float[Array, "*heads inputs value_size"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
    ) -> Float[Array, "*heads slots value_size"]:
        """**Arguments:**

        - `attention`: What share of each input each slot has won.
        - `values`: What each input has to say.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)

        **Returns:**

        One update for each slot; 0 for a slot that may take nothing.
        """
        norm = jax.vmap(self.norm)
        for _ in attention.shape[:-2]:
            norm = jax.vmap(norm)
        updates = norm(_weighted_sum(attention, values))
        if mask is None:
            return updates
        takes_part = reduce(mask, "k n -> k 1", "any")
        return jnp.where(jnp.broadcast_to(takes_part, updates.shape), updates, 0)


def _weighted_sum(weights: Array, values: Array) -> Array:
    return einsum(
        weights, values, "... slots inputs, ... inputs size -> ... slots size"
    )


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"`eps` must not be negative, got {eps}.")
