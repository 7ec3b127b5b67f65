"""PaddleSeg's SegFormer with less to compute.

Shape letters: N images, H × W pixels, C classes.
"""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.cvlibs import manager
from paddleseg.models import SegFormer

from paddle_csrl.errors import UserError
from paddle_csrl.registry import register


@register(manager.MODELS)
class FusedSegFormer(SegFormer):
    """SegFormer (Xie et al., NeurIPS 2021) whose head multiplies its weights, not its features.

    Of PaddleSeg's head the first layer, one linear map per feature map, and the second, a 1×1
    convolution over all of them, have only an interpolation between them, which is linear, too:
    their product is one matrix, and the maps are interpolated with the few channels that they
    have. Logits, gradients and the tensors of a checkpoint are PaddleSeg's, up to rounding.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): with ``feat_channels`` and four feature maps, the largest first.
        embedding_dim (int): channels of the features.
        align_corners (bool): as in ``paddle.nn.functional.interpolate``.
        pretrained (str, optional): path or URL of a ``.pdparams`` file with every tensor.

    Shape: image (N, 3, H, W) float32 -> [logit (N, C, H, W)].

    Raises:
        UserError: a backbone with another number of feature maps, or an impossible width.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, embedding_dim: int,
                 align_corners: bool = False, pretrained: str | None = None):
        if len(backbone.feat_channels) != 4:
            raise UserError(f"FusedSegFormer takes four feature maps, and "
                            f"{type(backbone).__name__} has {len(backbone.feat_channels)}; take "
                            f"another backbone, such as EfficientNetLite0")
        if type(embedding_dim) is not int or embedding_dim < 1:
            raise UserError(f"FusedSegFormer: embedding_dim is {embedding_dim!r}; write a whole "
                            f"number above 0, such as 256")
        super().__init__(num_classes, backbone, embedding_dim, align_corners, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone(x)
        first = [self.linear_c1.proj, self.linear_c2.proj, self.linear_c3.proj,
                 self.linear_c4.proj]
        fuse = self.linear_fuse
        # The convolution takes the deepest map first.
        second = fuse._conv.weight.squeeze([2, 3]).split(len(maps), axis=1)[::-1]
        weight = paddle.concat([a.weight @ b.t() for a, b in zip(first, second)])
        bias = paddle.add_n([b @ a.bias for a, b in zip(first, second)])
        resized = [self._resize(item, maps[0]) for item in maps[1:]]
        features = paddle.concat([maps[0], *resized], axis=1)
        features = F.conv2d(features, weight.t().unsqueeze([2, 3]), bias)
        features = fuse._relu(fuse._batch_norm(features))
        return [self._resize(self.linear_pred(self.dropout(features)), x)]

    def _resize(self, item: Tensor, like: Tensor) -> Tensor:
        size = paddle.shape(like)[2:]
        return F.interpolate(item, size, mode="bilinear", align_corners=self.align_corners)
