"""A backbone small enough to train on a CPU within minutes."""

import paddle
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models import layers

from paddle_csrl.registry import register


@register(manager.BACKBONES)
class CSRLTinyNet(nn.Layer):
    """Plain 3×3 convolutions, two per stage, for demonstrations, tests and small images.

    Args:
        width (int): channels of the first stage; the later ones have 2 and 4 times as many.
        in_channels (int): channels of the image.

    Shape: image float32 [B, in_channels, H, W] -> features at stride 4 and 8,
    ``feat_channels`` wide.
    """

    def __init__(self, width: int = 16, in_channels: int = 3):
        super().__init__()
        self.low = nn.Sequential(
            _conv(in_channels, width, stride=2), _conv(width, width),
            _conv(width, 2 * width, stride=2), _conv(2 * width, 2 * width))
        self.high = nn.Sequential(
            _conv(2 * width, 4 * width, stride=2), _conv(4 * width, 4 * width),
            _conv(4 * width, 4 * width, dilation=2))
        self.feat_channels = [2 * width, 4 * width]

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        low = self.low(x)
        return [low, self.high(low)]


def _conv(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Layer:
    return layers.ConvBNReLU(in_channels, out_channels, 3, padding=dilation, stride=stride,
                             dilation=dilation, bias_attr=False)
