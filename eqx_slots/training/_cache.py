import os
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache


# Of what takes less than this to compile there is much, and it is hardly worth a file.
_LEAST_SECONDS = 0.1


def use_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs, so that the next start of a script finds them.

    One line at the top of a script. `JAX_ENABLE_COMPILATION_CACHE=false` in the
    environment is the way off, without touching the script. A cache holds programs:
    take no folder that somebody whom you do not trust may write to.

    **Arguments:**

    - `folder`: Where they are kept. `None` means where JAX was already told to keep
        them (`JAX_COMPILATION_CACHE_DIR`), else `eqx_slots` in the user's folder for
        caches, `~/.cache` or `XDG_CACHE_HOME`. The address of a storage that JAX knows,
        such as `gs://...`, will do as well.

    **Returns:**

    The folder; `None` where nothing is kept on this machine, because caching is
    switched off, the folder cannot be written to, or it is a storage elsewhere.
    Training goes on either way.

    **Example:**

    ```python
    from eqx_slots import training

    folder = training.use_compilation_cache()  # before anything is compiled
    print(folder.name)  # eqx_slots
    ```
    """
    if not _setting("jax_enable_compilation_cache"):
        return None
    told = _setting("jax_compilation_cache_dir") if folder is None else folder
    is_elsewhere = "://" in str(told)
    path = None if is_elsewhere else _made(told)
    if path is None and not is_elsewhere:
        return None
    jax.config.update("jax_compilation_cache_dir", str(path or told))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        name = "jax_persistent_cache_min_compile_time_secs"
        jax.config.update(name, _LEAST_SECONDS)
    # JAX looks for a folder once, when it first compiles, which may have been before.
    compilation_cache.reset_cache()
    return path


def _made(told: str | os.PathLike[str] | None) -> Path | None:
    """The folder, if it can be written to."""
    try:
        path = _chosen(told)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no place to write to, or not even a home
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def _chosen(told: str | os.PathLike[str] | None) -> Path:
    if told is not None:
        return Path(told)
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(caches) / "eqx_slots"


def _setting(name: str) -> Any:
    return getattr(jax.config, name)
