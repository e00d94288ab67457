import ctypes
import sys


# Of `mallopt`, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# Bytes; more than a step on a CPU asks for at once. And one heap for all threads: those
# of their own give back what is beyond 64 MB whatever they are told.
_OPTIONS = {_TRIM_THRESHOLD: 2**30, _MMAP_THRESHOLD: 2**30, _ARENA_MAX: 1}


def keep_memory() -> bool:
    """Keep memory that one step has freed for the next, instead of giving it back.

    One line at the top of a script that trains on a CPU, before JAX has done anything.
    A step asks for tens of megabytes at once, which the C library of Linux takes from
    the system and gives back each time, and the system clears every page anew: 13,000
    pages and a quarter of the time for 32 images and seven slots of the default
    example. With this line the process holds what its largest step needed until it
    ends.

    **Returns:**

    Whether the C library does so: glibc does, and with it most Linux systems. Elsewhere
    nothing changes.

    **Example:**

    ```python
    from eqx_slots import training

    kept = training.keep_memory()
    print(type(kept))  # <class 'bool'>
    ```
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return all([set_option(*option) == 1 for option in _OPTIONS.items()])
