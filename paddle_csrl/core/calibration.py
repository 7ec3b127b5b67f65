"""What to take off the logits of seen classes so that unseen ones get their turn.

A constant δ moves a layer along its seen–unseen curve. How far the same δ moves it depends on the
scale of its logits, and so on everything that trained it. What it costs the seen classes does not:
``seen_cost`` fixes that instead, and δ follows from real seen features alone.
"""

from typing import Dict, Optional

import numpy as np

from paddle_csrl.core.feature_bank import FeatureBank, Scale

AUTO = "auto"
DEFAULT_SEEN_COST = 0.1


def seen_cost_calibration(layer: Dict[str, np.ndarray], bank: FeatureBank, scale: Scale,
                          unseen_ids: np.ndarray, cost: float,
                          unit: Optional[np.ndarray] = None) -> float:
    """The δ at which a share of the seen pixels goes to unseen classes.

    A pixel goes to an unseen class once δ exceeds its margin, by which the best logit of a seen
    class is above that of an unseen one. δ is the quantile ``cost`` of the margins, every seen
    class weighing alike.

    Args:
        layer: ``weight`` [C, D, 1, 1] and ``bias`` [C], if it has one, for raw features.
        bank: real features of the seen classes, standardized by ``scale``.
        scale: what takes them back to raw ones.
        unseen_ids (int array [U]): U >= 1.
        cost (float): share of the pixels, in (0, 1).
        unit (float32 array [D], optional): for a layer without bias, as ``calibrate`` takes it.

    Returns:
        float: δ in logit units; negative where more than the share goes there without any.
    """
    is_unseen = np.isin(np.arange(len(bank.counts)), unseen_ids)
    margins, weights = [], []
    for class_id in np.flatnonzero(bank.counts):
        raw = bank.of(class_id) * scale.deviation + scale.mean
        logits = raw @ layer["weight"][:, :, 0, 0].T + layer.get("bias", 0)
        reach = 1.0 if "bias" in layer else np.maximum(raw @ unit, 1e-6)
        margins.append((logits[:, ~is_unseen].max(1) - logits[:, is_unseen].max(1)) / reach)
        weights.append(np.full(len(raw), 1 / len(raw)))
    margins, weights = np.concatenate(margins), np.concatenate(weights)
    order = np.argsort(margins, kind="stable")
    cumulated = np.cumsum(weights[order]) / weights.sum()
    return float(margins[order[min(np.searchsorted(cumulated, cost), len(order) - 1)]])


def calibrate(layer: Dict[str, np.ndarray], seen_ids: np.ndarray, calibration: float,
              unit: Optional[np.ndarray] = None) -> Dict[str, np.ndarray]:
    """``layer`` with δ taken off the logits of seen classes (calibrated stacking).

    It ends in the bias; without one in the weights, as δ u·x with u·x ≈ 1.

    Args:
        layer: ``weight`` float32 [C, D, 1, 1] and, unless it has none, ``bias`` float32 [C].
        seen_ids (int array [S]): the classes to calibrate.
        calibration (float): δ, in logit units.
        unit (float32 array [D], optional): u, of ``unit_direction``; for a layer without bias.
    """
    layer = {name: value.copy() for name, value in layer.items()}
    if "bias" in layer:
        layer["bias"][seen_ids] -= calibration
    elif calibration:
        layer["weight"][seen_ids] -= calibration * unit[:, None, None]
    return layer
