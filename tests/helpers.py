import contextlib
import dataclasses
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import strategies as st
from jaxtyping import jaxtyped


seeds = st.integers(0, 2**31 - 1)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def as_float64(tree):
    """The same parameters, doubled in width."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, tree
    )


def normal(seed: int, *shape: int, dtype=None):
    return jr.normal(jr.key(seed), shape, dtype)


def largest_error(got, want) -> float:
    """Largest error over largest entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want)))


def assert_close(got, want, dtype=jnp.float32) -> None:
    """Equal up to rounding of a few dozen operations in `dtype`."""
    limit = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}
    assert largest_error(got, want) <= limit[jnp.dtype(dtype).name]


def randomised(tree, seed: int, scale: float = 0.5):
    """Every parameter moved, so that no zero bias and no unit scale hides a mistake."""
    leaves, structure = jax.tree.flatten(tree)
    moved = [
        leaf + scale * jr.normal(jr.fold_in(jr.key(seed), i), leaf.shape, leaf.dtype)
        if eqx.is_inexact_array(leaf)
        else leaf
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, moved)


def num_parameters(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


def check_fields(module: eqx.Module) -> None:
    """Hold a module to its annotations, which a hand-written `__init__` escapes."""
    with jaxtyped("context"):
        for field in dataclasses.fields(module):
            if hasattr(field.type, "dtypes"):  # an array annotation
                value = getattr(module, field.name)
                assert isinstance(value, field.type), field.name
