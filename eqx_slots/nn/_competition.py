from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._misc import check_positive


class Softmax(eqx.Module):
    r"""Slots compete for each input: a softmax over the *slots*.

    $$A_{kn} = \frac{\exp(L_{kn} / \tau)}{\sum_j \exp(L_{jn} / \tau)}$$

    This one choice of axis is what sets Slot Attention apart from ordinary
    cross-attention, whose softmax runs over the inputs. The default, and the one to
    start with (Locatello et al. 2020, equation 1).

    **Arguments:**

    - `temperature`: How soft the competition is: towards 0 the winner takes all,
        towards infinity all take the same; 1 by default. Not positive is a
        `ValueError`. A number stays as it is, a JAX array is learned.
    - `over_heads`: With several heads, whether all slots of all heads compete for an
        input together (SLATE, Singh et al. 2022), rather than, by default, the slots of
        each head among themselves (SAVi, Kipf et al. 2022).

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    competition = nn.Softmax(temperature=0.5)
    attention = competition(jr.normal(jr.key(0), (7, 256)))
    print(jnp.allclose(attention.sum(axis=0), 1))  # True
    layer = nn.SlotAttention(
        32, 64, num_slots=7, competition=competition, key=jr.key(1)
    )
    ```
    """

    temperature: float | Float[Array, ""] = 1.0
    over_heads: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(
        self,
        logits: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """**Arguments:**

        - `logits`: Similarity of each slot to each input, already scaled.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)
        - `key`: Not used. (Keyword only argument.)

        **Returns:**

        The attention: non-negative, 0 where masked, and for each input its sum over
        slots (and heads, if they compete together) is 1.
        """
        del key
        logits = _divided(logits, self.temperature)
        return _softmax(logits, mask, over_heads=self.over_heads)


class GumbelSoftmax(eqx.Module):
    r"""A softmax over slots of noisy logits: competition that explores.

    $$A_{kn} = \mathrm{softmax}_k((L_{kn} + G_{kn}) / \tau), \qquad
    G_{kn} \sim \mathrm{Gumbel}(0, 1)$$

    The slot with the largest noisy logit is an exact sample of the softmax of the
    logits, and towards temperature 0 it takes all (Jang et al. 2017; Maddison et al.
    2017). To use where inputs should belong to one slot entirely, or slots lock in too
    early. `equinox.nn.inference_mode(layer)` turns the noise off.

    **Arguments:**

    - `temperature`: How soft a sample is, 1 by default. Not positive is a `ValueError`.
        A number stays as it is, a JAX array is learned.
    - `over_heads`: As for [`eqx_slots.nn.Softmax`][].
    - `inference`: Whether to leave the noise out; not by default.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    competition = nn.GumbelSoftmax(temperature=0.5)
    attention = competition(jnp.zeros((7, 256)), key=jr.key(0))
    certain = eqx.nn.inference_mode(competition)(jnp.zeros((7, 256)))
    print(attention.shape, jnp.allclose(certain, 1 / 7))  # (7, 256) True
    ```
    """

    temperature: float | Float[Array, ""] = 1.0
    over_heads: bool = eqx.field(static=True, default=False)
    inference: bool = False

    def __check_init__(self) -> None:
        _check_temperature(self.temperature)

    @property
    def needs_key(self) -> bool:
        """Whether a call draws at random."""
        return not self.inference

    def __call__(
        self,
        logits: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """**Arguments:**

        - `logits`: Similarity of each slot to each input, already scaled.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)
        - `key`: Randomness of the noise; needed unless `inference`. What a slot and an
            input get does not depend on how many others there are. (Keyword only
            argument.)

        **Returns:**

        The attention, with the sums of [`eqx_slots.nn.Softmax`][]. A `ValueError` says
        so if `key` is missing.
        """
        if self.needs_key:
            if key is None:
                raise ValueError(
                    "`GumbelSoftmax` draws noise and got no key: pass"
                    " `key=jax.random.key(0)` (a fresh one for each call), or leave the"
                    " noise out by `equinox.nn.inference_mode(layer)`."
                )
            logits = logits + _gumbel(key, logits)
        logits = _divided(logits, self.temperature)
        return _softmax(logits, mask, over_heads=self.over_heads)


class Sinkhorn(eqx.Module):
    r"""Slots compete for inputs, and inputs for slots: every slot gets its share.

    The logits become a transport plan: slots and inputs are normalised in turn until
    each input is given away once and each slot has won its share of all inputs (Cuturi
    2013; for slots Zhang et al. 2023, whose further entropy steps are not included).
    To use where slots go unused, or where it is known how large objects are; with an
    unneeded slot the equal shares split an object.

    **Arguments:**

    - `num_iters`: How often both sides are normalised, 5 by default. The inputs come
        last, so they are exact; the slots' shares are approached.
    - `temperature`: How soft the plan is, 1 by default. Not positive is a `ValueError`.
    - `slot_marginals`: What each slot is to win, in any unit; `None`, the default,
        means that all get the same. Numbers stay as they are, a JAX array is learned.
        Their number fixes that of the slots. Not positive is a `ValueError`.

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    competition = nn.Sinkhorn(num_iters=20, slot_marginals=(2.0, 1.0, 1.0))
    attention = competition(jr.normal(jr.key(0), (3, 256)))
    print(attention.sum(axis=1).round())  # [128.  64.  64.]
    ```
    """

    num_iters: int = eqx.field(static=True, default=5)
    temperature: float | Float[Array, ""] = 1.0
    slot_marginals: Sequence[float] | Float[Array, " slots"] | None = None

    def __check_init__(self) -> None:
        check_positive(num_iters=self.num_iters)
        _check_temperature(self.temperature)
        if self.slot_marginals is not None and not _is_positive(self.slot_marginals):
            raise ValueError(
                f"`slot_marginals` must be positive, got {self.slot_marginals}; a slot"
                " that is to get nothing is left out by `slot_mask`."
            )

    def __call__(
        self,
        logits: Float[Array, "*heads slots inputs"],
        *,
        mask: Bool[Array, "slots inputs"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*heads slots inputs"]:
        """**Arguments:**

        - `logits`: Similarity of each slot to each input, already scaled.
        - `mask`: Which slot may take of which input; `None` means all of all. (Keyword
            only argument.)
        - `key`: Not used. (Keyword only argument.)

        **Returns:**

        The attention: non-negative, 0 where masked, its sum over slots 1 for each
        input, and its sum over inputs close to the share of the slot. A `ValueError`
        says so if there are not as many slots as `slot_marginals`.
        """
        del key
        shape = logits.shape
        allowed = jnp.ones(shape[-2:], bool) if mask is None else mask
        log_shares = self._log_shares(shape[-2], logits.dtype)
        log_shares = jnp.broadcast_to(rearrange(log_shares, "k -> k 1"), shape)
        allowed = jnp.broadcast_to(allowed, shape)

        def only_allowed(log_plan: Array) -> Array:
            return jnp.where(allowed, log_plan, _lowest(logits))

        def log_sum(log_plan: Array, axis: int) -> Array:
            total = jax.nn.logsumexp(log_plan, axis=axis, keepdims=True)
            return jnp.broadcast_to(total, shape)

        def once(log_plan: Array, _: None) -> tuple[Array, None]:
            log_plan = only_allowed(log_plan - log_sum(log_plan, -1) + log_shares)
            return only_allowed(log_plan - log_sum(log_plan, -2)), None

        start = only_allowed(_divided(logits, self.temperature))
        log_plan, _ = jax.lax.scan(once, start, length=self.num_iters)
        return jnp.where(allowed, jnp.exp(log_plan), 0)

    def _log_shares(self, slots: int, dtype: jnp.dtype) -> Array:
        """Up to a number common to all slots: normalising the inputs cancels that."""
        if self.slot_marginals is None:
            return jnp.zeros(slots, dtype)
        shares = jnp.asarray(self.slot_marginals, dtype)
        if shares.ndim != 1:
            raise ValueError(
                "`slot_marginals` must be a number for each slot, got"
                f" {self.slot_marginals}; `None` gives the same to all."
            )
        if shares.shape != (slots,):
            raise ValueError(
                f"`slot_marginals` are for {shares.shape[0]} slots, but {slots}"
                " compete; give one for each."
            )
        return jnp.log(shares)


def _softmax(logits: Array, mask: Array | None, *, over_heads: bool) -> Array:
    axis = (-3, -2) if over_heads and logits.ndim == 3 else -2
    if mask is None:
        return jax.nn.softmax(logits, axis=axis)
    allowed = jnp.broadcast_to(mask, logits.shape)
    logits = jnp.where(allowed, logits, _lowest(logits))
    # An input that no slot may take has a softmax too: only then is it put to zero.
    return jnp.where(allowed, jax.nn.softmax(logits, axis=axis), 0)


def _lowest(logits: Array) -> float:
    """Zero in any softmax, yet finite: infinities would leave NaN in gradients."""
    return float(jnp.finfo(logits.dtype).min) / 2


def _divided(logits: Array, temperature: float | Array) -> Array:
    # The default is known while tracing: it costs nothing.
    if isinstance(temperature, float) and temperature == 1:
        return logits
    return logits / jnp.asarray(temperature, logits.dtype)


def _gumbel(key: PRNGKeyArray, logits: Array) -> Array:
    """Row by row, each from its number: the same for a slot whoever else competes."""
    *heads, slots, inputs = logits.shape
    heads = heads[0] if heads else 1
    keys = jax.vmap(lambda row: jr.fold_in(key, row))(jnp.arange(slots * heads))
    noise = jax.vmap(lambda key: jr.gumbel(key, (inputs,), logits.dtype))(keys)
    noise = rearrange(noise, "(slots heads) n -> heads slots n", heads=heads)
    return noise if logits.ndim == 3 else noise[0]


def _check_temperature(temperature: float | Array) -> None:
    if not _is_positive(temperature):
        raise ValueError(f"`temperature` must be positive, got {temperature}.")


def _is_positive(values: Any) -> bool:
    """Whether all are, as far as can be told: what JAX is tracing has no value yet."""
    values = [x for x in jax.tree.leaves(values) if not isinstance(x, Tracer)]
    return all(np.all(np.asarray(x) > 0) for x in values)
