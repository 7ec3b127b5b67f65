"""Bilinear enlargement of small maps by two matrix products, which a CPU does fast."""

import functools
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

#: Height and width up to which the products were faster than one pixel after the other; their work
#: for a pixel grows with them.
_MOST = 64


def is_fast_enlargement(size: Sequence[int], wanted: Sequence[int]) -> bool:
    """Tell whether maps of ``size`` (h, w) are small enough, and smaller than ``wanted``."""
    return max(size) <= _MOST and all(old <= new for old, new in zip(size, wanted))


def enlarge(x: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """As ``paddle.nn.functional.interpolate(x, [height, width], mode="bilinear")``.

    Args:
        x: float32 [N, C, h, w].
        height, width: H and W.
        align_corners: as in Paddle.

    Returns:
        float32 [N, C, H, W], differentiable.
    """
    rows = paddle.to_tensor(_weights(x.shape[2], height, align_corners), place=x.place)
    columns = paddle.to_tensor(_weights(x.shape[3], width, align_corners), place=x.place)
    return paddle.matmul(rows, paddle.matmul(x, columns, transpose_y=True))


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """float32 [new, old]: what each new place takes of the old ones."""
    places = np.arange(new)
    if align_corners:
        source = places * ((old - 1) / max(new - 1, 1))
    else:
        source = np.clip((places + 0.5) * (old / new) - 0.5, 0, None)
    below = np.minimum(source.astype(np.int64), old - 1)
    above = np.minimum(below + 1, old - 1)
    weights = np.zeros((new, old), np.float32)
    np.add.at(weights, (places, below), 1 - (source - below))
    np.add.at(weights, (places, above), source - below)
    return weights
