"""Memory that is freed stays with the process, so that the next tensor need not ask for it anew.

Upstream cause: Paddle's CPU allocator takes every tensor from malloc and frees it at once. glibc
gives large blocks back to the system, which fills them with zeros before it hands them out again:
4 to 15 % of the time of the networks that were measured. A process keeps the most that it has ever
needed instead.

This module imports nothing of Paddle's.
"""

import ctypes
import os

#: What a user may have set; then nothing is changed.
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

# Of glibc's malloc.h: free memory at the heap's top, and the least that comes from outside it.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _GIGABYTE = 2**31 - 1, 2**30


def apply() -> bool:
    """Return whether this process keeps what it frees: with glibc, unless the user says how."""
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _GIGABYTE) and mallopt(_TRIM_THRESHOLD, _NEVER))
