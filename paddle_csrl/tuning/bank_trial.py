"""One trial: generator and layer trained without some seen classes, scored on rows held back.

Letters: S seen classes, H of them held out; R rows to score; D feature channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank, Scale
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.stages.calibration import Calibration, cost_calibration, unit_direction
from paddle_csrl.stages.classifier import CLOSED_FORM, ClassifierSection, train_classifier
from paddle_csrl.stages.closed_form import closed_form_layer
from paddle_csrl.stages.generator import (
    GeneratorSection,
    generate,
    train_generator,
    unseen_prototypes,
)
from paddle_csrl.stages.seen_cost import settled
from paddle_csrl.tuning.seen_classes import SeenClasses

#: Share of each class's rows that no training sees.
SCORE_SHARE = 0.25
#: The scores of a trial, in the order in which ``bank_trial`` returns them.
SCORES = ("seen_miou", "unseen_miou", "hiou")


class Fold(NamedTuple):
    """The data of the trials that hold out the same classes.

    Attributes:
        held_out (int64 [H]): the classes that stand in for unseen ones.
        embeddings (float32 [S, d_w]): of all classes.
        bank (FeatureBank): training rows, standardized; held-out classes have none.
        features (float32 [R, D]), labels (int64 [R]): rows to score, of all classes, in the
            same scale.
        pixel_counts (int64 [S]): how many training pixels each class has.
        origin (float32 [D]): for a layer without bias, as ``PixelClassifier``; else None.
        calibrated (float32 [R]): how much of a calibration reaches each row: 1, unless the
            layer has no bias to put it into.
    """
    held_out: np.ndarray
    embeddings: np.ndarray
    bank: FeatureBank
    features: np.ndarray
    labels: np.ndarray
    pixel_counts: np.ndarray
    origin: np.ndarray | None
    calibrated: np.ndarray


def make_fold(seen: SeenClasses, held_out: np.ndarray, seed: int) -> Fold:
    """Split every class's rows into those to train on and those to score, and standardize.

    Args:
        seen: the classes.
        held_out: int64 [H], classes whose training rows are left out. The scale is that of
            the training rows of the other classes.
        seed: of the split, which is the same for every ``held_out``.
    """
    labels = np.repeat(np.arange(len(seen.names)), seen.bank.counts)
    scored = _scored_rows(seen.bank.counts, seed)
    trained = ~scored & ~np.isin(labels, held_out)
    bank = FeatureBank(seen.bank.features[trained],
                       np.bincount(labels[trained], minlength=len(seen.names)),
                       np.where(np.isin(np.arange(len(seen.names)), held_out), 0,
                                seen.bank.pixel_counts))
    scale = bank.scale() if seen.normalizes else Scale.identity(bank.feature_dim)
    bank, raw = bank.scaled(scale), seen.bank.features[scored]
    calibrated = (np.ones(len(raw), np.float32) if seen.has_bias
                  else raw @ unit_direction(bank, scale))
    return Fold(held_out, seen.embeddings, bank, (raw - scale.mean) / scale.deviation,
                labels[scored], seen.bank.pixel_counts,
                None if seen.has_bias else scale.origin, calibrated)


def _scored_rows(counts: np.ndarray, seed: int) -> np.ndarray:
    """bool [sum of counts]: a random ``SCORE_SHARE`` of every class's rows, one at least."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(count) < max(1, int(SCORE_SHARE * count))
                           for count in counts])


def bank_trial(fold: Fold, generator: GeneratorSection, classifiers: Sequence[ClassifierSection],
               calibrations: Sequence[Calibration], seed: int) -> np.ndarray:
    """Train a generator, a layer per classifier section, and score them.

    Args:
        fold: the data.
        generator: the section ``generator`` of a config.
        classifiers: K sections ``classifier``; their ``calibration`` is not looked at.
        calibrations: V values, each tried on every trained layer.
        seed: of both trainings.

    Returns:
        float64 [K, V, 3]: ``SCORES`` as fractions, "unseen" being the held-out classes.
    """
    with paddle.utils.unique_name.guard():
        task = train_generator(generator, fold.embeddings, fold.bank, fold.held_out, seed)
        layers = _fit_layers(task, classifiers, fold, seed)
    calibrations = [settled(item, fold.bank, fold.embeddings, len(fold.held_out))
                    for item in calibrations]
    return np.stack([score_layer(*_weights(layer), fold, calibrations) for layer in layers])


def _fit_layers(task: GeneratorTask, sections: Sequence[ClassifierSection], fold: Fold,
                seed: int) -> list[PixelClassifier]:
    """A layer per section; those of one ``num_generated`` share their features."""
    layers, drawn = [], {}
    for section in sections:
        number = section.num_generated
        if section.mode == CLOSED_FORM:
            prototypes = unseen_prototypes(task, number, seed)
            layers.append(closed_form_layer(section, fold.bank, prototypes, fold.held_out))
            continue
        if number not in drawn:
            drawn[number] = generate(task, number, seed), paddle.get_rng_state()
        generated, state = drawn[number]
        paddle.set_rng_state(state)
        layers.append(train_classifier(section, fold.bank, generated, fold.held_out, seed,
                                       origin=fold.origin))
    return layers


def _weights(layer: PixelClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Weight [S, D] and bias [S] of the layer on the bank's features."""
    weight = layer.conv.weight.numpy()[:, :, 0, 0]
    if layer.conv.bias is None:
        return weight, weight @ layer.origin.numpy().ravel()
    return weight, layer.conv.bias.numpy()


def score_layer(weight: np.ndarray, bias: np.ndarray, fold: Fold,
                calibrations: Sequence[Calibration]) -> np.ndarray:
    """Scores of a layer for each calibration, float64 [V, 3].

    Every class weighs as in the training images: its row of the confusion matrix sums to its
    pixel count, however many of its pixels the bank holds.

    Args:
        weight (float32 [S, D]), bias (float32 [S]): the layer.
        fold: the rows to score.
        calibrations: what is taken off the logits of classes that are not held out, settled.
            What that costs is counted on their rows of ``fold``.
    """
    logits = fold.features @ weight.T + bias
    held_out = np.isin(np.arange(len(bias)), fold.held_out)
    best_seen, best_unseen = (np.where(own, logits, -np.inf) for own in (~held_out, held_out))
    seen, unseen = best_seen.argmax(1), best_unseen.argmax(1)
    margin = best_seen.max(1) - best_unseen.max(1)
    by_class = [(margin / np.maximum(fold.calibrated, np.finfo(np.float32).eps))[fold.labels == c]
                for c in np.flatnonzero(~held_out)]
    values = [cost_calibration(by_class, item.value) if item.is_cost else item.value
              for item in calibrations]
    return np.array([_scores(np.where(margin < value * fold.calibrated, unseen, seen), fold)
                     for value in values])


def _scores(prediction: np.ndarray, fold: Fold) -> list[float]:
    classes = len(fold.pixel_counts)
    evaluator = ZeroShotEvaluator(classes, fold.held_out.tolist(), ignore_index=-1)
    evaluator.update(prediction, fold.labels)
    rows = evaluator.confusion.sum(1, keepdims=True)
    evaluator.confusion = evaluator.confusion / rows * fold.pixel_counts[:, None]
    scores = evaluator.compute()
    return [scores[name] for name in SCORES]
