import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers


def adam(
    learning_rate: optax.ScalarOrSchedule, *, max_norm: float | None = None
) -> optax.GradientTransformation:
    """Adam with the paper's settings, and clipping if asked for.

    **Arguments:**

    - `learning_rate`: A number or a schedule, such as
        [`eqx_slots.training.paper_schedule`][].
    - `max_norm`: Largest global norm of a gradient; `None` (as in the paper) does not
        clip. (Keyword only argument.)

    **Returns:**

    An optax optimiser.

    **Example:**

    ```python
    from eqx_slots import training

    optim = training.adam(training.paper_schedule(), max_norm=1.0)
    ```
    """
    return _clipped(optax.adam(learning_rate), max_norm)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    adam_learning_rate: optax.ScalarOrSchedule,
    max_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Muon for the weights of Equinox layers, Adam for everything else.

    Muon (Jordan et al. 2024) makes each step of a weight matrix orthogonal, so that
    all its directions learn alike; slots separate in a fraction of Adam's steps. A
    convolution's kernel is taken as the matrix from its patches to its outputs. Biases,
    norms and learned initial slots, which multiply nothing, are left to Adam.

    **Arguments:**

    - `learning_rate`: Of the matrices, a number or a schedule. Steps are scaled to a
        root mean square of 0.2, that of Adam's, whatever the shape of the matrix.
    - `adam_learning_rate`: Of everything else. (Keyword only argument.)
    - `max_norm`: Largest global norm of a gradient; `None` does not clip. (Keyword only
        argument.)

    **Returns:**

    An optax optimiser.

    **Example:**

    ```python
    from eqx_slots import training

    optim = training.muon(1e-3, adam_learning_rate=3e-4)
    ```
    """
    each = lambda stacks: jax.tree.map(lambda _: MuonDimensionNumbers(1, 2), stacks)
    orthogonal = optax.contrib.scale_by_muon(weight_dimension_numbers=each)
    matrices = optax.chain(
        _together(orthogonal, (_stacks, _unstacked)),
        optax.stateless_with_tree_map(_as_large_as_adams),
        optax.scale_by_learning_rate(learning_rate),
    )
    adam = optax.adam(adam_learning_rate, nesterov=True)
    others = _together(adam, (_vectors, _of_vectors))
    optim = optax.partition({"matrix": matrices, "other": others}, _kinds)
    return _clipped(optim, max_norm)


class ProgressState(NamedTuple):
    """Of [`eqx_slots.training.scale_by_progress`][].

    **Fields:**

    - `step`: Steps so far.
    - `first`: The loss of the first.
    - `average`: The moving average of the losses.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import training

    optim = training.scale_by_progress()
    steps, state = optim.update(jnp.ones(2), optim.init(None), value=jnp.array(4.0))
    print(isinstance(state, training.ProgressState), state.first)  # True 4.0
    ```
    """

    step: Int[Array, ""]
    first: Float[Array, ""]
    average: Float[Array, ""]


def scale_by_progress(
    *, until: float = 0.3, least: float = 1 / 3, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """A warm-up that waits for the loss to move.

    Updates are scaled by the share of the first loss that is gone, over `until`, from
    `least` to 1. Until a model has found the first thing to learn its gradients are
    noise; optimisers that give every gradient the same length, such as Muon and Adam,
    then walk at random, and a large rate takes apart what the model would need for
    the rest. How long that lasts no schedule can know: it is the smaller the objects
    the longer.

    **Arguments:**

    - `until`: Share of the first loss that has to go before steps are whole. (Keyword
        only argument, as all that follow.)
    - `least`: Of the scale.
    - `decay`: Of the moving average of the losses that is compared with the first.

    **Returns:**

    An optax transformation, for the end of a chain. Its `update` wants the loss as
    `value=`, which [`eqx_slots.training.make_step`][] hands to every optimiser that
    takes it.

    **Example:**

    ```python
    import optax
    from eqx_slots import training

    muon = training.muon(6e-3, adam_learning_rate=2e-3)
    optim = optax.chain(muon, training.scale_by_progress())
    ```
    """
    _check_progress(until, least, decay)

    def init(params: Any) -> ProgressState:
        del params
        zero = jnp.zeros((), jnp.float32)
        return ProgressState(jnp.zeros((), jnp.int32), zero, zero)

    def update(
        updates: Any, state: Any, params: Any = None, **others: Any
    ) -> tuple[Any, ProgressState]:
        del params
        if "value" not in others:
            raise ValueError(
                "`scale_by_progress` needs the loss:"
                " `optim.update(grads, state, params, value=loss)`."
            )
        loss = jnp.asarray(others["value"], jnp.float32)
        begins = state.step == 0
        first = jnp.where(begins, loss, state.first)
        average = decay * state.average + (1 - decay) * loss
        average = jnp.where(begins, loss, average)
        gone = 1 - average / jnp.where(first == 0, 1, first)
        scale = jnp.clip(gone / until, least, 1)
        scaled = jax.tree.map(lambda x: scale.astype(x.dtype) * x, updates)
        return scaled, ProgressState(state.step + 1, first, average)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_progress(until: float, least: float, decay: float) -> None:
    if not (0 < until <= 1 and 0 <= least <= 1 and 0 <= decay < 1):
        raise ValueError(
            "`until` must be in (0, 1], `least` in [0, 1] and `decay` in [0, 1), got"
            f" {until}, {least} and {decay}."
        )


def _clipped(
    optim: optax.GradientTransformation, max_norm: float | None
) -> optax.GradientTransformation:
    if max_norm is None:
        return optim
    return optax.chain(optax.clip_by_global_norm(max_norm), optim)


def _kinds(params: Any) -> Any:
    """Which leaves are matrices: Equinox calls them `weight...`, outputs first."""

    def kind(path: tuple[Any, ...], leaf: Any) -> str:
        name = getattr(path[-1], "name", "") if path else ""
        is_matrix = leaf.ndim > 1 and name.startswith("weight")
        return "matrix" if is_matrix else "other"

    return jax.tree_util.tree_map_with_path(kind, params)


def _as_matrix(weight: Array) -> Array:
    """From inputs to outputs, the shorter side first."""
    matrix = rearrange(weight, "outputs ... -> outputs (...)")
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _as_large_as_adams(step: Any, param: Any) -> Array:
    """An orthogonal step, scaled to a root mean square of 0.2 (Liu et al. 2025)."""
    del param
    return 0.2 * math.sqrt(max(_as_matrix(step).shape)) * step


def _together(optim: optax.GradientTransformation, how: Any) -> Any:
    """The optimiser on a few arrays that hold all leaves, packed by `how`.

    The updates are the same, in a third of the operations to compile and to wait for.
    """
    pack, unpack = how

    def init(params: Any) -> Any:
        return optim.init(pack(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        packed, state = optim.update(pack(updates), state)
        return unpack(packed, updates), state

    return optax.GradientTransformation(init, update)


def _groups(leaves: list[Array]) -> dict[str, list[int]]:
    """Matrices that share a stack: sides within a factor of two and of four."""
    groups: dict[str, list[int]] = {}
    for index, leaf in enumerate(leaves):
        short, long = jax.eval_shape(_as_matrix, leaf).shape
        size = f"{math.ceil(math.log2(short))} {math.ceil(math.log(long, 4))}"
        groups.setdefault(f"{leaf.dtype} {size}", []).append(index)
    return groups


def _stacks(tree: Any) -> dict[str, Array]:
    """Filled up by zeros, which stay zeros and change nothing when orthogonalised."""
    leaves = jax.tree.leaves(tree)

    def stack(matrices: list[Array]) -> Array:
        sides = [max(x.shape[axis] for x in matrices) for axis in (0, 1)]
        fill = lambda x: [(0, most - side) for most, side in zip(sides, x.shape)]
        return jnp.stack([jnp.pad(x, fill(x)) for x in matrices])

    groups = _groups(leaves).items()
    return {
        name: stack([_as_matrix(leaves[i]) for i in group]) for name, group in groups
    }


def _unstacked(stacks: dict[str, Array], like: Any) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    for name, group in _groups(leaves).items():
        for place, index in enumerate(group):
            leaf = leaves[index]
            short, long = jax.eval_shape(_as_matrix, leaf).shape
            matrix = stacks[name][place, :short, :long]
            matrix = matrix.T if len(leaf) > short else matrix
            leaves[index] = matrix.reshape(leaf.shape)
    return jax.tree.unflatten(treedef, leaves)


def _vectors(tree: Any) -> dict[str, Array]:
    """One for each dtype."""
    leaves: dict[str, list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        leaves.setdefault(f"{leaf.dtype}", []).append(leaf.reshape(-1))
    return {dtype: jnp.concatenate(some) for dtype, some in leaves.items()}


def _of_vectors(vectors: dict[str, Array], like: Any) -> Any:
    begin = dict.fromkeys(vectors, 0)

    def take(leaf: Array) -> Array:
        name = f"{leaf.dtype}"
        start, begin[name] = begin[name], begin[name] + leaf.size
        return vectors[name][start : begin[name]].reshape(leaf.shape)

    return jax.tree.map(take, like)
