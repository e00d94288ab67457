import contextlib
import dataclasses
import os
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


def normal(seed: int, *shape: int, dtype=jnp.float32):
    """Drawn by NumPy: JAX's generator would be compiled anew for every shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def built(make, seed: int = 0, scale: float = 0.5):
    """The module that `make(key=key)` builds, every parameter drawn at random.

    No zero bias and no unit scale can then hide a mistake; and only shapes are traced,
    nothing is compiled.
    """
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (
            jnp.asarray(scale * rng.normal(size=x.shape), x.dtype)
            if isinstance(x, jax.ShapeDtypeStruct)
            else x
        ),
        eqx.filter_eval_shape(make, key=jr.key(0)),
    )


def largest_error(got, want) -> float:
    """Largest error over largest entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want)))


def assert_close(got, want, dtype=jnp.float32) -> None:
    """Equal up to rounding of a few dozen operations in `dtype`."""
    limit = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}
    assert largest_error(got, want) <= limit[jnp.dtype(dtype).name]


def as_users_compile() -> dict[str, str]:
    """The environment of a process, without the flags by which the suite saves time."""
    flags = "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"
    rest = {name: value for name, value in os.environ.items() if name not in flags}
    return rest | {"JAX_PLATFORMS": "cpu"}


@eqx.filter_jit
def run(module, *args, **kwargs):
    """Call a module compiled: op by op, most of a test's time would be compilation."""
    return module(*args, **kwargs)


def num_parameters(tree) -> int:
    """Numbers that a model learns, from its arrays or from their shapes alone."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(leaf.size for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact))


def check_fields(module: eqx.Module) -> None:
    """Hold a module to its annotations, which a hand-written `__init__` escapes."""
    with jaxtyped("context"):
        for field in dataclasses.fields(module):
            if hasattr(field.type, "dtypes"):  # an array annotation
                value = getattr(module, field.name)
                assert isinstance(value, field.type), field.name
