"""The classification layer that stage 3 trains."""

from typing import Optional

import numpy as np
import paddle
from paddle import nn
from paddleseg.cvlibs import manager

from paddle_csrl.registry import register


@register(manager.MODELS)
class PixelClassifier(nn.Layer):
    """A 1×1 convolution from features to class logits, the last layer of a segmentor.

    Args:
        feature_dim (int): feature channels D.
        num_classes (int): classes C, seen and unseen.
        origin (float32 array [D], optional): makes the layer linear about −origin: it is added
            to the features and the convolution has no bias.
        in_channels (int, optional): unused; injected by PaddleSeg's builder.

    Shape: features float32 [B, D, H, W] -> [logits float32 [B, C, H, W]].
    """

    def __init__(self, feature_dim: int, num_classes: int,
                 origin: Optional[np.ndarray] = None, in_channels: int = 3):
        super().__init__()
        self.conv = nn.Conv2D(feature_dim, num_classes, 1,
                              bias_attr=None if origin is None else False)
        self.register_buffer("origin", None if origin is None else
                             paddle.to_tensor(origin).reshape([-1, 1, 1]), persistable=False)

    def forward(self, features: paddle.Tensor) -> list:
        return [self.conv(features if self.origin is None else features + self.origin)]
