"""Where a tensor is, and what fits on a GPU."""

import paddle
from paddle import Tensor
from paddle.base import core

#: Most bytes of one tensor: fewer float32 values than 2^31, up to which Paddle's kernels can count.
_MOST_BYTES = 2**33 - 4


def is_on_host(tensor: Tensor) -> bool:
    """Tell whether a tensor's values can be read without waiting for a device."""
    return tensor.place.is_cpu_place()


def free_memory() -> int:
    """Bytes of the current GPU that no process uses, with those that Paddle keeps in reserve."""
    reserve = paddle.device.cuda.memory_reserved() - paddle.device.cuda.memory_allocated()
    return core.gpu_memory_available() + reserve  # type: ignore[attr-defined]  # on GPUs alone


def room_for_data(free: int) -> int:
    """Bytes that one tensor may take of ``free`` ones: half, so that training has the other."""
    return min(free // 2, _MOST_BYTES)
