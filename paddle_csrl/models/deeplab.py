"""DeepLabV3+ with plain convolutions, the segmentor of ZS3Net and CSRL.

PaddleSeg's ``DeepLabV3P`` has separable convolutions in ASPP and decoder, which the released
ZS3Net weights do not fit. Shape letters: N images, H × W pixels, C classes.
"""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.cvlibs import manager
from paddleseg.models import layers

from paddle_csrl.models.pretrained import load_pretrained
from paddle_csrl.registry import register

_LOW_LEVEL_CHANNELS = 48
_DECODER_CHANNELS = 256


@register(manager.MODELS)
class DeepLabV3PPlain(nn.Layer):
    """DeepLabV3+ (Chen et al., ECCV 2018) as ZS3Net has it.

    Tensors bear the names of ZS3Net's released weights (``aspp.aspp1.atrous_conv.weight`` ...),
    with Paddle's ``_mean`` and ``_variance`` in batch norm; on ``CSRLResNet101`` the two differ
    in nothing else. The classification layer is ``decoder.pred_conv``; the visual feature that
    feeds it has 256 channels at a quarter of the image's size.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): with ``feat_channels`` and a list of feature maps, such as
            ``CSRLResNet101``.
        backbone_indices (Sequence[int]): the feature maps for the decoder and for ASPP.
        aspp_ratios (Sequence[int]): dilations of the ASPP branches; 1 stands for a 1×1
            convolution.
        aspp_out_channels (int): channels of each branch.
        align_corners (bool): as in ``paddle.nn.functional.interpolate``; ZS3Net's is true.
        pretrained (str, optional): path or URL of a ``.pdparams`` file with every tensor. Only
            the classification layer may be missing or have another number of classes; it then
            keeps its random start.

    Shape: image (N, 3, H, W) float32 -> [logit (N, C, H, W)].

    Raises:
        UserError: weights that do not fit.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer,
                 backbone_indices: Sequence[int] = (0, 3),
                 aspp_ratios: Sequence[int] = (1, 6, 12, 18), aspp_out_channels: int = 256,
                 align_corners: bool = True, pretrained: str | None = None):
        super().__init__()
        self.backbone, self.align_corners = backbone, align_corners
        self.backbone_indices = tuple(backbone_indices)
        low_level, high_level = (backbone.feat_channels[index] for index in backbone_indices)
        self.aspp = _ASPP(high_level, aspp_ratios, aspp_out_channels, align_corners)
        self.decoder = _Decoder(low_level, aspp_out_channels, num_classes, align_corners)
        if pretrained is not None:
            load_pretrained(self, pretrained, optional=("decoder.pred_conv.weight",
                                                        "decoder.pred_conv.bias"))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.backbone(x)
        low_level, high_level = (features[index] for index in self.backbone_indices)
        logit = self.decoder(self.aspp(high_level), low_level)
        return [_resize(logit, x, self.align_corners)]


class _AtrousBranch(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, dilation: int):
        super().__init__()
        size, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2D(in_channels, out_channels, size, padding=padding,
                                     dilation=dilation, bias_attr=False)
        self.bn = layers.SyncBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class _ASPP(nn.Layer):
    """Atrous branches and image pooling side by side, then a 1×1 convolution over them."""

    def __init__(self, in_channels: int, ratios: Sequence[int], out_channels: int,
                 align_corners: bool):
        super().__init__()
        self.align_corners = align_corners
        self.branches = [f"aspp{number}" for number in range(1, len(ratios) + 1)]
        for name, ratio in zip(self.branches, ratios):
            self.add_sublayer(name, _AtrousBranch(in_channels, out_channels, ratio))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2D(1), nn.Conv2D(in_channels, out_channels, 1, bias_attr=False),
            layers.SyncBatchNorm(out_channels), nn.ReLU())
        self.conv1 = nn.Conv2D(out_channels * (len(ratios) + 1), out_channels, 1, bias_attr=False)
        self.bn1 = layers.SyncBatchNorm(out_channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _resize(self.global_avg_pool(x), x, self.align_corners)
        branches = [getattr(self, name)(x) for name in self.branches]
        x = paddle.concat([*branches, pooled], axis=1)
        return self.dropout(F.relu(self.bn1(self.conv1(x))))


class _Decoder(nn.Layer):
    """ASPP's output beside low-level features, two 3×3 convolutions and the classification."""

    def __init__(self, low_level_channels: int, in_channels: int, num_classes: int,
                 align_corners: bool):
        super().__init__()
        self.align_corners = align_corners
        self.conv1 = nn.Conv2D(low_level_channels, _LOW_LEVEL_CHANNELS, 1, bias_attr=False)
        self.bn1 = layers.SyncBatchNorm(_LOW_LEVEL_CHANNELS)
        self.last_conv = nn.Sequential(
            *self._conv(in_channels + _LOW_LEVEL_CHANNELS, dropout=0.5),
            *self._conv(_DECODER_CHANNELS, dropout=0.1))
        self.pred_conv = nn.Conv2D(_DECODER_CHANNELS, num_classes, 1)

    @staticmethod
    def _conv(in_channels: int, dropout: float) -> list[nn.Layer]:
        return [nn.Conv2D(in_channels, _DECODER_CHANNELS, 3, padding=1, bias_attr=False),
                layers.SyncBatchNorm(_DECODER_CHANNELS), nn.ReLU(), nn.Dropout(dropout)]

    def forward(self, x: Tensor, low_level: Tensor) -> Tensor:
        low_level = F.relu(self.bn1(self.conv1(low_level)))
        x = _resize(x, low_level, self.align_corners)
        return self.pred_conv(self.last_conv(paddle.concat([x, low_level], axis=1)))


def _resize(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    """``x`` bilinearly resized to the height and width of ``like``."""
    return F.interpolate(x, paddle.shape(like)[2:], mode="bilinear", align_corners=align_corners)
