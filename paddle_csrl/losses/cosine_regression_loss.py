"""The loss of SegDeViSE: every pixel regresses the embedding of its class."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.losses.functional import in_full_precision
from paddle_csrl.registry import register


@register(manager.LOSSES)
class CosineRegressionLoss(nn.Layer):
    """1 − cos(p, e_y), the mean over labelled pixels of p and the embedding e_y of their class.

    ``ProjectionSegmentor`` with ``similarity: cosine`` gives the cosines.

    Args:
        ignore_index (int): label of the pixels that are left out.

    Shape: cosines float [N, C, H, W] in [-1, 1], labels integer [N, H, W] or [N, 1, H, W] ->
    scalar in [0, 2]. Without any labelled pixel it is a differentiable 0.

    Raises:
        UserError: the shapes do not fit.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    @in_full_precision
    def forward(self, cosines: Tensor, labels: Tensor) -> Tensor:
        labels = labels.squeeze(1) if labels.ndim == 4 and labels.shape[1] == 1 else labels
        if cosines.ndim != 4 or [cosines.shape[0], *cosines.shape[2:]] != list(labels.shape):
            raise UserError(f"CosineRegressionLoss takes cosines [N, C, H, W] and labels "
                            f"[N, H, W], got {list(cosines.shape)} and {list(labels.shape)}")
        labels = labels.astype("int64")
        labelled = labels != self.ignore_index
        ids = paddle.where(labelled, labels, paddle.zeros_like(labels))
        labelled = labelled.astype(cosines.dtype)
        own = -F.nll_loss(cosines, ids, reduction="none")  # the cosine of each pixel's class
        return ((1 - own) * labelled).sum() / labelled.sum().clip(min=1)
