import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import check_positive


class GaussianSlots(eqx.Module):
    r"""Slots begin as draws from one Gaussian that all of them share.

    $$s_k = \mu + \exp(\log\sigma) \odot \epsilon_k, \qquad
    \epsilon_k \sim \mathcal{N}(0, I)$$

    All slots are alike until the noise tells them apart, so any number of them can
    be drawn. Mean and log-scale start glorot-uniform, within
    $\pm\sqrt{6 / (1 + \text{slot\_size})}$, as in the paper's official code.
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

        `num_slots` different slots. A `ValueError` says so if `key` is missing.
        """
        check_positive(num_slots=num_slots)
        if key is None:
            raise ValueError(
                "`GaussianSlots` draws the initial slots at random and got no key:"
                " pass `key=jax.random.key(0)` (a fresh one for each call), or give"
                " the initial slots yourself by `slots=...`."
            )
        noise = jr.normal(key, (num_slots, self.slot_size), self.mean.dtype)
        return self.mean[None] + jnp.exp(self.log_scale)[None] * noise


class LearnedSlots(eqx.Module):
    """Each slot begins at a learned place of its own; nothing is drawn.

    Slots can then specialise, one in the background for instance, and results need
    no key; but their number is fixed (Jia et al. 2023 and SAVi's `ParamStateInit`).
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
        check_positive(num_slots=num_slots)
        if num_slots > self.num_slots:
            raise ValueError(
                f"`LearnedSlots` has learned {self.num_slots} slots and cannot give"
                f" num_slots={num_slots}; ask for at most {self.num_slots}, or use"
                " `GaussianSlots`, which draws any number."
            )
        return self.slots[:num_slots]
