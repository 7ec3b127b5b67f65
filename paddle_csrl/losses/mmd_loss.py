"""The point-to-point loss of CSRL (Eq. 4): squared maximum mean discrepancy, class by class.

Shape letters: C classes, N generated and M real samples a class, D feature dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.losses import mmd_on_host
from paddle_csrl.losses.functional import attach_gradient, check_positive, in_full_precision
from paddle_csrl.registry import register
from paddle_csrl.utils import device

#: ZS3Net's bandwidths.
ZS3NET_BANDWIDTHS = (2, 5, 10, 20, 40, 80)
#: Most kernel values, and most feature values, of one block of classes on a GPU, which fill it.
GPU_BLOCK_SIZE = 2**24


@register(manager.LOSSES)
class MMDLoss(nn.Layer):
    """Mean over classes of the biased squared MMD between generated and real features.

    For a class with generated x_1..x_N and real y_1..y_M (Gretton et al., JMLR 2012; CSRL,
    Eq. 4), with k(a, b) = sum_v exp(-||a - b||^2 / 2v):

        MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

    Args:
        bandwidths (list[float] | str): the v = sigma^2, in squared feature units, each > 0; one
            listed twice counts twice. A bandwidth half of another one costs no exponential.
            "auto" takes {1/8, 1/4, 1/2, 1, 2} times the median squared distance over all pairs
            of distinct valid real samples of one class, pooled over the classes of the call;
            times 1 where there is no such pair or the median is 0.
        squared (bool): False gives ZS3Net's form, the root of each class's MMD^2 before the
            mean; below the resolution r of the dtype (1.2e-7 for float32) the root of x
            continues as x / sqrt(r), so that value and gradient stay finite.
        ignore_index (int): unused; PaddleSeg injects it.

    Shape:
        generated [C, N, D], floating; real [C, M, D], floating, a constant without gradient;
        counts [C], integer in [0, M]: only the first ``counts[c]`` real samples of class c are
        valid (default: all), the others may hold anything; best an array, for reading a tensor
        waits for its device. -> scalar >= 0 up to rounding.
        Classes without a valid sample are left out of the mean; without any class it is a
        differentiable 0.
        rows [K], integer, where ``generated`` [K, N, D] holds some of the C classes only: which
        (-1 for none). The value is then their share of the mean over the C classes, so that the
        values for the parts of a partition add up. The parts are those of the processes: on the
        CPU they find bandwidths that are "auto" together.

    Raises:
        UserError: a bandwidth is not a finite number > 0, or shapes or counts do not fit.
    """

    consumes = "features"

    def __init__(self, bandwidths: str | Sequence[float] = ZS3NET_BANDWIDTHS,
                 squared: bool = True, ignore_index: int = 255):
        super().__init__()
        self.bandwidths = _check_bandwidths(bandwidths)
        self.squared = squared

    @in_full_precision
    def forward(self, generated: Tensor, real: Tensor,
                counts: Tensor | np.ndarray | Sequence[int] | None = None,
                rows: np.ndarray | None = None) -> Tensor:
        _check_shapes(generated, real, rows)
        counts = _check_counts(counts, *real.shape[:2])
        compute = _on_host if device.is_on_host(generated) else _on_device
        mmd2 = attach_gradient(*compute(generated, real.detach(), counts, rows, self.bandwidths))
        if not self.squared:
            mmd2 = _root(mmd2)
        share = mmd_on_host.class_shares(counts)
        if rows is not None:
            share = np.where(rows < 0, 0, share[rows])
        return (mmd2 * _like(share, mmd2)).sum()


def _check_bandwidths(bandwidths: str | Sequence[float]) -> list[float]:
    """The bandwidths, largest first; none for "auto"."""
    if isinstance(bandwidths, str) and bandwidths == "auto":
        return []
    if not isinstance(bandwidths, (list, tuple)) or not bandwidths:
        raise UserError("MMDLoss: bandwidths must be 'auto' or a list of numbers > 0, "
                        f"got {bandwidths!r}")
    return sorted((check_positive(v, "MMDLoss: each of bandwidths") for v in bandwidths),
                  reverse=True)


def _check_shapes(generated: Tensor, real: Tensor, rows: np.ndarray | None) -> None:
    compared = real.shape[0] if rows is None else len(rows)
    if generated.ndim != 3 or real.ndim != 3 or 0 in (*generated.shape, *real.shape) \
            or [*generated.shape[::2]] != [compared, real.shape[2]]:
        raise UserError("MMDLoss takes non-empty generated [C, N, D] and real [C, M, D] of the "
                        f"same C and D, got {list(generated.shape)} and {list(real.shape)}")


def _check_counts(counts: Tensor | np.ndarray | Sequence[int] | None, classes: int,
                  most: int) -> np.ndarray:
    """The valid real samples of each class, int64 [C]."""
    valid = np.full(classes, most) if counts is None else np.asarray(counts)
    if valid.shape != (classes,) or valid.dtype.kind not in "iu" \
            or valid.min() < 0 or valid.max() > most:
        raise UserError(f"MMDLoss: counts must be {classes} integers in [0, {most}], "
                        f"got {valid.tolist()}")
    return valid.astype(np.int64)


def _like(values: np.ndarray, tensor: Tensor) -> Tensor:
    return paddle.to_tensor(values, dtype=tensor.dtype, place=tensor.place)


def _on_host(generated: Tensor, real: Tensor, counts: np.ndarray, rows: np.ndarray | None,
             bandwidths: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_on_device``."""
    values, gradients = mmd_on_host.mmd2(generated.numpy(), real.numpy(), counts, rows, bandwidths)
    return _like(values, generated), generated, _like(gradients, generated)


@paddle.no_grad()
def _on_device(generated: Tensor, real: Tensor, counts: np.ndarray, rows: np.ndarray | None,
               bandwidths: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Each class's MMD^2 [K], the generated samples, and the gradient to them, in blocks.

    The gradient is written out because it needs the kernel matrices only here: nothing of size
    C * N * M outlives this function but where ``bandwidths`` are left to be found.
    """
    valid = mmd_on_host.valid_samples(counts, real.shape[1])
    real = _without_padding(real, valid)
    weights = _like(mmd_on_host.sample_weights(counts, valid)[:, None], real)
    # Distances do not change with the origin, and are rounded least near the samples.
    centre = paddle.matmul(_like(mmd_on_host.class_shares(counts), real), real[:, 0])
    inverse = None if bandwidths else _scale(real - centre, valid).reciprocal()
    bandwidths = bandwidths or mmd_on_host.AUTO_FACTORS
    if rows is not None:
        index = paddle.to_tensor(rows.clip(0))
        weights, real = weights.gather(index), real.gather(index)
    samples = max(generated.shape[1], real.shape[1])
    size = max(1, GPU_BLOCK_SIZE // (samples * max(samples, generated.shape[2])))
    blocks = [_mmd2_block(generated[start:start + size], real[start:start + size],
                          weights[start:start + size], centre, bandwidths, inverse)
              for start in range(0, generated.shape[0], size)]
    values, gradients = (paddle.concat(parts) if len(parts) > 1 else parts[0]
                         for parts in zip(*blocks))
    return values, generated, gradients


def _without_padding(real: Tensor, valid: np.ndarray) -> Tensor:
    """The real samples, those not ``valid`` set to 0."""
    if valid.all():
        return real
    # A product would keep NaN and infinity in the padding.
    is_valid = paddle.to_tensor(valid, place=real.place).unsqueeze(2).expand_as(real)
    return paddle.where(is_valid, real, paddle.zeros_like(real))


def _mmd2_block(x: Tensor, y: Tensor, weights: Tensor, centre: Tensor,
                bandwidths: Sequence[float], inverse: Tensor | None) -> tuple[Tensor, Tensor]:
    """MMD^2 of each class of a block, [C], and the gradient to x, [C, N, D].

    With z the x and y together, and c = 1/N for each x and minus its weight for each y,
    MMD^2 = sum_ab c_a c_b k(e_ab) of e_ab = -||z_a - z_b||^2 / 2, and with s = dk / de the
    gradient to x_i is 2/N (sum_b s_ib c_b z_b - x_i sum_b s_ib c_b).

    Sums are written as products and what is broadcast is expanded first, for that is faster with
    Paddle on CPU.
    """
    count, number = x.shape[1], y.shape[1]
    z = paddle.concat([x, y], axis=1)
    z.subtract_(centre.expand_as(z))
    x, y = z.split([count, number], axis=1)
    norms = _squared_norms(z)
    norms_x, norms_y = norms.split([count, number], axis=1)
    kernel, slope = _kernel_and_slope(_exponents(x, z, norms_x, norms, inverse), bandwidths)
    kernel_yy, _ = _kernel_and_slope(_exponents(y, y, norms_y, norms_y, inverse), bandwidths,
                                     with_slope=False)
    mean = paddle.full([x.shape[0], 1, count], 1 / count, x.dtype)
    both_sides = paddle.concat([mean, -2 * weights], axis=2)  # x with y is also y with x
    value = (paddle.matmul(paddle.matmul(mean, kernel), both_sides, transpose_y=True)
             + paddle.matmul(paddle.matmul(weights, kernel_yy), weights, transpose_y=True))
    slope.multiply_(paddle.concat([mean, -weights], axis=2).expand_as(slope))
    if inverse is not None:
        slope.multiply_(inverse.expand_as(slope))
    pull = paddle.matmul(slope, paddle.ones([count + number, 1], x.dtype))
    gradient = paddle.matmul(slope, z)
    gradient.subtract_(x.multiply_(pull.expand_as(x)))
    return value.flatten(), gradient.scale_(2 / count)


def _kernel_and_slope(exponents: Tensor, bandwidths: Sequence[float],
                      with_slope: bool = True) -> tuple[Tensor, Tensor]:
    """k = sum_v exp(e / v) and, unless left out, its slope dk / de = sum_v exp(e / v) / v.

    Both [C, N, M].
    """
    kernel = slope = exponents
    last = 0.0
    for bandwidth, term in _terms(exponents, bandwidths):
        if not last:
            kernel, slope = term.clone(), term.clone() if with_slope else slope
        else:
            kernel.add_(term)
            if with_slope:  # in units of 1 / bandwidth
                slope.scale_(bandwidth / last).add_(term)
        last = bandwidth
    return kernel, slope.scale_(1 / last) if with_slope else slope


def _terms(exponents: Tensor, bandwidths: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """Each bandwidth v with exp(e / v), which the next one overwrites.

    With the bandwidths from large to small, each that is half of the one before is its square;
    the relative error doubles each time, from one rounding.
    """
    term, last = exponents, 0.0
    for bandwidth in bandwidths:
        # Values that add nothing are raised, those to be squared twice as much: exp and products
        # that end in denormal numbers take a CPU many times as long. Not raised in place, which
        # takes Paddle 2.6 four times as long.
        depth = 40.0 if bandwidth / 2 in bandwidths else 80.0
        if bandwidth * 2 == last:
            term.multiply_(term)
            if depth == 40.0:
                term = term.clip(min=float(np.exp(-depth)))
        elif bandwidth != last:
            term = exponents.scale(1 / bandwidth).clip(min=-depth, max=0.0).exp_()
        last = bandwidth
        yield bandwidth, term


def _squared_norms(samples: Tensor) -> Tensor:
    """[C, N, D] -> [C, N, 1]."""
    return paddle.matmul(samples * samples, paddle.ones([samples.shape[2], 1], samples.dtype))


def _exponents(a: Tensor, b: Tensor, norms_a: Tensor, norms_b: Tensor,
               inverse: Tensor | None = None) -> Tensor:
    """-||a_i - b_j||^2 / 2, [C, N, M], which rounding may raise above 0; times ``inverse``."""
    exponents = paddle.matmul(a, b, transpose_y=True)
    exponents.subtract_((norms_a / 2).expand_as(exponents))
    exponents.subtract_((norms_b.transpose([0, 2, 1]) / 2).expand_as(exponents))
    return exponents if inverse is None else exponents.multiply_(inverse.expand_as(exponents))


def _scale(real: Tensor, valid: np.ndarray) -> Tensor:
    """The median squared distance within classes, scalar; 1 where there is none above rounding."""
    pairs = mmd_on_host.distinct_pairs(valid)
    if not pairs.any():
        return paddle.ones([], real.dtype)
    norms = _squared_norms(real)
    distances = _exponents(real, real, norms, norms).scale_(-2.0).clip_(min=0.0)
    median = _median(distances, pairs)
    rounding = mmd_on_host.ROUNDINGS * float(paddle.finfo(real.dtype).eps) * norms.mean()
    return paddle.where(median > rounding, median, paddle.ones_like(median))


def _median(values: Tensor, chosen: np.ndarray) -> Tensor:
    """The median of the ``chosen`` values, bool of their shape and not all False.

    All are sorted: to choose first would wait for the device.
    """
    mask = paddle.to_tensor(chosen, place=values.place)
    ordered = paddle.where(mask, values, paddle.full_like(values, np.inf)).flatten().sort()
    middle, odd = divmod(np.count_nonzero(chosen), 2)
    return ordered[middle] if odd else ordered[middle - 1:middle + 1].mean()


def _root(mmd2: Tensor) -> Tensor:
    mmd2 = mmd2.clip(min=0.0)
    return mmd2 / mmd2.clip(min=float(paddle.finfo(mmd2.dtype).eps)).sqrt()
