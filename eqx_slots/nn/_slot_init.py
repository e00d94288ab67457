import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import check_key, check_positive


class GaussianSlots(eqx.Module):
    r"""Slots begin as draws from one Gaussian that all of them share.

    $$s_k = \mu + \exp(\log\sigma) \odot \epsilon_k, \qquad
    \epsilon_k \sim \mathcal{N}(0, I)$$

    All slots are alike until the noise tells them apart, so any number of them can
    be drawn. Mean and log-scale start glorot-uniform, within
    $\pm\sqrt{6 / (1 + \text{slot\_size})}$, as in the paper's official code.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import nn

    slot_init = nn.GaussianSlots(64, key=jr.key(0))
    few, many = slot_init(3, key=jr.key(1)), slot_init(9, key=jr.key(1))
    print(many.shape, jnp.array_equal(few, many[:3]))  # (9, 64) True
    ```
    """

    mean: Float[Array, " slot_size"]
    log_scale: Float[Array, " slot_size"]
    slot_size: int = eqx.field(static=True)

    def __init__(
        self, slot_size: int, *, dtype: DTypeLike | None = None, key: PRNGKeyArray
    ):
        """**Arguments:**

        - `slot_size`: Width of each slot.
        - `dtype`: Of the parameters; `None` is JAX's default. (Keyword only argument.)
        - `key`: Randomness for initialisation. (Keyword only argument.)
        """
        check_key(key)
        check_positive(slot_size=slot_size)
        mean_key, scale_key = jr.split(key)
        limit = (6 / (1 + slot_size)) ** 0.5
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.mean = jr.uniform(mean_key, (slot_size,), dtype, -limit, limit)
        self.log_scale = jr.uniform(scale_key, (slot_size,), dtype, -limit, limit)
        self.slot_size = slot_size

    def __call__(
        self, num_slots: int, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{num_slots} {self.slot_size}"]:
        """**Arguments:**

        - `num_slots`: How many slots to draw.
        - `key`: Randomness of the draw; needed. (Keyword only argument.)

        **Returns:**

        `num_slots` different slots, the first of which do not depend on how many are
        drawn. A `ValueError` says so if `key` is missing.
        """
        check_positive(num_slots=num_slots)
        key = _needed("GaussianSlots", key)
        noise = jr.normal(key, (num_slots, self.slot_size), self.mean.dtype)
        return self.mean[None] + jnp.exp(self.log_scale)[None] * noise


class LearnedSlots(eqx.Module):
    """Each slot begins at a learned place of its own; nothing is drawn.

    Slots can then specialise, one in the background for instance, and results need
    no key; but their number is fixed (Jia et al. 2023 and SAVi's `ParamStateInit`).

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    slot_init = nn.LearnedSlots(7, 64, key=jr.key(0))
    layer = nn.SlotAttention(32, 64, slot_init=slot_init, key=jr.key(1))
    slots, attention = layer(jr.normal(jr.key(2), (256, 32)))  # without a key
    print(slots.shape, attention.shape)  # (7, 64) (7, 256)
    ```
    """

    slots: Float[Array, "num_slots slot_size"]
    num_slots: int = eqx.field(static=True)
    slot_size: int = eqx.field(static=True)

    def __init__(
        self,
        num_slots: int,
        slot_size: int,
        *,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `num_slots`: How many slots there are.
        - `slot_size`: Width of each slot.
        - `dtype`: Of the parameters; `None` is JAX's default. (Keyword only argument.)
        - `key`: Randomness for initialisation, standard normal. (Keyword only
            argument.)
        """
        check_key(key)
        check_positive(num_slots=num_slots, slot_size=slot_size)
        self.slots = jr.normal(key, (num_slots, slot_size), dtype)
        self.num_slots = num_slots
        self.slot_size = slot_size

    def __call__(
        self, num_slots: int, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{num_slots} {self.slot_size}"]:
        """**Arguments:**

        - `num_slots`: How many slots to give: the first so many of the learned ones.
        - `key`: Not used. (Keyword only argument.)

        **Returns:**

        The learned slots. More than there are is a `ValueError`.
        """
        del key
        _check_learned("LearnedSlots", num_slots, self.num_slots)
        return self.slots[:num_slots]


class LearnedGaussianSlots(eqx.Module):
    r"""Each slot is drawn from a learned Gaussian of its own.

    $$s_k = \mu_k + \exp(\log\sigma_k) \odot \epsilon_k, \qquad
    \epsilon_k \sim \mathcal{N}(0, I)$$

    Between the other two: slots can specialise as [`eqx_slots.nn.LearnedSlots`][], and
    the noise keeps them from relying on one exact beginning (the slot-wise learned
    conditioning of AdaSlot, Fan et al. 2024; noise around learned queries in BO-QSA,
    Jia et al. 2023). In a video without hints the noise is what makes slots take one
    object each (StoSAVi, Wu et al. 2023, with a scale of 0.1 that
    [`eqx_slots.losses.noise_divergence`][] keeps from vanishing). Without noise they
    are after `equinox.nn.inference_mode(layer)`, or by `slots=layer.slot_init.mean`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import nn

    slot_init = nn.LearnedGaussianSlots(7, 64, key=jr.key(0))
    layer = nn.SlotAttention(32, 64, slot_init=slot_init, key=jr.key(1))
    features = jr.normal(jr.key(2), (256, 32))
    drawn = layer(features, key=jr.key(3))
    certain = eqx.nn.inference_mode(layer)(features)
    print(drawn.slots.shape, certain.slots.shape)  # (7, 64) (7, 64)
    ```
    """

    mean: Float[Array, "num_slots slot_size"]
    log_scale: Float[Array, "num_slots slot_size"]
    num_slots: int = eqx.field(static=True)
    slot_size: int = eqx.field(static=True)
    inference: bool

    def __init__(
        self,
        num_slots: int,
        slot_size: int,
        *,
        scale: float = 0.1,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `num_slots`: How many slots there are.
        - `slot_size`: Width of each slot.
        - `scale`: Standard deviation that every slot starts with. Not positive is a
            `ValueError`. (Keyword only argument, as all that follow.)
        - `inference`: Whether to leave the noise out;
            `equinox.nn.inference_mode(model)` sets it.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation of the means, standard normal.
        """
        check_key(key)
        check_positive(num_slots=num_slots, slot_size=slot_size)
        if not scale > 0:
            raise ValueError(
                f"`scale` must be positive, got {scale}; slots without noise are"
                " `LearnedSlots`."
            )
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.mean = jr.normal(key, (num_slots, slot_size), dtype)
        self.log_scale = jnp.full((num_slots, slot_size), math.log(scale), dtype)
        self.num_slots = num_slots
        self.slot_size = slot_size
        self.inference = inference

    def __call__(
        self, num_slots: int, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{num_slots} {self.slot_size}"]:
        """**Arguments:**

        - `num_slots`: How many slots to draw: the first so many of the learned ones.
        - `key`: Randomness of the draw; needed unless `inference`. (Keyword only
            argument.)

        **Returns:**

        The drawn slots, or with `inference` their means. More than there are, or a
        missing `key`, is a `ValueError`.
        """
        _check_learned("LearnedGaussianSlots", num_slots, self.num_slots)
        if self.inference:
            return self.mean[:num_slots]
        key = _needed("LearnedGaussianSlots", key)
        noise = jr.normal(key, (num_slots, self.slot_size), self.mean.dtype)
        return self.mean[:num_slots] + jnp.exp(self.log_scale[:num_slots]) * noise


class GivenSlots(eqx.Module):
    """Slots come from outside at every call, by `slots=`; none are drawn.

    For slots that are carried over from frame to frame, or made by a network of one's
    own from boxes, text or another layer (SAVi, Kipf et al. 2022).

    **Example:**

    ```python
    import jax.random as jr
    from eqx_slots import nn

    options = {"num_iters": 1, "slot_init": nn.GivenSlots()}
    layer = nn.SlotAttention(32, 64, **options, key=jr.key(0))
    slots = jr.normal(jr.key(1), (7, 64))
    for frame in jr.normal(jr.key(2), (3, 256, 32)):
        slots, attention = layer(frame, slots=slots)
    print(slots.shape)  # (7, 64)
    ```
    """

    def __call__(
        self, num_slots: int, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "{num_slots} slot_size"]:
        """**Arguments:**

        - `num_slots`, `key`: As for the other initialisers.

        **Returns:**

        Nothing: that slots are missing is always a `ValueError`.
        """
        raise ValueError(
            "`GivenSlots` draws no slots: pass `slots=...`, an array of shape"
            " (num_slots, slot_size)."
        )


def _needed(name: str, key: PRNGKeyArray | None) -> PRNGKeyArray:
    if key is None:
        raise ValueError(
            f"`{name}` draws the initial slots at random and got no key: pass"
            " `key=jax.random.key(0)` (a fresh one for each call; under `jax.vmap` one"
            " for each example, `key=jax.random.split(key, n)`), or give the initial"
            " slots yourself by `slots=...`."
        )
    check_key(key)
    return key


def _check_learned(name: str, num_slots: int, learned: int) -> None:
    check_positive(num_slots=num_slots)
    if num_slots > learned:
        raise ValueError(
            f"`{name}` has learned {learned} slots and cannot give"
            f" num_slots={num_slots}; ask for at most {learned}, or use"
            " `GaussianSlots`, which draws any number."
        )
