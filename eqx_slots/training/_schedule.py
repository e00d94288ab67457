import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from .._misc import check_positive


def paper_schedule(
    peak: float = 4e-4, *, warmup_steps: int = 10_000, halving_steps: int = 100_000
) -> optax.Schedule:
    r"""The learning rate of the paper (Locatello et al. 2020): warm-up times halving.

    $$\eta(t) = \eta_\text{peak} \cdot \min(1, t / W) \cdot 2^{-t / H}$$

    The decay is at work during the warm-up too, so the largest rate, at $t = W$, is
    `peak * 2 ** (-W / H)`. `optax.warmup_exponential_decay_schedule` starts to decay
    only after the warm-up and is therefore another schedule.

    **Arguments:**

    - `peak`: The learning rate without warm-up and decay.
    - `warmup_steps`: $W$, steps of linear warm-up from 0. (Keyword only argument.)
    - `halving_steps`: $H$, steps in which the rate halves. (Keyword only argument.)

    **Returns:**

    A function from the step number to the learning rate, for any optax optimiser.

    **Example:**

    ```python
    from eqx_slots import training

    schedule = training.paper_schedule(1.0, warmup_steps=10, halving_steps=100)
    print(schedule(0), schedule(100), schedule(200))  # 0.0 0.5 0.25
    ```
    """
    check_positive(warmup_steps=warmup_steps, halving_steps=halving_steps)

    def schedule(count: ArrayLike) -> Array:
        warm = jnp.minimum(1.0, count / warmup_steps)
        return peak * warm * 0.5 ** (count / halving_steps)

    return schedule
