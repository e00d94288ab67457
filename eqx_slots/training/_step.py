from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree


class TrainState(NamedTuple):
    """All that a run needs to go on.

    `ema` is the moving average of the model, or `None`. `skipped` counts the steps in
    a row, up to the last, that were left out because loss or gradient was not finite.
    """

    model: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    step: Int[Array, ""]
    ema: PyTree | None
    skipped: Int[Array, ""]

    @classmethod
    def create(
        cls,
        model: PyTree,
        optim: optax.GradientTransformation,
        *,
        use_ema: bool = False,
        key: PRNGKeyArray,
    ) -> "TrainState":
        """The state before the first step.

        **Arguments:**

        - `model`: Any Equinox model; it is copied, because a step overwrites the
            memory of the state that it is given.
        - `optim`: The optimiser that the steps will use.
        - `use_ema`: Whether to keep a moving average. (Keyword only argument.)
        - `key`: Randomness of the whole run; step `t` uses `fold_in(key, t)`. (Keyword
            only argument.)
        """
        return cls(
            model=_copy(model),
            # Some optimisers keep the very arrays of the model in their state.
            opt_state=_copy(optim.init(eqx.filter(model, eqx.is_inexact_array))),
            key=_copy(key),
            step=jnp.zeros((), jnp.int32),
            ema=_copy(model) if use_ema else None,
            skipped=jnp.zeros((), jnp.int32),
        )


class StepInfo(NamedTuple):
    """What one step reports: its loss, whatever else the loss function returned, the
    norm of the gradient, and whether the step was skipped."""

    loss: Float[Array, ""]
    aux: PyTree
    grad_norm: Float[Array, ""]
    skipped: Array


def make_step(
    loss: Callable[[Any, Any, PRNGKeyArray], tuple[Array, Any]],
    optim: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
) -> Callable[[Any, TrainState], tuple[TrainState, StepInfo]]:
    """A compiled training step for any model.

    **Arguments:**

    - `loss`: Called as `loss(model, batch, key)`, returns the number to be made small
        and anything else that is worth reporting.
    - `optim`: Any optax optimiser, the one that `TrainState.create` was given.
    - `ema_decay`: Of the moving average, where the state keeps one; early on it is
        `(1 + t) / (10 + t)` where that is less. (Keyword only argument.)

    **Returns:**

    `step(batch, state) -> (state, info)`. The old state's memory is reused: do not
    touch it again. A step whose loss or gradient is not finite changes nothing but the
    step number and the count of skipped steps.
    """

    def step(batch: Any, state: TrainState) -> tuple[TrainState, StepInfo]:
        key = jr.fold_in(state.key, state.step)
        grad_fn = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, aux), grads = grad_fn(state.model, batch, key)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

        params = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt_state = optim.update(grads, state.opt_state, params)
        model = _where(finite, eqx.apply_updates(state.model, updates), state.model)
        ema = state.ema
        if ema is not None:
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
            ema = _average(ema, model, jnp.where(finite, decay, 1.0))
        new_state = TrainState(
            model=model,
            opt_state=_where(finite, opt_state, state.opt_state),
            key=state.key,
            step=state.step + 1,
            ema=ema,
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
        return new_state, StepInfo(value, aux, grad_norm, ~finite)

    return eqx.filter_jit(step, donate="all-except-first")


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.array(x) if eqx.is_array(x) else x, tree)


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(
        lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, new, old
    )


def _average(old: PyTree, new: PyTree, decay: Array) -> PyTree:
    return jax.tree.map(
        lambda a, b: (
            (decay * a + (1 - decay) * b).astype(a.dtype)
            if eqx.is_inexact_array(a)
            else b
        ),
        old,
        new,
    )
