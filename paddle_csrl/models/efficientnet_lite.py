"""EfficientNet-Lite: photographs on a CPU.

EfficientNet without squeeze-excite and with ReLU6 (Tan and Le, ICML 2019; the Lite variants are
TensorFlow's, 2020). PaddleSeg has none, and its backbones of this size come without weights that
are on a package registry; `named_weights` says where those of this one are.
"""

import math
from typing import NamedTuple

import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddleseg.cvlibs import manager
from paddleseg.models import layers
from paddleseg.utils import utils

from paddle_csrl.errors import UserError
from paddle_csrl.models.named_weights import weights_file
from paddle_csrl.registry import register


class _Stage(NamedTuple):
    """Blocks of one size; ``channels`` and ``blocks`` are those of Lite0."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (_Stage(1, 3, 1, 1, 16), _Stage(2, 3, 2, 6, 24), _Stage(2, 5, 2, 6, 40),
           _Stage(3, 3, 2, 6, 80), _Stage(3, 5, 1, 6, 112), _Stage(4, 5, 2, 6, 192),
           _Stage(1, 3, 1, 6, 320))
_OUTPUTS = (1, 2, 4, 6)  # the last stages at strides 4, 8, 16 and 32
_STEM = 32  # channels, in all sizes
_EPSILON = 1e-3
_OUTPUT_STRIDES = (8, 16, 32)


class InvertedResidual(nn.Layer):
    """1×1 expansion, depthwise and 1×1 projection; the input is added where it fits the output.

    Args:
        in_channels, out_channels (int): channels in and out.
        expansion (int): channels of the depthwise convolution per channel in; 1: no expansion.
        kernel, stride, dilation (int): of the depthwise convolution, padded by half its width.
        param_attr (ParamAttr, optional): of all parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int,
                 stride: int = 1, dilation: int = 1, param_attr: ParamAttr | None = None):
        super().__init__()
        width = in_channels * expansion
        self.expand_conv = None
        if expansion != 1:
            self.expand_conv = _conv(in_channels, width, 1, param_attr)
            self.bn0 = _norm(width, param_attr)
        self.depthwise_conv = nn.Conv2D(width, width, kernel, stride, dilation * (kernel // 2),
                                        dilation, groups=width, weight_attr=param_attr,
                                        bias_attr=False)
        self.bn1 = _norm(width, param_attr)
        self.project_conv = _conv(width, out_channels, 1, param_attr)
        self.bn2 = _norm(out_channels, param_attr)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand_conv is not None:
            y = F.relu6(self.bn0(self.expand_conv(y)))
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite(nn.Layer):
    """EfficientNet-Lite without its classifier.

    With a smaller ``output_stride`` the later stages trade stride for dilation so that pretrained
    weights keep their meaning: every second (or fourth) pixel is what it is without.

    Args:
        output_stride (int): 8, 16 or 32, the stride of the last feature maps.
        relative_lr (float, optional): factor on the learning rate of the backbone. 0 freezes it:
            its weights and the statistics of its batch norm stay as loaded, and training needs no
            gradient through it. None for 0 with ``pretrained`` and 1 without.
        in_channels (int): image channels; injected by PaddleSeg from the data set.
        pretrained (str, optional): path or URL of a ``.pdparams`` file, or the name of weights in
            ``named_weights``, such as ``efficientnet_lite0``.

    Attributes:
        feat_channels (list[int]): channels of the four feature maps.

    Shape: image (N, in_channels, H, W) float32, normalised with ``input_mean`` and ``input_std``
        -> list of four feature maps (N, C, H/4, W/4), H/8, H/16 and H/32, but not beyond
        ``output_stride``; sizes rounded up.

    Raises:
        UserError: an unknown output stride, a negative or infinite ``relative_lr``, or weights
            that are not there.
    """

    #: Factors on Lite0's channels and numbers of blocks.
    width: float
    depth: float
    #: What ``Normalize`` needs for the released weights: (x − 127) / 128 of 8-bit RGB.
    input_mean = (127 / 255,) * 3
    input_std = (128 / 255,) * 3

    def __init__(self, output_stride: int = 32, relative_lr: float | None = None,
                 in_channels: int = 3, pretrained: str | None = None):
        super().__init__()
        name = type(self).__name__
        if output_stride not in _OUTPUT_STRIDES:
            raise UserError(f"{name}: output_stride is {output_stride!r}; write 8, 16 or 32")
        if relative_lr is None:
            relative_lr = 0 if pretrained else 1
        if not (type(relative_lr) in (int, float) and 0 <= relative_lr < math.inf):
            raise UserError(f"{name}: relative_lr is {relative_lr!r}; write a number from 0, which "
                            f"freezes the backbone")
        self.is_frozen = relative_lr == 0
        attr = ParamAttr(learning_rate=relative_lr, trainable=not self.is_frozen)
        self.conv_stem = _conv(in_channels, _STEM, 3, attr, stride=2)
        self.bn0 = _norm(_STEM, attr)
        self.blocks = nn.LayerList()
        self._ends: list[int] = []  # the number of blocks up to the end of each stage
        channels, reached, dilation = _STEM, 2, 1
        for index, stage in enumerate(_STAGES):
            is_outer = index in (0, len(_STAGES) - 1)  # these keep their one block in all sizes
            count = stage.blocks if is_outer else math.ceil(stage.blocks * self.depth)
            stride, growth = stage.stride, 1
            if reached * stride > output_stride:
                stride, growth = 1, stride
            reached *= stride
            for _ in range(count):
                out_channels = _round(stage.channels * self.width)
                self.blocks.append(InvertedResidual(channels, out_channels, stage.expansion,
                                                    stage.kernel, stride, dilation, attr))
                # The first block without its stride still sees pixels as close as it ever did.
                channels, stride, dilation, growth = out_channels, 1, dilation * growth, 1
            self._ends.append(len(self.blocks))
        self.feat_channels = [_round(_STAGES[index].channels * self.width) for index in _OUTPUTS]
        if pretrained is not None:
            utils.load_pretrained_model(self, weights_file(pretrained))

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.is_frozen:
            for layer in self.sublayers():  # a model in training has put all its layers into it
                layer.training = False
        x = F.relu6(self.bn0(self.conv_stem(x)))
        wanted, features = [self._ends[index] for index in _OUTPUTS], []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in wanted:
                features.append(x)
        return features


def _conv(in_channels: int, out_channels: int, kernel: int, attr: ParamAttr | None,
          stride: int = 1) -> nn.Conv2D:
    return nn.Conv2D(in_channels, out_channels, kernel, stride, kernel // 2, weight_attr=attr,
                     bias_attr=False)


def _norm(channels: int, attr: ParamAttr | None) -> nn.Layer:
    return layers.SyncBatchNorm(channels, epsilon=_EPSILON, weight_attr=attr, bias_attr=attr)


def _round(channels: float) -> int:
    """The multiple of 8 nearest to ``channels``, but not less than 90 % of them."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@register(manager.BACKBONES)
class EfficientNetLite0(EfficientNetLite):
    """`EfficientNetLite` of 3.0 M parameters, made for 224 × 224 pixels."""

    width, depth = 1.0, 1.0


@register(manager.BACKBONES)
class EfficientNetLite1(EfficientNetLite):
    """`EfficientNetLite` of 3.8 M parameters, made for 240 × 240 pixels."""

    width, depth = 1.0, 1.1


@register(manager.BACKBONES)
class EfficientNetLite2(EfficientNetLite):
    """`EfficientNetLite` of 4.4 M parameters, made for 260 × 260 pixels."""

    width, depth = 1.1, 1.2


@register(manager.BACKBONES)
class EfficientNetLite3(EfficientNetLite):
    """`EfficientNetLite` of 6.5 M parameters, made for 280 × 280 pixels."""

    width, depth = 1.2, 1.4


@register(manager.BACKBONES)
class EfficientNetLite4(EfficientNetLite):
    """`EfficientNetLite` of 11.3 M parameters, made for 300 × 300 pixels."""

    width, depth = 1.4, 1.8
