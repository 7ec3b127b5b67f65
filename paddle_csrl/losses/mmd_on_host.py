"""The MMD of ``MMDLoss`` by NumPy: on a CPU, Paddle takes longer for each pass over a block.

Shape letters: C classes, N generated and M real samples a class, D feature dimensions.
"""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from paddle_csrl import parallel
from paddle_csrl.errors import UserError

#: What ``bandwidths: auto`` multiplies the median squared distance by.
AUTO_FACTORS = (2, 1, 1 / 2, 1 / 4, 1 / 8)
#: Most kernel values, and most feature values, of one block of classes, which stays in the cache.
BLOCK_SIZE = 2**17
#: A squared distance of fewer roundings of the squared norms is none.
ROUNDINGS = 100
#: From an array to the sum of those of all processes.
AddUp = Callable[[np.ndarray], np.ndarray]


def mmd2(generated: np.ndarray, real: np.ndarray, counts: np.ndarray, rows: np.ndarray | None,
         bandwidths: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """MMD^2 of classes, and its gradient to the generated samples, in blocks of classes.

    Both arrays of samples are overwritten, so that no third of their size is needed.

    Args:
        generated (np.ndarray): [C, N, D], floating, or [K, N, D] with ``rows``.
        real (np.ndarray): [C, M, D] of the same dtype.
        counts (np.ndarray): int64 [C], the valid real samples.
        rows (np.ndarray, optional): integer [K], which of the C classes are compared; -1 for none.
            The others are those of other processes, which find the bandwidths together.
        bandwidths (list[float]): from large to small; empty for those of ``auto``.

    Returns:
        (np.ndarray, np.ndarray): [K] and [K, N, D].
    """
    valid = valid_samples(counts, real.shape[1])
    weights = sample_weights(counts, valid).astype(real.dtype)
    # Distances do not change with the origin, and are rounded least near the samples.
    centre = class_shares(counts).astype(real.dtype) @ np.where(valid[:, :1], real[:, 0], 0)
    pairs = int((counts * (counts - 1) // 2).sum())
    if rows is not None:
        index = rows.clip(0)
        real, weights, valid = real[index], weights[index], valid[index] & (rows >= 0)[:, None]
    real -= centre
    if not valid.all():
        real[~valid] = 0  # before anything is multiplied, for it may be NaN
    between_real = None
    if not bandwidths:
        between_real = _exponents(real, real)
        scale = _scale(real, np.abs(between_real[distinct_pairs(valid)]), len(counts), pairs,
                       _alone if rows is None else parallel.total)
        bandwidths = [factor * scale for factor in AUTO_FACTORS]

    values = np.empty(len(generated), generated.dtype)
    samples = max(generated.shape[1], real.shape[1])
    size = max(1, BLOCK_SIZE // (samples * max(samples, generated.shape[2])))
    for start in range(0, len(generated), size):
        block = slice(start, start + size)
        y = real[block]
        between_y = _exponents(y, y) if between_real is None else between_real[block]
        values[block], generated[block] = _of_block(generated[block] - centre, y, weights[block],
                                                    between_y, bandwidths)
    return values, generated


def valid_samples(counts: np.ndarray, most: int) -> np.ndarray:
    """The valid ones of the real samples, bool [C, M]."""
    return np.arange(most) < counts[:, None]


def sample_weights(counts: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Weights [C, M] of the real samples, which sum up to 1 for a class that has any."""
    return valid / counts.clip(min=1)[:, None]


def class_shares(counts: np.ndarray) -> np.ndarray:
    """The weight of each class in a mean over those with real samples, float64 [C]."""
    return (counts > 0) / max(np.count_nonzero(counts), 1)


def distinct_pairs(valid: np.ndarray) -> np.ndarray:
    """The pairs i < j of valid real samples, bool [C, M, M]."""
    most = valid.shape[1]
    return valid[:, :, None] & valid[:, None, :] & np.triu(np.ones((most, most), bool), 1)


def _alone(array: np.ndarray) -> np.ndarray:
    """The sum over the processes, where each has all classes."""
    return array


def _scale(samples: np.ndarray, exponents: np.ndarray, classes: int, pairs: int,
           add_up: AddUp) -> float:
    """The median squared distance within classes; 1 where there is none above rounding.

    ``samples`` [K, M, D] and halves of distances are those of this process, of so many ``classes``
    and ``pairs`` of all of them.
    """
    squares, found = add_up(np.array([2.0 * _half_squares(samples).sum(dtype=np.float64),
                                      len(exponents)]))
    if found != pairs:
        raise UserError(f"MMDLoss: the classes of all processes have {int(found)} pairs of real "
                        f"samples, not {pairs}; every class must be in the rows of one of them")
    median = 2 * _median(exponents, pairs, add_up) if pairs else 0.0
    rounding = float(np.finfo(samples.dtype).eps * squares) / (classes * samples.shape[1])
    return median if median > ROUNDINGS * rounding else 1.0


def _median(values: np.ndarray, count: int, add_up: AddUp) -> float:
    """The median of ``count`` >= 1 values >= 0, of which this process has ``values``.

    The bits of the two in the middle are found from the highest on, 16 at a time, by counts of
    values, which are all that is exchanged. It takes less than half of the time of np.median.
    """
    bits = values.view(f"u{values.itemsize}")
    ranks, found, parts = [(count - 1) // 2, count // 2], [0, 0], [bits, bits]
    for shift in range(8 * bits.itemsize - 16, -1, -16):
        digits = [(part >> shift).astype(np.uint16) for part in parts]
        counts = add_up(np.stack([np.bincount(digit, minlength=2**16) for digit in digits]))
        for i, ends in enumerate(counts.cumsum(1)):
            digit = int(np.searchsorted(ends, ranks[i], "right"))
            ranks[i] -= int(ends[digit] - counts[i, digit])
            found[i] = found[i] << 16 | digit
            parts[i] = parts[i][digits[i] == digit]
    return float(np.array(found, bits.dtype).view(values.dtype).mean())


def _exponents(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """-||a_i - b_j||^2 / 2 of [C, N, D] and [C, M, D], which no rounding raises above 0."""
    result = a @ b.swapaxes(1, 2)
    result -= _half_squares(a)[:, :, None]
    result -= _half_squares(b)[:, None]
    return np.minimum(result, 0, out=result)


def _half_squares(samples: np.ndarray) -> np.ndarray:
    """||z||^2 / 2 of samples [C, N, D]: [C, N]."""
    return np.einsum("cnd,cnd->cn", samples, samples) / 2


def _of_block(x: np.ndarray, y: np.ndarray, weights: np.ndarray, between_y: np.ndarray,
              bandwidths: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """MMD^2 of each class of a block, [C], and the gradient to x, [C, N, D].

    With z the x and y together, and c = 1/N for each x and minus its weight for each y,
    MMD^2 = sum_ab c_a c_b k(e_ab) of e_ab = -||z_a - z_b||^2 / 2, and with s = dk / de the
    gradient to x_i is 2/N (sum_b s_ib c_b z_b - x_i sum_b s_ib c_b).
    """
    z = np.concatenate([x, y], axis=1)
    mean = np.full(x.shape[:2], 1 / x.shape[1], x.dtype)
    both_sides = np.concatenate([mean, -2 * weights], axis=1)  # x with y is also y with x
    value = np.zeros(len(x), x.dtype)
    for _, term in _terms(between_y, bandwidths):
        value += _form(weights, term, weights)
    slope, last = np.zeros(0, x.dtype), 0.0
    for bandwidth, term in _terms(_exponents(x, z), bandwidths):
        value += _form(mean, term, both_sides)
        # dk / de = sum_v exp(e / v) / v, in units of 1 / bandwidth.
        slope = _scale_and_add(slope, bandwidth / last, term) if last else term.copy()
        last = bandwidth
    slope *= np.concatenate([mean, -weights], axis=1)[:, None] * (2 / (x.shape[1] * last))
    gradient = slope @ z
    x *= slope.sum(axis=2, keepdims=True)
    gradient -= x
    return value, gradient


def _form(left: np.ndarray, matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The bilinear forms of [C, N], [C, N, M] and [C, M]: [C]."""
    return (left[:, None] @ (matrix @ right[:, :, None])).reshape(-1)


def _scale_and_add(values: np.ndarray, factor: float, others: np.ndarray) -> np.ndarray:
    """values * factor + others, in one pass and in the place of ``values``."""
    flat = values.reshape(1, -1)
    cv2.scaleAdd(flat, factor, others.reshape(1, -1), dst=flat)
    return values


def _terms(exponents: np.ndarray,
           bandwidths: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
    """Each bandwidth v with exp(e / v), which the next one overwrites.

    As ``mmd_loss._terms``: with the bandwidths from large to small, each that is half of the one
    before is its square, and values that add nothing are raised, if there are such.
    """
    lowest, term, last = float(exponents.min()), exponents, 0.0
    for bandwidth in bandwidths:
        depth = 40.0 if bandwidth / 2 in bandwidths else 80.0
        is_square, is_deep = bandwidth * 2 == last, lowest < -depth * bandwidth
        if is_square:
            term *= term
        elif bandwidth != last:
            term = exponents * (1 / bandwidth)
            np.exp(term.clip(min=-depth) if is_deep else term, out=term)
        if is_square and is_deep and depth == 40.0:
            np.maximum(term, float(np.exp(-depth)), out=term)
        last = bandwidth
        yield bandwidth, term
