"""Threads in place of processes."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from paddle_csrl import parallel


def together(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call functions in threads that are processes to each other; return what they return."""
    barrier, arrays = threading.Barrier(len(functions), timeout=60), {}

    def total(array: np.ndarray) -> np.ndarray:
        arrays[threading.get_ident()] = array
        barrier.wait()
        result = sum(arrays.values())
        barrier.wait()
        return result

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(functions)) as pool:
        patch.setattr(parallel, "total", total)
        return list(pool.map(lambda function: function(), functions))
