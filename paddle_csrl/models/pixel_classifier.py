"""The classification layer that stage 3 trains."""

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.core.train import loss_computation
from paddleseg.models.losses import CrossEntropyLoss

from paddle_csrl.parallel import Share


class PixelClassifier(nn.Layer):
    """A 1×1 convolution from features to class logits, the last layer of a segmentor.

    Args:
        feature_dim (int): feature channels D.
        num_classes (int): classes C, seen and unseen.
        origin (float32 array [D], optional): makes the layer linear about −origin: it is added
            to the features and the convolution has no bias.

    Attributes:
        share (Share, optional): of the H rows of what it is trained on; all by default. What is
            trained is the sum over the processes of the terms that each computes, for losses
            that ``can_be_shared``.

    Shape: features float32 [B, D, H, W] -> [logits float32 [B, C, H, W]].
    """

    def __init__(self, feature_dim: int, num_classes: int,
                 origin: np.ndarray | None = None):
        super().__init__()
        self.conv = nn.Conv2D(feature_dim, num_classes, 1,
                              bias_attr=None if origin is None else False)
        self.share: Share | None = None
        self.register_buffer(
            "origin", None if origin is None  # type: ignore[arg-type]  # it may be None
            else paddle.to_tensor(origin).reshape([-1, 1, 1]), persistable=False)

    def forward(self, features: Tensor) -> list[Tensor]:
        if share := self._share_in_training:
            features = _own(share, features)
        return [self.conv(features if self.origin is None else features + self.origin)]

    def loss_computation(self, logits_list: list[Tensor], losses: dict,
                         data: dict[str, Tensor]) -> list[Tensor]:
        """PaddleSeg's terms over ``data["label"]``, int64 [B, H, W], or this process's part."""
        labels = data["label"]
        share = self._share_in_training
        own = _own(share, labels.unsqueeze(1)).squeeze(1) if share else labels
        terms = loss_computation(logits_list=logits_list, labels=own, edges=None, losses=losses)
        if share is None:
            return terms
        return [term * (0.0 if share.is_empty else _weight(loss, own) / _weight(loss, labels))
                for term, loss in zip(terms, losses["types"])]

    @property
    def _share_in_training(self) -> Share | None:
        return self.share if self.training and self.share and self.share.ranks > 1 else None


def _own(share: Share, batch: Tensor) -> Tensor:
    """The share of [B, C, H, W]."""
    return batch.index_select(paddle.to_tensor(share.rows), axis=2)


def can_be_shared(loss: nn.Layer) -> bool:
    """Tell whether a loss is a mean over pixels, which the parts of several processes add up to."""
    return type(loss) is CrossEntropyLoss and loss.top_k_percent_pixels == 1.0


def _weight(loss: CrossEntropyLoss, labels: Tensor) -> float:
    """The divisor of the mean over ``labels``, none of which is ignored."""
    if loss.weight is None:
        return float(labels.size)
    return float(loss.weight.gather(labels.flatten()).sum())
