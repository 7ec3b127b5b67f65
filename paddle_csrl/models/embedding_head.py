"""A segmentor whose features also learn where the embeddings of the classes lie."""

from typing import Any, cast

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.core.train import loss_computation
from paddleseg.models.losses import CrossEntropyLoss

from paddle_csrl.models.projection_segmentor import HIDDEN, exchange, sublayer


class EmbeddingHead(nn.Layer):
    """A segmentor in training, with a second head that is dropped afterwards.

    The head is SPNet's (Xian et al., CVPR 2019): a projection p of the features that the
    classification layer takes, and a softmax over its products with the embeddings e_c of the
    seen classes. Features from which embeddings can be read are, the other way round, such that a
    class that was never seen has its place where its embedding says. The segmentor itself, its
    logits and its weights are those of stock PaddleSeg.

    Letters: C classes, D feature channels, d_w embedding dimensions.

    Args:
        segmentor (nn.Layer): any PaddleSeg segmentor; it is taken over.
        layer_name (str): dotted name of its classification layer.
        embeddings (float32 array [C, d_w]): the class embeddings.
        seen_ids (int sequence [S]): ids of the seen classes; of the others nothing is used.
        weight (float): above 0, of the head's cross entropy in the loss.
        ignore_index (int): label of pixels without a class.

    Shape: images float32 [B, 3, H, W] -> the segmentor's outputs; in training behind them the
    products e_c·p, float32 [B, C, H, W].
    """

    def __init__(self, segmentor: nn.Layer, layer_name: str, embeddings: np.ndarray,
                 seen_ids: np.ndarray, weight: float, ignore_index: int = 255):
        super().__init__()
        self.segmentor, self.layer_name, self.weight = segmentor, layer_name, weight
        self.num_classes = len(embeddings)
        layer = cast(nn.Conv2D, sublayer(segmentor, layer_name))
        exchange(segmentor, layer_name, _TwoScores(layer, embeddings))
        hidden = np.full([1, self.num_classes, 1, 1], HIDDEN, np.float32)
        hidden[:, seen_ids] = 0
        self.register_buffer("hidden", paddle.to_tensor(hidden), persistable=False)
        self.cross_entropy = CrossEntropyLoss(ignore_index=ignore_index)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        first, *others = self.segmentor(images)
        if not self.training:
            return [first, *others]
        logits, scores = first.split([self.num_classes, self.num_classes], axis=1)
        return [logits, *others, scores + self.hidden]

    def loss_computation(self, logits_list: list[paddle.Tensor], losses: dict,
                         data: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
        """Compute the terms of the segmentor, and behind them that of the head."""
        *outputs, scores = logits_list
        labels = data["label"].astype("int64")
        if hasattr(self.segmentor, "loss_computation"):
            terms = self.segmentor.loss_computation(outputs, losses, data)
        else:
            edges = data["edge"].astype("int64") if "edge" in data else None
            terms = loss_computation(logits_list=outputs, labels=labels, edges=edges,
                                     losses=losses)
        return [*terms, self.weight * self.cross_entropy(scores, labels)]

    def stock(self) -> nn.Layer:
        """Take the head off and return the segmentor."""
        layer = cast(_TwoScores, sublayer(self.segmentor, self.layer_name))
        exchange(self.segmentor, self.layer_name, layer.layer)
        return self.segmentor


class _TwoScores(nn.Layer):
    """In place of a classification layer: [B, D, h, w] -> [B, C, h, w], in training [B, 2 C, h, w].

    What follows resizes both alike, which commutes with the products.
    """

    def __init__(self, layer: nn.Conv2D, embeddings: np.ndarray):
        super().__init__()
        self.layer = layer
        self.projection = nn.Conv2D(layer.weight.shape[1], embeddings.shape[1], 1)
        self.register_buffer("embeddings", paddle.to_tensor(embeddings[:, :, None, None]),
                             persistable=False)

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        logits = self.layer(features)
        if not self.training:
            return logits
        scores: Any = F.conv2d(self.projection(features), self.embeddings)
        return paddle.concat([logits, scores], axis=1)
