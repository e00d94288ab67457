from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int, PRNGKeyArray

from .._misc import check_key
from ._devices import place, spread
from ._precision import compute_in


_UNJUDGED = 100  # gradients before any is called too large
_PATIENCE = 10  # steps skipped in a row before it is measured anew what is too large


class TrainState(NamedTuple):
    """All that a run needs to go on.

    **Fields:**

    - `model`: The model as it is now.
    - `opt_state`: What the optimiser remembers.
    - `key`: Randomness of the whole run, the same in every state of it.
    - `step`: How many steps were made, skipped ones included.
    - `ema`: The moving average of the model, or `None`.
    - `skipped`: How many steps in a row, up to the last, were left out.
    - `taken`: How many steps of the whole run were not.
    - `moved`: How many of those had a gradient that is not zero, since such norms were
        last measured anew.
    - `mean_grad_norm`: The mean norm of these gradients.
    - `usual_grad_norm`: The largest that this mean has been, from the 100th on.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import training

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-3)
    state = training.TrainState.create(model, optim, use_ema=True, key=jr.key(1))
    print(state.step, eqx.tree_equal(state.ema, model))  # 0 True
    ```
    """

    model: Any
    opt_state: Any
    key: PRNGKeyArray
    step: Int[Array, ""]
    ema: Any
    skipped: Int[Array, ""]
    taken: Int[Array, ""]
    moved: Int[Array, ""]
    mean_grad_norm: Float[Array, ""]
    usual_grad_norm: Float[Array, ""]

    @classmethod
    def create(
        cls,
        model: Any,
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
        check_key(key)
        return cls(
            model=_copy(model),
            # Some optimisers keep the very arrays of the model in their state.
            opt_state=_copy(optim.init(eqx.filter(model, eqx.is_inexact_array))),
            key=_copy(key),
            step=jnp.zeros((), jnp.int32),
            ema=_copy(model) if use_ema else None,
            skipped=jnp.zeros((), jnp.int32),
            taken=jnp.zeros((), jnp.int32),
            moved=jnp.zeros((), jnp.int32),
            mean_grad_norm=jnp.zeros((), jnp.float32),
            usual_grad_norm=jnp.zeros((), jnp.float32),
        )


class StepInfo(NamedTuple):
    """What one step reports.

    **Fields:**

    - `loss`: The loss before the step, a number.
    - `aux`: Whatever else the loss function returned.
    - `grad_norm`: The global norm of the gradient, a number.
    - `skipped`: Whether the step was left out.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import training

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-3)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(lambda model, x, key: (model(x).sum(), None), optim)
    state, info = step(jnp.full(3, jnp.nan), state)
    print(info.loss, info.skipped, state.skipped)  # nan True 1
    ```
    """

    loss: Float[Array, ""]
    aux: Any
    grad_norm: Float[Array, ""]
    skipped: Array


def make_step(
    loss: Callable[[Any, Any, PRNGKeyArray], tuple[Array, Any]],
    optim: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    max_grad_ratio: float = 100.0,
    mesh: Mesh | None = None,
    compute_dtype: DTypeLike | None = None,
) -> Callable[[Any, TrainState], tuple[TrainState, StepInfo]]:
    """A compiled training step for any model.

    **Arguments:**

    - `loss`: Called as `loss(model, batch, key)`, returns the number to be made small
        and anything else that is worth reporting.
    - `optim`: Any optax optimiser, the one that `TrainState.create` was given. Those
        that take the loss as `value=` are given it.
    - `ema_decay`: Of the moving average, where the state keeps one; early on it is
        `(1 + t) / (10 + t)` where that is less. (Keyword only argument, as all that
        follow.)
    - `max_grad_ratio`: A gradient explodes whose norm is larger than this many times
        the mean of all so far that are not zero, or what that mean once was. The first
        100 of a run are not judged. After ten in a row it is not the batch, for ten of
        them agree on one model: the next is taken, as the first of those that others
        are measured by. `math.inf` judges none.
    - `mesh`: Devices to train on, such as [`eqx_slots.training.data_mesh`][] gives. The
        leading axis of the batch is shared out over the first axis of the mesh, which
        has to divide it, and the state is on all of them. `None` leaves both where they
        are.
    - `compute_dtype`: What loss and gradient compute in, such as `jnp.bfloat16`: floats
        of model and batch are cast for the loss. Parameters, their gradients and the
        optimiser keep their dtype, and the loss is reported in float32. `None` casts
        nothing. There is no loss scaling, which float16 would need.

    **Returns:**

    `step(batch, state) -> (state, info)`. The old state's memory is reused: do not
    touch it again. A step whose loss, gradient or update is not finite, or whose
    gradient explodes, is skipped: it changes nothing but the step number and the count
    of skipped steps.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots import training

    def loss(model, batch, key):
        return jnp.mean(jax.vmap(model)(batch) ** 2), None

    model, optim = eqx.nn.Linear(3, 3, key=jr.key(0)), training.adam(1e-3)
    state = training.TrainState.create(model, optim, key=jr.key(1))
    step = training.make_step(loss, optim)
    state, info = step(jnp.ones((8, 3)), state)
    print(state.step, info.loss.shape, info.skipped)  # 1 () False
    ```
    """
    _check_ratio(max_grad_ratio)
    loss = loss if compute_dtype is None else compute_in(compute_dtype, loss)
    update = optax.with_extra_args_support(optim).update

    def step(batch: Any, state: TrainState) -> tuple[TrainState, StepInfo]:
        key = jr.fold_in(state.key, state.step)
        grad_fn = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, aux), grads = grad_fn(state.model, batch, key)
        grad_norm = optax.tree.norm(grads)
        params = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt_state = update(grads, state.opt_state, params, value=value)

        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        explodes = _explodes(grad_norm, state, max_grad_ratio)
        stays = explodes & (state.skipped >= _PATIENCE)
        good = finite & (stays | ~explodes)
        model = _where(good, eqx.apply_updates(state.model, updates), state.model)
        ema = state.ema
        if ema is not None:
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
            ema = _average(ema, model, jnp.where(good, decay, 1.0))
        moves = good & (grad_norm > 0)
        moved = jnp.where(good & stays, 0, state.moved) + moves.astype(jnp.int32)
        difference = grad_norm.astype(jnp.float32) - state.mean_grad_norm
        count = jnp.maximum(moved, 1).astype(jnp.float32)
        mean = state.mean_grad_norm + jnp.where(moves, difference / count, 0.0)
        usual = jnp.maximum(state.usual_grad_norm, mean)
        new_state = TrainState(
            model=model,
            opt_state=_where(good, opt_state, state.opt_state),
            key=state.key,
            step=state.step + 1,
            ema=ema,
            skipped=jnp.where(good, 0, state.skipped + 1),
            taken=state.taken + good.astype(jnp.int32),
            moved=moved,
            mean_grad_norm=mean,
            usual_grad_norm=jnp.where(moved >= _UNJUDGED, usual, 0.0),
        )
        return new_state, StepInfo(value, aux, grad_norm, ~good)

    return _compiled(step, mesh)


def _check_ratio(max_grad_ratio: float) -> None:
    if not max_grad_ratio > 1:
        raise ValueError(
            f"`max_grad_ratio` must be greater than 1, got {max_grad_ratio}; `math.inf`"
            " skips no step for the size of its gradient."
        )


def _explodes(norm: Array, state: TrainState, max_grad_ratio: float) -> Array:
    """Whether a gradient is out of all proportion.

    The mean is over the whole run, and never forgets how large it has been: gradients
    may shrink without bound, on an easy task or in a model that is stuck, and would
    then come back to their ordinary size as an explosion. Those that are exactly zero
    say nothing of the size of others. Early on gradients may grow by any factor, from
    layers that begin at zero for example.
    """
    limit = max_grad_ratio * state.usual_grad_norm
    return (limit > 0) & (norm.astype(jnp.float32) > limit)


def _compiled(
    step: Callable[[Any, TrainState], Any], mesh: Mesh | None
) -> Callable[..., Any]:
    if mesh is None:
        return eqx.filter_jit(step, donate="all-except-first")
    compiled = eqx.filter_jit(spread(step, mesh), donate="all-except-first")

    def call(batch: Any, state: TrainState) -> Any:
        leaves = jax.tree.leaves((batch, state))
        if not any(isinstance(leaf, Tracer) for leaf in leaves):
            batch, state = place(batch, state, mesh)
        return compiled(batch, state)

    return call


def _copy(tree: Any) -> Any:
    def copy(leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        copied = jnp.array(leaf)
        # Not of a weak type, as from `jnp.asarray(1.0)`: steps would make it a strong
        # one, which is to compile them twice.
        return jnp.asarray(copied, dtype=copied.dtype)

    return jax.tree.map(copy, tree)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(
        lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, new, old
    )


def _average(old: Any, new: Any, decay: Array) -> Any:
    return jax.tree.map(
        lambda a, b: (
            (decay * a + (1 - decay) * b).astype(a.dtype)
            if eqx.is_inexact_array(a)
            else b
        ),
        old,
        new,
    )
