from typing import Any

import jax
import optax
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
    optim = optax.contrib.muon(
        learning_rate,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )
    return _clipped(optim, max_norm)


def _clipped(
    optim: optax.GradientTransformation, max_norm: float | None
) -> optax.GradientTransformation:
    if max_norm is None:
        return optim
    return optax.chain(optax.clip_by_global_norm(max_norm), optim)


def _matrices(params: Any) -> Any:
    """Which leaves are matrices: Equinox calls them `weight...`, outputs first."""

    def dimensions(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        name = getattr(path[-1], "name", "") if path else ""
        if leaf.ndim < 2 or not name.startswith("weight"):
            return None
        return MuonDimensionNumbers(
            reduction_axis=tuple(range(1, leaf.ndim)), output_axis=(0,)
        )

    return jax.tree_util.tree_map_with_path(dimensions, params)
