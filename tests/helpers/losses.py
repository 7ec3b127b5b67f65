"""A loss on NumPy arrays: its value, its gradient, and central differences to compare it with."""

from collections.abc import Callable

import numpy as np
import paddle


def evaluate(loss: Callable, *arrays: np.ndarray | None) -> float:
    return float(loss(*map(_tensor, arrays)))


def gradient(loss: Callable, first: np.ndarray, *others: np.ndarray | None) -> np.ndarray:
    """The gradient to the first array."""
    tensor = paddle.to_tensor(first, stop_gradient=False)
    loss(tensor, *map(_tensor, others)).backward()
    return tensor.grad.numpy()


def central_differences(function: Callable[[np.ndarray], float], x: np.ndarray,
                        step: float = 1e-5) -> np.ndarray:
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        result[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return result


def _tensor(array: np.ndarray | None) -> paddle.Tensor | None:
    return None if array is None else paddle.to_tensor(array)
