"""The seen–unseen curve: what one layer scores at every calibration, and the area below it.

A calibration moves a method along its curve, so that two methods compared at one calibration
each differ in that choice as well. The area differs in the methods alone (Chao et al. 2016,
"An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in
the Wild", there of accuracies).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddle_csrl.metrics import ZeroShotEvaluator

#: Added at both ends, in logit units: there only seen, or only unseen, classes are predicted.
EXTREME = 1e4


def swept_layers(layer: dict[str, np.ndarray], seen_ids: np.ndarray, calibration: float,
                 calibrations: Sequence[float]) -> list[dict[str, np.ndarray]]:
    """``layer`` at ±``EXTREME`` and every other calibration in between, in rising order.

    Args:
        layer: ``weight`` [C, D, 1, 1] and ``bias`` [C]; without a bias there is nothing to move
            and the list is empty.
        seen_ids (list[int]): the classes to calibrate.
        calibration (float): what is folded into ``layer`` already.
        calibrations (list[float]): those wanted, in logit units.
    """
    if "bias" not in layer:
        return []
    layers = []
    for value in with_ends(calibrations):
        bias = layer["bias"].copy()
        bias[list(seen_ids)] += calibration - value
        layers.append({"weight": layer["weight"], "bias": bias})
    return layers


def curve(calibrations: Sequence[float], evaluators: Sequence[ZeroShotEvaluator]) -> dict[str, Any]:
    """The curve as ``scores.json`` holds it, scores as fractions.

    Args:
        calibrations: as given to ``swept_layers``.
        evaluators: of the layers that it returned, in their order.
    """
    scores = [evaluator.compute() for evaluator in evaluators]
    seen, unseen = ([float(score[key]) for score in scores] for key in ("seen_miou", "unseen_miou"))
    return {"calibrations": with_ends(calibrations), "seen_miou": seen, "unseen_miou": unseen,
            "ausuc": area(seen, unseen), "best_hiou": max(float(item["hiou"]) for item in scores)}


def area(seen: Sequence[float], unseen: Sequence[float]) -> float:
    """∫ unseen d(seen) by the trapezoidal rule; points in the order of rising calibration."""
    return float(0.0 - np.trapz(unseen, seen))  # the seen mIoU falls along the curve


def with_ends(calibrations: Sequence[float]) -> list[float]:
    """All calibrations of the curve of those asked for, in rising order."""
    return [-EXTREME, *sorted(map(float, calibrations)), EXTREME]
