"""The seen–unseen curve: what one layer scores at every calibration, and the area below it.

A calibration moves a method along its curve, so that two methods compared at one calibration
each differ in that choice as well. The area differs in the methods alone (Chao et al. 2016,
"An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in
the Wild", there of accuracies).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddle_csrl.evaluation.layers import EXTREME
from paddle_csrl.metrics import ZeroShotEvaluator

#: What the points of ``calibrations: auto`` cost: shares of the pixels of seen classes, each class
#: weighing alike, that go to an unseen class.
COSTS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
         0.7)


def points(wanted: str | Sequence[float]) -> dict[str, list[float]]:
    """Tell which points a curve has, as ``scores.json`` does, by the ``calibrations`` of a plan.

    With ``auto`` these are ``costs``, in [0, 1], else ``calibrations`` δ, of which ±``EXTREME``
    stands for the ends, where only seen, or only unseen, classes are predicted.
    """
    if isinstance(wanted, str):
        return {"costs": [0.0, *COSTS, 1.0]}
    return {"calibrations": with_ends(wanted)}


def curve(wanted: str | Sequence[float], calibrations: Sequence[float],
          own: ZeroShotEvaluator, swept: Sequence[ZeroShotEvaluator]) -> dict[str, Any]:
    """The curve as ``scores.json`` holds it, scores as fractions.

    Args:
        wanted: the ``calibrations`` of the plan.
        calibrations: δ of every point but the ends, in rising order.
        own: of the layer as it is. With ``auto`` it takes part in the best hIoU, as no point of
            the curve needs to be at the calibration of the layer.
        swept: of the points, in their order.
    """
    scores = [evaluator.compute() for evaluator in swept]
    seen, unseen = ([float(score[key]) for score in scores] for key in ("seen_miou", "unseen_miou"))
    others = [own.compute()] if isinstance(wanted, str) else []
    return {"calibrations": with_ends(calibrations), **points(wanted),
            "seen_miou": seen, "unseen_miou": unseen, "ausuc": area(seen, unseen),
            "best_hiou": max(float(item["hiou"]) for item in scores + others)}


def area(seen: Sequence[float], unseen: Sequence[float]) -> float:
    """∫ unseen d(seen) by the trapezoidal rule; points in the order of rising calibration."""
    return float(0.0 - np.trapz(unseen, seen))  # the seen mIoU falls along the curve


def with_ends(calibrations: Sequence[float]) -> list[float]:
    """All calibrations of the curve of those asked for, in rising order."""
    return [-EXTREME, *sorted(map(float, calibrations)), EXTREME]
