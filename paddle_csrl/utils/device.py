"""Where a tensor is."""

from paddle import Tensor


def is_on_host(tensor: Tensor) -> bool:
    """Tell whether a tensor's values can be read without waiting for a device."""
    return tensor.place.is_cpu_place()
