"""A segmentor that scores classes by their embeddings, as SPNet and SegDeViSE do."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_csrl.errors import UserError
from paddle_csrl.losses.functional import in_full_precision

#: Added to the logits of unseen classes in training: exp of it is 0, and half precision holds it.
HIDDEN = -1.0e4


class ProjectionSegmentor(nn.Layer):
    """A segmentor whose classification layer is a projection onto fixed class embeddings.

    Letters: C classes, D feature channels, d_w embedding dimensions. The layer D -> C becomes a
    1×1 convolution D -> d_w, the projection p, followed by the embeddings e_c:

    - ``dot`` (SPNet, Xian et al., CVPR 2019): logits e_c·p, for a softmax.
    - ``cosine`` (SegDeViSE: DeViSE, Frome et al., NeurIPS 2013, for every pixel): in training
      cos(e_c, p) of the projection resized to the image, for a regression; otherwise the dot
      products with the embeddings at length 1.

    In training, unseen classes are hidden: their scores lie so low that no softmax sees them, and
    neither the loss nor a gradient depends on their embeddings.

    Bilinear resizing commutes with the dot product, so that ``fold`` makes a stock segmentor of
    either. For the cosine it keeps the decision as well: the largest e_c·p is the largest
    cos(e_c, p), p being the resized projection that training regressed. Cosines taken before
    resizing would decide otherwise where neighbours differ in length; they are not used.

    Args:
        segmentor (nn.Layer): any PaddleSeg segmentor; it is taken over.
        layer_name (str): dotted name of its classification layer.
        embeddings (float32 array [C, d_w]): the class embeddings.
        seen_ids (int sequence [S]): ids of the seen classes.
        similarity (str): ``dot`` or ``cosine``, as above.

    Shape: images float32 [B, 3, H, W] -> list of logits float32 [B, C, H, W], the segmentor's
    own outputs, of which the first is the projection's.

    Raises:
        UserError: an embedding of length 0 without a direction.
    """

    def __init__(self, segmentor: nn.Layer, layer_name: str, embeddings: np.ndarray,
                 seen_ids: Sequence[int], similarity: str = "dot"):
        super().__init__()
        if similarity == "cosine":
            embeddings = _directions(embeddings)
        self.segmentor, self.layer_name, self.seen_ids = segmentor, layer_name, list(seen_ids)
        self.similarity, self.num_classes = similarity, len(embeddings)
        layer = cast(nn.Conv2D, sublayer(segmentor, layer_name))
        exchange(segmentor, layer_name, _Projection(layer, embeddings, similarity == "cosine"))
        hidden = np.full([1, len(embeddings), 1, 1], HIDDEN, np.float32)
        hidden[:, self.seen_ids] = 0
        self.register_buffer("hidden", paddle.to_tensor(hidden), persistable=False)

    @property
    def layer(self) -> "_Projection":
        """The projection that stands in the place of the classification layer."""
        return cast(_Projection, sublayer(self.segmentor, self.layer_name))

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        scores, *auxiliary = self.segmentor(images)
        if not self.training:
            return [scores, *auxiliary]
        if self.similarity == "cosine":
            scores = cosines(scores, self.layer.embeddings)
        return [output + self.hidden if output.shape[1] == self.num_classes else output
                for output in (scores, *auxiliary)]

    def require_bias(self, calibration: float | str) -> None:
        """Raise ``UserError`` if the segmentor's layer has no bias to take a ``calibration``."""
        if calibration and self.layer.projection.bias is None:
            raise UserError(f"`classifier.calibration: {calibration}` needs a bias, which the "
                            f"layer {self.layer_name} of {type(self.segmentor).__name__} has "
                            f"not; set it to 0")

    def fold(self, calibration: float = 0.0) -> nn.Layer:
        """Turn this model into a stock segmentor that decides the same, and return that.

        Raises:
            UserError: as ``folded_layer``.
        """
        exchange(self.segmentor, self.layer_name, self.folded_layer(calibration))
        return self.segmentor

    def folded_layer(self, calibration: float = 0.0) -> nn.Conv2D:
        """Compute the stock last layer that decides the same.

        e_c·(W x + b) = (E W) x + E b. The calibration δ is taken off the logits of seen classes
        (calibrated stacking), in units of the dot product, so that it ends in the bias.

        Raises:
            UserError: δ is not 0 and the segmentor's layer has no bias to take it.
        """
        self.require_bias(calibration)
        projection = self.layer.projection
        embeddings = self.layer.embeddings.numpy()[:, :, 0, 0].astype(np.float64)
        weight = embeddings @ projection.weight.numpy()[:, :, 0, 0]
        folded = nn.Conv2D(weight.shape[1], weight.shape[0], 1,
                           bias_attr=None if projection.bias is not None else False)
        folded.weight.set_value(weight.astype(np.float32)[:, :, None, None])
        if projection.bias is not None:
            bias = embeddings @ projection.bias.numpy()
            bias[self.seen_ids] -= calibration
            folded.bias.set_value(bias.astype(np.float32))
        return folded


class _Projection(nn.Layer):
    """In place of a classification layer: [B, D, h, w] -> scores [B, C, h, w].

    With ``regresses`` the projection itself [B, d_w, h, w] is the output in training, where its
    length after resizing is wanted.
    """

    def __init__(self, layer: nn.Conv2D, embeddings: np.ndarray, regresses: bool):
        super().__init__()
        self.projection = nn.Conv2D(layer.weight.shape[1], embeddings.shape[1], 1,
                                    bias_attr=None if layer.bias is not None else False)
        self.regresses = regresses
        self.register_buffer("embeddings", paddle.to_tensor(embeddings[:, :, None, None]),
                             persistable=False)

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        projected = self.projection(features)
        if self.training and self.regresses:
            return projected
        return F.conv2d(projected, self.embeddings)


@in_full_precision
def cosines(projected: paddle.Tensor, embeddings: paddle.Tensor) -> paddle.Tensor:
    """Cosines between the vectors at every pixel and the embeddings, which have length 1.

    A vector of (almost) no length has no direction: cosine 0, with gradient 0.

    Shape: projected [B, d_w, H, W], embeddings [C, d_w, 1, 1] -> [B, C, H, W] in [-1, 1].
    """
    classes, width = embeddings.shape[:2]
    ones = paddle.ones([classes, width, 1, 1], projected.dtype)
    # Sums over channels and copies to them as products: Paddle's own are slow on CPUs.
    squared = F.conv2d(paddle.square(projected), ones[:1])
    real = squared > 1.0e-12
    inverse = paddle.where(real, squared, paddle.ones_like(squared)).rsqrt()
    inverse = F.conv2d(inverse * real.astype(squared.dtype), ones[:, :1])
    return F.conv2d(projected, embeddings) * inverse


def _directions(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not norms.all():
        raise UserError(f"`projection.similarity: cosine` needs embeddings with a direction; that "
                        f"of class id {int(norms.argmin())} is zero in `zero_shot.embeddings`")
    return embeddings / norms


def sublayer(model: nn.Layer, path: str) -> nn.Layer:
    """The layer at the dotted ``path``, ``model`` itself at an empty one."""
    return dict(model.named_sublayers(include_self=True))[path]


def exchange(model: nn.Layer, path: str, layer: nn.Layer) -> None:
    """Put ``layer`` in the place of the one at the dotted ``path``."""
    parent, _, name = path.rpartition(".")
    sublayer(model, parent).add_sublayer(name, layer)
