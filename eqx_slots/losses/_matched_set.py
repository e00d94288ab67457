from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._matching import match
from .._misc import accumulator_dtype, check_floating, check_mask, check_shape
from ._pair_cost import huber


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
    check_shape("predicted", predicted, "predictions size", (-1, -1), batch=_MAPPED)
    if predicted.shape[0] == 0:
        raise ValueError("`predicted` holds no prediction, so nothing can be matched.")
    sizes = (-1, predicted.shape[1])
    check_shape("target", target, "targets size", sizes, batch=_MAPPED)
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


_MAPPED = "jax.vmap(matched_set_loss)(predicted, target)"
