"""Counts of pixels by their values."""

import cv2
import numpy as np

BYTES = 256
#: Pixels up to which OpenCV, which counts in float32, is exact.
_EXACT = 1 << 24


def count_bytes(*channels: np.ndarray, most: int = BYTES) -> np.ndarray:
    """Count how often each combination of bytes occurs, in half the time of ``np.bincount``.

    Args:
        channels: K arrays, uint8 of one shape.
        most (int): values from it on are left out, 1 to 256.

    Returns:
        np.ndarray: int64 [most, ..., most], of K dimensions.
    """
    flat, every = [channel.ravel() for channel in channels], range(len(channels))
    counts = np.zeros([most for _ in every], np.int64)
    for start in range(0, flat[0].size, _EXACT):
        # With a bin for every byte, so that no pixel takes OpenCV out of its course.
        found = cv2.calcHist([channel[start:start + _EXACT] for channel in flat], list(every),
                             None, [BYTES for _ in every], [0, BYTES] * len(channels))
        found = found.reshape([BYTES for _ in every])[tuple(slice(most) for _ in every)]
        counts += found.astype(np.int64)
    return counts
