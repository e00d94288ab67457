from functools import cache

import jax


# Convolutions are left to Eigen: it is up to twice as fast at them as YNNPACK, which
# XLA would use; matrix products and sums stay with that.
_ON_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}


@cache
def compiler_options() -> dict[str, str]:
    """Options under which XLA compiles convolutions well on the default backend.

    For `jax.jit(..., compiler_options=...)` in training loops of your own, at the top:
    JAX refuses them for a part of what is compiled as a whole.
    [`eqx_slots.training.make_step`][] has them already.

    **Returns:**

    A dictionary that is empty where there is nothing to choose: on other backends than
    CPU, and with a JAX that does not know the option.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_ON_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(_ON_CPU)
