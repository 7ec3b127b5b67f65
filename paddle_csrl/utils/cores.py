"""The cores of this machine."""

import os


def usable_cores() -> int:
    """The number of cores that this process may use, of which a cluster gives it a part."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
