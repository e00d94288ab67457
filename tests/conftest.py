import os

import hypothesis
import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache


# Silent promotion and broadcasting hide mistakes; here they are errors.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Nearly all the time of a test goes into compiling what is run once; also in processes
# that tests start, but for those with `helpers.as_users_compile`.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older way to emit code takes a third of that time. JAX 0.12 no longer has it and
# is tested with the newer one, as are processes that tests start by flags of their own.
if jax.__version_info__[:2] == (0, 10):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"

# Compilation counts against a deadline, so there is none; the same examples each run.
hypothesis.settings.register_profile(
    "eqx_slots", deadline=None, derandomize=True, max_examples=25
)
hypothesis.settings.load_profile("eqx_slots")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Each holds memory maps, and a process has only so many: 65,530 on Linux."""
    yield
    jax.clear_caches()


def update(options):
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def kept_programs(programs):
    """Examples compile the same programs again and again; as users do, keep them."""
    options = {
        "jax_compilation_cache_dir": str(programs),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    update(options)
    yield
    update(before)


@pytest.fixture
def as_users_run():
    """Without the import hook and strictness: an error has to come from the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def standard_promotion():
    """Optax multiplies floats by integer counts, which strict promotion refuses."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
