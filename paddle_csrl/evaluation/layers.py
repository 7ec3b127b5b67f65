"""Scoring many classification layers of one segmentor in one pass over the images."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.evaluation.sweep import CalibrationSweep, MarginSample
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.last_layer import find_classification_layer, put_back

#: Bytes of the logits at image size that are held at a time; more layers take another pass.
MAX_LOGITS = 2 << 30

#: Taken off the logits of classes, in logit units, that are to have no chance.
EXTREME = 1e4

#: Images, and pixels of each, whose margins are looked at where there is no feature bank.
_SAMPLED_IMAGES, _SAMPLED_PIXELS = 32, 16384


def score_layers(builder: ZeroShotBuilder, segmentor: nn.Layer,
                 layers: Sequence[dict[str, np.ndarray]],
                 shifts: Sequence[Sequence[float]] = ()) -> list[list[ZeroShotEvaluator]]:
    """Score ``segmentor`` with each of ``layers``, with the counts of one by one scoring.

    The segmentor runs once per image for all layers; with sliding windows once for each. What a
    layer scores with numbers taken off its seen logits is told by its logits, up to their
    rounding. With augmentation, or where ``zero_shot.classifier_layer`` names a layer whose
    outputs are not the logits up to resizing, every layer and every number is scored by itself.

    Args:
        builder: of the config.
        segmentor: its classification layer may be changed.
        layers: each ``weight`` [C, D, 1, 1] and ``bias`` [C], if any.
        shifts: numbers for each layer, in logit units and in rising order; a layer with none is
            scored as it is and no more. It needs a ``bias`` to have any.

    Returns:
        For each layer the counts as it is and, if it has shifts, with seen classes alone, at
        every shift, and with unseen classes alone.
    """
    shifts = shifts or [()] * len(layers)
    test_config = builder.config.test_config
    if test_config.get("aug_eval") or not _makes_the_logits(builder, segmentor):
        return [[_score_assembled(builder, segmentor, one)
                 for one in (layer, *_shifted(builder, layer, own))]
                for layer, own in zip(layers, shifts)]
    count = 1 if test_config.get("is_slide") else _layers_at_a_time(builder)
    return [scores for start in range(0, len(layers), count)
            for scores in _score_together(builder, segmentor, layers[start:start + count],
                                          shifts[start:start + count])]


def sampled_margins(builder: ZeroShotBuilder, segmentor: nn.Layer) -> list[np.ndarray]:
    """Compute margins of ``segmentor`` on some validation images, float64 [P_s] by seen class.

    A margin is that of the best logit of a seen class above that of an unseen one. Where the
    images show no seen class it is one margin of 0: nothing costs anything.
    """
    dataset = builder.val_dataset
    images = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_IMAGES).astype(int))
    sample = MarginSample(builder.classes.is_unseen, _SAMPLED_PIXELS)
    evaluate_as_configured(builder, segmentor, new_evaluator(builder),
                           paddle.io.Subset(dataset, images.tolist()), aug_eval=False, alone=True,
                           on_logits=sample.update, title="margins")
    return sample.by_class() or [np.zeros(1)]


def _layers_at_a_time(builder: ZeroShotBuilder) -> int:
    pixels = np.prod(builder.val_dataset[0]["img"].shape[-2:])
    return max(1, int(MAX_LOGITS // (4 * pixels * len(builder.classes))))


def _makes_the_logits(builder: ZeroShotBuilder, segmentor: nn.Layer) -> bool:
    """Tell whether the logits are the outputs of the last layer, up to resizing, and no more.

    They are unless it has its name from the config. KNet also makes kernels of its weights.
    """
    named = builder.config.settings.zero_shot.classifier_layer
    with contextlib.suppress(UserError):
        return not named or named == find_classification_layer(
            segmentor, len(builder.classes))[0]
    return False


def _shifted(builder: ZeroShotBuilder, layer: dict[str, np.ndarray],
             shifts: Sequence[float]) -> Iterator[dict[str, np.ndarray]]:
    """Yield ``layer`` at both ends and at all ``shifts`` between them; nothing without any.

    At the ends the logits that are left to choose from keep all of their digits.
    """
    seen, unseen = builder.classes.seen_ids, builder.classes.unseen_ids
    moves = [(unseen, EXTREME), *((seen, shift) for shift in shifts), (seen, EXTREME)]
    for class_ids, taken_off in moves if len(shifts) else ():
        bias = layer["bias"].copy()
        bias[class_ids] -= taken_off
        yield {**layer, "bias": bias}


def _score_assembled(builder: ZeroShotBuilder, segmentor: nn.Layer,
                     layer: dict[str, np.ndarray]) -> ZeroShotEvaluator:
    put_back(builder.classification_layer(segmentor)[1], layer)
    return evaluate_as_configured(builder, segmentor, new_evaluator(builder))


def _score_together(builder: ZeroShotBuilder, segmentor: nn.Layer,
                    layers: Sequence[dict[str, np.ndarray]],
                    shifts: Sequence[Sequence[float]]) -> list[list[ZeroShotEvaluator]]:
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

    evaluators = _Evaluators(builder, shifts)
    hook = convolution.register_forward_post_hook(answer)
    try:
        evaluate_as_configured(builder, segmentor, evaluators, on_logits=evaluators.sweep,
                               title=f"evaluate {len(layers)} layers")
    finally:
        hook.remove()
    return evaluators.scores()


class _Evaluators:
    """Evaluators in the place of one: sample k of a batch counts in evaluator and sweep k."""

    def __init__(self, builder: ZeroShotBuilder, shifts: Sequence[Sequence[float]]):
        self.builder = builder
        self.evaluators = [new_evaluator(builder) for _ in shifts]
        self.sweeps = {place: CalibrationSweep(builder.classes.is_unseen, own,
                                               builder.val_dataset.ignore_index)
                       for place, own in enumerate(shifts) if len(own)}

    def update(self, predictions: np.ndarray, label: np.ndarray) -> None:
        """Count int [K, 1, H, W] predictions of one image with ``label`` [1, 1, H, W]."""
        for evaluator, prediction in zip(self.evaluators, predictions):
            evaluator.update(prediction[None], label)

    def sweep(self, logits: paddle.Tensor, label: np.ndarray) -> None:
        """Count float [K, C, H, W] logits of one image with ``label`` [1, 1, H, W]."""
        for place, sweep in self.sweeps.items():
            sweep.update(logits[place:place + 1], label)

    def scores(self) -> list[list[ZeroShotEvaluator]]:
        """Return the scores of all layers, as ``score_layers`` does."""
        return [[evaluator, *map(self._holding, (
                    self.sweeps[place].confusions() if place in self.sweeps else ()))]
                for place, evaluator in enumerate(self.evaluators)]

    def _holding(self, confusion: np.ndarray) -> ZeroShotEvaluator:
        evaluator = new_evaluator(self.builder)
        evaluator.confusion = confusion
        return evaluator

    @property
    def confusion(self) -> np.ndarray:
        """int64 [N, C, C]: all counts, those of the evaluators first."""
        return np.concatenate([np.stack([item.confusion for item in self.evaluators]),
                               *(sweep.counts for sweep in self.sweeps.values())])

    @confusion.setter
    def confusion(self, counts: np.ndarray) -> None:
        lengths = [len(sweep.counts) for sweep in self.sweeps.values()]
        own, *swept = np.split(counts, np.cumsum([len(self.evaluators), *lengths])[:-1])
        for evaluator, confusion in zip(self.evaluators, own):
            evaluator.confusion = confusion
        for sweep, confusions in zip(self.sweeps.values(), swept):
            sweep.counts = confusions
