"""The point-to-point loss of CSRL (Eq. 4): squared maximum mean discrepancy, class by class.

Shape letters: C classes, N generated and M real samples a class, D feature dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.losses.functional import attach_gradient, check_positive, in_full_precision
from paddle_csrl.registry import register

#: ZS3Net's bandwidths.
ZS3NET_BANDWIDTHS = (2, 5, 10, 20, 40, 80)
#: What ``bandwidths: auto`` multiplies the median squared distance by.
AUTO_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
#: Most kernel values, and most feature values, of one block of classes: on CPU, blocks that
#: stay in its cache; on GPU, blocks that fill it.
CPU_BLOCK_SIZE, GPU_BLOCK_SIZE = 2**17, 2**24


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
        valid (default: all), the others may hold anything. -> scalar >= 0 up to rounding.
        Classes without a valid sample are left out of the mean; without any class it is a
        differentiable 0.
        rows [K], integer, where ``generated`` [K, N, D] holds some of the C classes only: which
        (-1 for none). The value is then their share of the mean over the C classes, so that the
        values for the parts of a partition add up.

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
    def forward(self, generated: Tensor, real: Tensor, counts: Tensor | None = None,
                rows: np.ndarray | None = None) -> Tensor:
        weights, real = _weigh_samples(generated, real, counts, rows)
        bandwidths = self.bandwidths or _auto_bandwidths(real, weights)
        classes = (weights.sum(axis=[1, 2]) > 0).sum()
        if rows is not None:
            index = paddle.to_tensor(rows.clip(0))
            known = paddle.to_tensor(rows >= 0, dtype=weights.dtype).reshape([-1, 1, 1])
            weights, real = weights.gather(index) * known, real.gather(index)
        mmd2 = attach_gradient(*_mmd2(generated, real, weights, bandwidths))
        if not self.squared:
            mmd2 = _root(mmd2)
        present = (weights.sum(axis=[1, 2]) > 0).astype(mmd2.dtype)
        return (mmd2 * present).sum() / classes.astype(mmd2.dtype).clip(min=1)


def _check_bandwidths(bandwidths: str | Sequence[float]) -> list[float]:
    """The bandwidths, largest first; none for "auto"."""
    if isinstance(bandwidths, str) and bandwidths == "auto":
        return []
    if not isinstance(bandwidths, (list, tuple)) or not bandwidths:
        raise UserError("MMDLoss: bandwidths must be 'auto' or a list of numbers > 0, "
                        f"got {bandwidths!r}")
    return sorted((check_positive(v, "MMDLoss: each of bandwidths") for v in bandwidths),
                  reverse=True)


def _weigh_samples(generated: Tensor, real: Tensor, counts: Tensor | None,
                   rows: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Weights [C, M, 1] of the real samples, and these with the invalid ones set to 0."""
    compared = real.shape[0] if rows is None else len(rows)
    if generated.ndim != 3 or real.ndim != 3 or 0 in (*generated.shape, *real.shape) \
            or [*generated.shape[::2]] != [compared, real.shape[2]]:
        raise UserError("MMDLoss takes non-empty generated [C, N, D] and real [C, M, D] of the "
                        f"same C and D, got {list(generated.shape)} and {list(real.shape)}")
    classes, most = real.shape[:2]
    real = real.detach()
    if counts is None:
        return paddle.full([classes, most, 1], 1 / most, dtype=real.dtype), real
    valid_counts = np.asarray(counts)
    if valid_counts.shape != (classes,) or valid_counts.dtype.kind not in "iu" \
            or valid_counts.min() < 0 or valid_counts.max() > most:
        raise UserError(f"MMDLoss: counts must be {classes} integers in [0, {most}], "
                        f"got {valid_counts.tolist()}")
    valid = np.arange(most) < valid_counts[:, None]
    weights = paddle.to_tensor(valid / valid_counts.clip(min=1)[:, None], dtype=real.dtype)
    if not valid.all():
        # A product would keep NaN and infinity in the padding.
        is_valid = paddle.to_tensor(valid).unsqueeze(2).expand_as(real)
        real = paddle.where(is_valid, real, paddle.zeros_like(real))
    return weights.unsqueeze(2), real


@paddle.no_grad()
def _mmd2(generated: Tensor, real: Tensor, weights: Tensor,
          bandwidths: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Each class's MMD^2 [C], the generated samples, and the gradient to them, in blocks.

    The gradient is written out because it needs the kernel matrices only here: nothing of size
    C * N * M outlives this function.
    """
    samples = max(generated.shape[1], real.shape[1])
    most = CPU_BLOCK_SIZE if generated.place.is_cpu_place() else GPU_BLOCK_SIZE
    size = max(1, most // (samples * max(samples, generated.shape[2])))
    # Distances do not change with the origin, and are rounded least around the mean.
    centre = _weighted_mean(real, weights)
    blocks = [_mmd2_block(generated[start:start + size] - centre, real[start:start + size] - centre,
                          weights[start:start + size], bandwidths)
              for start in range(0, generated.shape[0], size)]
    values, gradients = (paddle.concat(parts) if len(parts) > 1 else parts[0]
                         for parts in zip(*blocks))
    return values, generated, gradients


def _weighted_mean(samples: Tensor, weights: Tensor) -> Tensor:
    """[C, M, D] and [C, M, 1] -> [D]; a product, because Paddle's sum is slower on CPU."""
    total = paddle.matmul(weights.flatten(), samples.flatten(0, 1))
    return total / weights.sum().clip(min=1)


def _mmd2_block(x: Tensor, y: Tensor, weights: Tensor,
                bandwidths: Sequence[float]) -> tuple[Tensor, Tensor]:
    count = x.shape[1]
    norms_x, norms_y = _squared_norms(x), _squared_norms(y)
    farthest = 4 * max(float(norms_x.max()), float(norms_y.max()))  # ||a - b||^2 at the most
    kernel_xx, slope_xx = _kernel_and_slope(
        _squared_distances(x, x, norms_x, norms_x), bandwidths, farthest)
    kernel_xy, slope_xy = _kernel_and_slope(
        _squared_distances(x, y, norms_x, norms_y), bandwidths, farthest)
    kernel_yy = _kernel(_squared_distances(y, y, norms_y, norms_y), bandwidths, farthest)
    value = (kernel_xx.mean(axis=[1, 2]) - 2 * (kernel_xy @ weights).mean(axis=[1, 2])
             + (weights * (kernel_yy @ weights)).sum(axis=[1, 2]))
    # d k(a, b) / da = -2 slope (a - b); x_i stands on both sides of k(x_i, x_j).
    pull = slope_xy @ weights - slope_xx.mean(axis=2, keepdim=True)
    gradient = x * pull
    gradient.add_((slope_xx @ x).scale_(1 / count))
    gradient.subtract_(slope_xy @ (y * weights))
    return value, gradient.scale_(4 / count)


def _kernel(distances: Tensor, bandwidths: Sequence[float], farthest: float) -> Tensor:
    """k = sum_v exp(-d2 / 2v), [C, N, M]."""
    kernel = paddle.zeros_like(distances)
    for _, term in _terms(distances, bandwidths, farthest):
        kernel.add_(term)
    return kernel


def _kernel_and_slope(distances: Tensor, bandwidths: Sequence[float],
                      farthest: float) -> tuple[Tensor, Tensor]:
    """k and -dk / d(d2) = sum_v exp(-d2 / 2v) / 2v, both [C, N, M]."""
    kernel, slope = paddle.zeros_like(distances), paddle.zeros_like(distances)
    for bandwidth, term in _terms(distances, bandwidths, farthest):
        kernel.add_(term)
        slope.add_(term.scale(0.5 / bandwidth))
    return kernel, slope


def _terms(distances: Tensor, bandwidths: Sequence[float],
           farthest: float) -> Iterator[tuple[float, Tensor]]:
    """Each bandwidth v with exp(-d2 / 2v), which the next one overwrites.

    With the bandwidths from large to small, each that is half of the one before is its square;
    the relative error doubles each time, from one rounding. No distance is above ``farthest``.
    """
    term, last = distances, 0.0
    for bandwidth in bandwidths:
        # Values that add nothing are raised, those to be squared twice as much: exp and products
        # that end in denormal numbers take a CPU many times as long.
        depth = 40.0 if bandwidth / 2 in bandwidths else 80.0
        if bandwidth * 2 == last:
            term.multiply_(term)
            if depth == 40.0 and farthest > 2 * depth * bandwidth:
                term.clip_(min=float(np.exp(-depth)))
        elif bandwidth != last:
            term = distances.scale(-0.5 / bandwidth).clip_(min=-depth).exp_()
        last = bandwidth
        yield bandwidth, term


def _squared_norms(samples: Tensor) -> Tensor:
    """[C, N, D] -> [C, N, 1]."""
    return (samples * samples).sum(axis=2, keepdim=True)


def _squared_distances(a: Tensor, b: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """||a_i - b_j||^2 >= 0, [C, N, M]."""
    distances = paddle.matmul(a, b, transpose_y=True).scale_(-2.0)
    distances.add_(norms_a)
    # Expanded first: Paddle broadcasts along an inner axis slowly on CPU.
    distances.add_(norms_b.transpose([0, 2, 1]).expand_as(distances))
    return distances.clip_(min=0.0)


@paddle.no_grad()
def _auto_bandwidths(real: Tensor, weights: Tensor) -> list[float]:
    valid = (weights.squeeze(2) > 0).numpy()
    most = real.shape[1]
    pairs = valid[:, :, None] & valid[:, None, :] & np.triu(np.ones((most, most), bool), 1)
    centred = real - real.mean(axis=[0, 1])
    norms = _squared_norms(centred)
    distances = _squared_distances(centred, centred, norms, norms).numpy()[pairs]
    median = float(np.median(distances)) if distances.size else 0.0
    rounding = 100 * float(paddle.finfo(real.dtype).eps * norms.mean())
    scale = median if median > rounding else 1.0
    return [scale * factor for factor in reversed(AUTO_FACTORS)]


def _root(mmd2: Tensor) -> Tensor:
    mmd2 = mmd2.clip(min=0.0)
    return mmd2 / mmd2.clip(min=float(paddle.finfo(mmd2.dtype).eps)).sqrt()
