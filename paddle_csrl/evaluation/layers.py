"""Scoring many classification layers of one segmentor in one pass over the images."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.last_layer import put_back

#: Bytes of the logits at image size that are held at a time; more layers take another pass.
MAX_LOGITS = 2 << 30


def score_layers(builder: ZeroShotBuilder, segmentor: nn.Layer,
                 layers: Sequence[dict[str, np.ndarray]]) -> list[ZeroShotEvaluator]:
    """Score ``segmentor`` with each of ``layers``, with the counts of one by one scoring.

    Sliding windows and augmentation are scored one by one; everything else runs the segmentor
    once per image for all layers. Each has ``weight`` [C, D, 1, 1] and ``bias`` [C], if any; that
    of the segmentor itself may be changed.
    """
    test_config = builder.config.test_config
    if test_config.get("aug_eval") or test_config.get("is_slide"):
        return [_score_assembled(builder, segmentor, layer) for layer in layers]
    count = _layers_at_a_time(builder)
    return [evaluator for start in range(0, len(layers), count)
            for evaluator in _score_together(builder, segmentor, layers[start:start + count])]


def _layers_at_a_time(builder: ZeroShotBuilder) -> int:
    pixels = np.prod(builder.val_dataset[0]["img"].shape[-2:])
    return max(1, int(MAX_LOGITS // (4 * pixels * len(builder.classes))))


def _score_assembled(builder: ZeroShotBuilder, segmentor: nn.Layer,
                     layer: dict[str, np.ndarray]) -> ZeroShotEvaluator:
    put_back(builder.classification_layer(segmentor)[1], layer)
    return evaluate_as_configured(builder, segmentor, new_evaluator(builder))


def _score_together(builder: ZeroShotBuilder, segmentor: nn.Layer,
                    layers: Sequence[dict[str, np.ndarray]]) -> list[ZeroShotEvaluator]:
    """Let the classification layer answer with the logits of all layers, along the batch axis.

    What follows it in the segmentor and in PaddleSeg's inference treats every sample of a batch
    by itself, so that prediction k is that of layer k. Each layer is a convolution of the shape
    it has in the assembled model: one with the outputs of all could round differently.
    """
    _, convolution = builder.classification_layer(segmentor)
    copies = [copy.deepcopy(convolution) for _ in layers]
    for replacement, layer in zip(copies, layers):
        put_back(replacement, layer)

    def answer(_: nn.Layer, inputs: Any, output: paddle.Tensor) -> paddle.Tensor:
        return paddle.concat([replacement(*inputs) for replacement in copies])

    evaluators = _Evaluators([new_evaluator(builder) for _ in layers])
    hook = convolution.register_forward_post_hook(answer)
    try:
        evaluate_as_configured(builder, segmentor, evaluators,
                               title=f"evaluate {len(layers)} layers")
    finally:
        hook.remove()
    return evaluators.evaluators


class _Evaluators:
    """Evaluators in the place of one: prediction k of a batch counts in evaluator k."""

    def __init__(self, evaluators: list[ZeroShotEvaluator]):
        self.evaluators = evaluators

    def update(self, predictions: np.ndarray, label: np.ndarray) -> None:
        """Count int [K, 1, H, W] predictions of one image with ``label`` [1, 1, H, W]."""
        for evaluator, prediction in zip(self.evaluators, predictions):
            evaluator.update(prediction[None], label)

    @property
    def confusion(self) -> np.ndarray:
        """int64 [K, C, C]."""
        return np.stack([evaluator.confusion for evaluator in self.evaluators])

    @confusion.setter
    def confusion(self, counts: np.ndarray) -> None:
        for evaluator, own in zip(self.evaluators, counts):
            evaluator.confusion = own
