"""The state of all random numbers: of Python, NumPy and Paddle."""

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

#: Without workers Paddle reads a data set in a thread, beside the training.
_lock = threading.RLock()


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Have ``random`` and ``np.random`` depend on ``numbers`` alone inside the block.

    Afterwards they go on as if it had not been. Each number is from 0 to 4294967295.
    """
    with _lock:
        states = random.getstate(), np.random.get_state()
        random.seed(repr(numbers))
        np.random.seed(numbers)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def random_state() -> dict[str, Any]:
    """Return the state as values for JSON."""
    with _lock:
        name, keys, *rest = np.random.get_state()
        return {"random": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest],
                "paddle": [state.__getstate__() for state in paddle.get_rng_state()]}


def set_random_state(content: dict[str, Any]) -> bool:
    """Restore what ``random_state`` returned, whether or not it has been through JSON.

    Returns:
        False where Paddle's part is not to be had, as Paddle 2.6 does not tell it; that stays.
    """
    version, internal, gauss = content["random"]
    with _lock:
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(content["numpy"]))
    states, values = paddle.get_rng_state(), content["paddle"]
    if len(states) != len(values) or not values[0][-1]:
        return False
    restored = [type(state).__new__(type(state)) for state in states]
    for state, value in zip(restored, values):
        state.__setstate__(tuple(value))
    paddle.set_rng_state(restored)
    return True


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Have the block leave no trace in the random numbers."""
    with _lock:
        states = random.getstate(), np.random.get_state()
    of_paddle = paddle.get_rng_state()
    try:
        yield
    finally:
        with _lock:
            random.setstate(states[0])
            np.random.set_state(states[1])
        paddle.set_rng_state(of_paddle)
