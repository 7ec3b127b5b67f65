"""A hinge on the length of the generated prototypes, which relations of cosines leave free."""

import paddle
from paddle import Tensor, nn
from paddleseg.cvlibs import manager

from paddle_csrl.losses.functional import check_prototypes, differentiable_zero, in_full_precision
from paddle_csrl.registry import register


@register(manager.LOSSES)
class PrototypeNormLoss(nn.Layer):
    """Hinge that keeps unseen prototypes as near to the seen ones' centre as these are on average.

    mean_u max(0, ||p_u - g|| / mean_s ||p_s - g|| - 1)^2 with g the mean of the real
    prototypes. Not in the CSRL paper: a cosine does not change with the length of a prototype,
    so that losses on cosines alone let it grow without bound.

    Args:
        ignore_index (int): unused; PaddleSeg injects it.

    Shape: generated_prototypes [U, D] and real_prototypes [S, D], floating, S >= 1 -> scalar
    >= 0. A differentiable 0 where U = 0 and where all real prototypes agree (so for S = 1),
    because they set no length then.

    Raises:
        UserError: the shapes do not fit.
    """

    consumes = "prototypes"

    def __init__(self, ignore_index: int = 255):
        super().__init__()

    @in_full_precision
    def forward(self, generated_prototypes: Tensor, real_prototypes: Tensor) -> Tensor:
        check_prototypes(generated_prototypes, real_prototypes, "PrototypeNormLoss")
        if generated_prototypes.shape[0] == 0:
            return differentiable_zero(generated_prototypes)
        centre = real_prototypes.mean(axis=0)
        allowed = _norms(real_prototypes - centre).mean()
        rounding = 8 * float(paddle.finfo(allowed.dtype).eps) * _norms(real_prototypes).mean()
        # Chosen without reading the values, which would wait for the device.
        differ = allowed > rounding
        unit = paddle.where(differ, allowed, paddle.ones_like(allowed))
        ratio = _norms(generated_prototypes - centre) / unit
        return (ratio - 1).clip(min=0).square().mean() * differ.astype(ratio.dtype)


def _norms(vectors: Tensor) -> Tensor:
    """Norms of the rows, with gradient zero (not NaN) at zero."""
    squared = (vectors * vectors).sum(axis=-1)
    tiny = float(paddle.finfo(vectors.dtype).tiny)
    return squared.clip(min=tiny).sqrt() * (squared > 0).astype(vectors.dtype)
