import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._misc import check_shape
from ..properties import Categorical, Continuous, Properties


_MAPPED = "jax.vmap(cost)(predicted, target)"


def huber(
    predicted: Float[Array, " size"], target: Float[Array, " size"]
) -> Float[Array, ""]:
    """The cost of a pair in the paper's official code: Huber's loss, averaged.

    Half the square of each difference up to 1, linear beyond.

    **Arguments:**

    - `predicted`, `target`: One element each.

    **Returns:**

    A non-negative number.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    print(losses.huber(jnp.array([0.0, 0.0]), jnp.array([0.5, 2.0])))  # 0.8125
    ```
    """
    check_shape("predicted", predicted, "size", (-1,), batch=_MAPPED)
    check_shape("target", target, "size", predicted.shape, batch=_MAPPED)
    return jnp.mean(optax.losses.huber_loss(predicted, target))


def element_cost(
    predicted: Float[Array, " size"],
    target: Float[Array, " size"],
    *,
    properties: Properties,
    continuous_weight: float = 10.0,
    label_weight: float | None = None,
) -> Float[Array, ""]:
    """The cost of a pair that suits what its numbers mean; sharper than `huber`.

    The log-loss of presence, and where the target is present also that of the labels,
    and the weighted absolute error, averaged over all continuous numbers. What an
    absent object looks like costs nothing.

    **Arguments:**

    - `predicted`, `target`: One element each, in [0, 1].
    - `properties`: What they are made of. (Keyword only argument.)
    - `continuous_weight`: Of the absolute error. (Keyword only argument.)
    - `label_weight`: Of the log-loss of each label; `None` averages it over the labels
        of a group. Averaged, a colour out of eight counts for little beside the place,
        and where there is much else to see, slots are slow to part; 0.5 is the average
        for a group of two, and four times it for one of eight. (Keyword only argument.)

    **Returns:**

    A number, about 0 if both are the same and sure of their labels. Elements of another
    width are a `ValueError`.

    For [`eqx_slots.losses.matched_set_loss`][]:
    `cost=functools.partial(element_cost, properties=properties)`.

    **Example:**

    ```python
    from functools import partial

    import jax.numpy as jnp
    from eqx_slots import losses
    from eqx_slots.properties import BLOCKS

    values = {"centre": jnp.ones((4, 2)), "size": jnp.ones((4, 2))}
    target = BLOCKS.encode({**values, "colour": jnp.arange(4)})
    cost = partial(losses.element_cost, properties=BLOCKS)
    print(cost(target[0], target[0]) < cost(target[0], target[1]))  # True
    ```
    """
    sizes = (properties.size,)
    check_shape("predicted", predicted, "size", sizes, batch=_MAPPED)
    check_shape("target", target, "size", sizes, batch=_MAPPED)

    def log_loss(name: str) -> Float[Array, " labels"]:
        p, t = properties.take(predicted, name), properties.take(target, name)
        tiny = 1e-4  # so that a sure mistake costs 9, not infinity
        log = t * jnp.log(p + tiny) + (1 - t) * jnp.log(1 - p + tiny)
        return -log

    reduce = jnp.mean if label_weight is None else lambda x: label_weight * jnp.sum(x)
    looks = sum(
        (reduce(log_loss(g.name)) for g in properties.select(Categorical)),
        jnp.array(0.0, predicted.dtype),
    )
    apart = [
        jnp.abs(properties.take(predicted, g.name) - properties.take(target, g.name))
        for g in properties.select(Continuous)
    ]
    if apart:
        looks += continuous_weight * jnp.mean(jnp.concatenate(apart))
    name = properties.presence.name
    return log_loss(name)[0] + properties.take(target, name)[0] * looks
