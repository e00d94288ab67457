"""Losses: one example in, one number out; `jax.vmap` and `jnp.mean` make a batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import einsum
from jaxtyping import Array, Bool, Float, Int

from ._matching import match
from ._misc import (
    accumulator_dtype,
    as_array,
    check_floating,
    check_mask,
    check_shape,
)
from .properties import Categorical, Continuous, Properties


def mean_squared_error(
    predicted: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """The autoencoder's loss: squared error, averaged over channels and pixels.

    **Arguments:**

    - `predicted`: The reconstructed image.
    - `target`: The image, of the same shape; another shape, or integers, are a
        `ValueError`.

    **Returns:**

    A non-negative number.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    image = jnp.zeros((3, 32, 32))
    print(losses.mean_squared_error(image + 0.5, image))  # 0.25
    ```
    """
    predicted, target = as_array("predicted", predicted), as_array("target", target)
    check_floating("predicted", predicted)
    check_floating("target", target)
    if predicted.shape != target.shape:
        raise ValueError(
            "`predicted` and `target` must have the same shape, got"
            f" {predicted.shape} and {target.shape}; a decoder paints images of one"
            " size, `model.decoder.image_size`, so bring the targets to that."
        )
    return jnp.mean(jnp.square(predicted - target))


def expected_num_slots(
    probability: Float[Array, " slots"],
) -> Float[Array, ""]:
    """How many slots [`eqx_slots.nn.KeepSlots`][] keeps, on average over its draws.

    Times a weight it is the price of a slot: one is kept as long as it saves more
    reconstruction error than it costs (AdaSlot, Fan et al. 2024).

    **Arguments:**

    - `probability`: That each slot is kept, in [0, 1].

    **Returns:**

    A number from 0 to the number of slots.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    probability = jnp.array([1.0, 0.5, 0.25])
    print(losses.expected_num_slots(probability))  # 1.75
    ```
    """
    check_shape("probability", probability, "slots", (-1,), batch=_MAPPED)
    return jnp.sum(probability)


def orthogonality(
    slots: Float[Array, "slots slot_size"],
    *,
    slot_mask: Bool[Array, " slots"] | None = None,
) -> Float[Array, ""]:
    """How alike the slots are: the mean squared cosine of all pairs of them.

    Added to another loss it drives slots apart, where several hold the same object.
    Cosines make it blind to the size of slots (lucidrains' `OrthoSlotWrapper` centres
    the slots and squares their inner products instead).

    **Arguments:**

    - `slots`: The slots of one example.
    - `slot_mask`: Slots that take part; `None` means all. (Keyword only argument.)

    **Returns:**

    A number from 0 (all at right angles) to 1 (all in line); 0 for fewer than two.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    print(losses.orthogonality(jnp.eye(7, 64)))  # 0.0
    print(losses.orthogonality(jnp.ones((7, 64))))  # 1.0
    ```
    """
    check_shape("slots", slots, "slots slot_size", (-1, -1), batch=_MAPPED)
    exists = jnp.ones(slots.shape[0], bool) if slot_mask is None else slot_mask
    check_mask("slot_mask", exists, "slots", slots.shape[:1])
    # A slot of zeros has no direction: it is at right angles to all, and so is its
    # gradient, which a plain norm would make NaN.
    squared = jnp.sum(jnp.square(slots), axis=1)
    pointing = exists & (squared > 0)
    size = jnp.sqrt(jnp.where(pointing, squared, 1))
    unit = jnp.where(pointing[:, None], slots / size[:, None], 0)
    cosine = einsum(unit, unit, "i d, j d -> i j")
    other = ~jnp.eye(slots.shape[0], dtype=bool) & exists[:, None] & exists[None, :]
    number = jnp.sum(other, dtype=slots.dtype)
    return jnp.sum(jnp.where(other, cosine**2, 0)) / jnp.maximum(number, 1)


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
    check_shape("predicted", predicted, "size", (-1,), batch=_MAPPED_COST)
    check_shape("target", target, "size", predicted.shape, batch=_MAPPED_COST)
    return jnp.mean(optax.losses.huber_loss(predicted, target))


def element_cost(
    predicted: Float[Array, " size"],
    target: Float[Array, " size"],
    *,
    properties: Properties,
    continuous_weight: float = 10.0,
) -> Float[Array, ""]:
    """The cost of a pair that suits what its numbers mean; sharper than `huber`.

    The log-loss of presence, and where the target is present also that of the labels,
    averaged over each group, and the weighted absolute error of the continuous numbers,
    averaged over all of them. What an absent object looks like costs nothing.

    **Arguments:**

    - `predicted`, `target`: One element each, in [0, 1].
    - `properties`: What they are made of. (Keyword only argument.)
    - `continuous_weight`: Of the absolute error. (Keyword only argument.)

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
    check_shape("predicted", predicted, "size", sizes, batch=_MAPPED_COST)
    check_shape("target", target, "size", sizes, batch=_MAPPED_COST)

    def log_loss(name: str) -> Float[Array, ""]:
        p, t = properties.take(predicted, name), properties.take(target, name)
        tiny = 1e-4  # so that a sure mistake costs 9, not infinity
        log = t * jnp.log(p + tiny) + (1 - t) * jnp.log(1 - p + tiny)
        return -jnp.mean(log)

    looks = sum(
        (log_loss(g.name) for g in properties.select(Categorical)),
        jnp.array(0.0, predicted.dtype),
    )
    apart = [
        jnp.abs(properties.take(predicted, g.name) - properties.take(target, g.name))
        for g in properties.select(Continuous)
    ]
    if apart:
        looks += continuous_weight * jnp.mean(jnp.concatenate(apart))
    name = properties.presence.name
    return log_loss(name) + properties.take(target, name)[0] * looks


class MatchedSetLoss(NamedTuple):
    """What [`eqx_slots.losses.matched_set_loss`][] makes of one example.

    **Fields:**

    - `loss`: The sum over the pairs, a number.
    - `order`: Which prediction each target was matched with, -1 for none, `targets`.
    - `valid`: Whether all costs were finite; without it neither means anything.

    **Example:**

    ```python
    import jax
    import jax.numpy as jnp
    from eqx_slots import losses

    predicted, target = jnp.zeros((8, 7, 11)), jnp.ones((8, 4, 11))
    made = jax.jit(jax.vmap(losses.matched_set_loss))(predicted, target)
    print(made.order.shape, jnp.mean(made.loss))  # (8, 4) 2.0
    ```
    """

    loss: Float[Array, ""]
    order: Int[Array, " targets"]
    valid: Bool[Array, ""]


def matched_set_loss(
    predicted: Float[Array, "predictions size"],
    target: Float[Array, "targets size"],
    *,
    cost: Callable[[Array, Array], Float[Array, ""]] = huber,
    prediction_mask: Bool[Array, " predictions"] | None = None,
    target_mask: Bool[Array, " targets"] | None = None,
) -> MatchedSetLoss:
    r"""How far a set of predictions is from a set of targets, whatever their order.

    $$\min_\pi \sum_i c\big(\hat y_{\pi(i)}, y_i\big)$$

    over all ways $\pi$ to give each target a prediction of its own (Locatello et al.
    2020, section 2.2, there with as many targets as predictions). The best one is found
    by the Hungarian algorithm, on the device; the gradient is that of the pairs chosen.

    Where there are fewer targets than predictions, those left over cost nothing. So
    that they learn to say "no object", add targets which say so, up to their number:
    [`eqx_slots.properties.Properties.pad`][]. Of more targets than predictions the
    dearest are left out; to leave out absent ones instead, mask them.

    **Arguments:**

    - `predicted`: The predicted elements of one example.
    - `target`: The true elements, as many or another number.
    - `cost`: The cost of one pair, called as `cost(predicted, target)` on two elements.
        (Keyword only argument, as all that follow.)
    - `prediction_mask`, `target_mask`: Which elements take part; `None` means all. What
        a masked element holds does not matter, not even NaN.

    **Returns:**

    The sum over as many pairs as there can be; 0 for none. If a cost of elements that
    take part is not finite no matching means anything: the loss is NaN and `valid`
    False. Shapes and masks that do not fit are a `ValueError`.

    **Example:**

    ```python
    import jax
    import jax.numpy as jnp
    from eqx_slots import losses

    target = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    loss, order, valid = jax.jit(losses.matched_set_loss)(target[::-1], target)
    print(loss, order, valid)  # 0.0 [2 1 0] True
    ```
    """
    check_shape("predicted", predicted, "predictions size", (-1, -1), batch=_MAPPED_SET)
    if predicted.shape[0] == 0:
        raise ValueError("`predicted` holds no prediction, so nothing can be matched.")
    sizes = (-1, predicted.shape[1])
    check_shape("target", target, "targets size", sizes, batch=_MAPPED_SET)
    check_floating("predicted", predicted)
    check_floating("target", target)
    if prediction_mask is None:
        prediction_mask = jnp.ones(predicted.shape[0], bool)
    if target_mask is None:
        target_mask = jnp.ones(target.shape[0], bool)
    prediction_mask, target_mask = map(jnp.asarray, (prediction_mask, target_mask))
    check_mask("prediction_mask", prediction_mask, "predictions", predicted.shape[:1])
    check_mask("target_mask", target_mask, "targets", target.shape[:1])
    predicted = jnp.where(prediction_mask[:, None], predicted, 0)
    target = jnp.where(target_mask[:, None], target, 0)

    pairwise = jax.vmap(jax.vmap(cost, (0, None)), (None, 0))
    costs = pairwise(*jax.lax.stop_gradient((predicted, target)))  # a row each target
    if costs.ndim != 2:
        raise ValueError(
            f"`cost` must give one number for a pair, got shape {costs.shape[2:]}; sum"
            " or average it over the elements."
        )
    order, valid = match(costs, row_mask=target_mask, column_mask=prediction_mask)
    if target.shape[0] == 0:
        return MatchedSetLoss(jnp.zeros((), costs.dtype), order, valid)
    # The chosen pairs once more: a gradient through all of them would cost far more. A
    # target without a partner is replaced by one that has one, or if there is none by
    # ones: at the zeros that stand where a mask hides, a cost may have no gradient.
    matched = order >= 0
    row = jnp.where(matched, jnp.arange(target.shape[0]), jnp.argmax(matched))
    pairs = predicted[jnp.maximum(order[row], 0)], target[row]
    pairs = (jnp.where(jnp.any(matched), x, 1) for x in pairs)
    chosen = jax.vmap(cost)(*pairs)
    loss = jnp.sum(jnp.where(matched, chosen, 0), dtype=accumulator_dtype(costs.dtype))
    return MatchedSetLoss(jnp.where(valid, loss, jnp.nan), order, valid)


_MAPPED = "jax.vmap(loss)({name})"
_MAPPED_COST = "jax.vmap(cost)(predicted, target)"
_MAPPED_SET = "jax.vmap(matched_set_loss)(predicted, target)"
