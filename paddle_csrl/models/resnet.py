"""Plain ResNet with dilated last stages, laid out as in torchvision.

PaddleSeg has the "vd" variants only; the released ZS3Net weights, which were pre-trained without
the unseen classes, need the plain one (He et al., CVPR 2016) with DeepLab's dilations.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.cvlibs import manager
from paddleseg.models import layers

from paddle_csrl.errors import UserError
from paddle_csrl.models.pretrained import load_pretrained
from paddle_csrl.registry import register

DataFormat = Literal["NCHW", "NHWC"]

#: Output stride to the (stride, dilation) of layers 1 to 4.
_STAGES = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
}
_EXPANSION = 4  # channels out of a bottleneck per channel of its 3x3 convolution


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the stride is on the 3x3 one.

    Args:
        in_channels (int): channels in.
        width (int): channels of the 3x3 convolution; four times as many come out.
        stride, dilation (int): of the 3x3 convolution.
        data_format (str): "NCHW" or "NHWC".
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1,
                 data_format: DataFormat = "NCHW"):
        super().__init__()
        out_channels = width * _EXPANSION
        conv = partial(nn.Conv2D, bias_attr=False, data_format=data_format)
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = layers.SyncBatchNorm(width, data_format=data_format)
        self.conv2 = conv(width, width, 3, stride=stride, padding=dilation, dilation=dilation)
        self.bn2 = layers.SyncBatchNorm(width, data_format=data_format)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = layers.SyncBatchNorm(out_channels, data_format=data_format)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, 1, stride=stride),
                layers.SyncBatchNorm(out_channels, data_format=data_format))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class DilatedResNet(nn.Layer):
    """ResNet backbone whose last stages trade stride for dilation.

    The parameters bear torchvision's names (``layer1.0.conv1.weight`` ...), with Paddle's
    ``_mean`` and ``_variance`` in batch norm (epsilon 1e-5). Every block of a dilated layer is
    dilated, as in DeepLab; torchvision leaves the first one as it was. The defaults are
    ZS3Net's.

    Args:
        output_stride (int): 8 or 16, the stride of the last feature map.
        multi_grid (Sequence[int]): three factors on the dilation of layer 4's blocks.
        in_channels (int): image channels; injected by PaddleSeg from the data set.
        pretrained (str, optional): path or URL of a ``.pdparams`` file that holds every tensor
            of the backbone; others in it, such as a classifier, are passed over.
        data_format (str): "NCHW" or "NHWC".

    Attributes:
        feat_channels (list[int]): channels of the four feature maps.

    Shape: image (N, in_channels, H, W) float32 -> list of four feature maps (N, C, H/4, W/4),
        (N, C, H/8, W/8), then H/16 or H/8 each, sizes rounded up.

    Raises:
        UserError: an unknown output stride, a bad multi-grid, or weights that do not fit.
    """

    #: Number of bottlenecks in layers 1 to 4.
    depths: tuple[int, int, int, int]

    def __init__(self, output_stride: int = 16, multi_grid: Sequence[int] = (1, 2, 4),
                 in_channels: int = 3, pretrained: str | None = None,
                 data_format: DataFormat = "NCHW"):
        super().__init__()
        name = type(self).__name__
        if output_stride not in _STAGES:
            raise UserError(f"{name}: output_stride is {output_stride!r}; write 8 or 16")
        if len(multi_grid) != self.depths[3] or not all(
                isinstance(factor, int) and factor > 0 for factor in multi_grid):
            raise UserError(f"{name}: multi_grid is {multi_grid!r}; write {self.depths[3]} "
                            f"positive integers, such as [1, 2, 4]")
        self.data_format = data_format
        self.conv1 = nn.Conv2D(in_channels, 64, 7, stride=2, padding=3, bias_attr=False,
                               data_format=data_format)
        self.bn1 = layers.SyncBatchNorm(64, data_format=data_format)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1, data_format=data_format)
        self.feat_channels: list[int] = []
        channels = 64
        for index, (stride, dilation) in enumerate(_STAGES[output_stride]):
            width, blocks = 64 * 2**index, []
            for factor in multi_grid if index == 3 else [1] * self.depths[index]:
                blocks.append(Bottleneck(channels, width, stride, dilation * factor, data_format))
                channels, stride = width * _EXPANSION, 1
            self.add_sublayer(f"layer{index + 1}", nn.Sequential(*blocks))
            self.feat_channels.append(channels)
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


@register(manager.BACKBONES)
class CSRLResNet50(DilatedResNet):
    """`DilatedResNet` of 50 layers; `ResNet50` is a name that later PaddleSeg versions take."""

    depths = (3, 4, 6, 3)


@register(manager.BACKBONES)
class CSRLResNet101(DilatedResNet):
    """`DilatedResNet` of 101 layers, the backbone of ZS3Net and CSRL."""

    depths = (3, 4, 23, 3)
