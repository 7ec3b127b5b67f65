"""What is taken off the logits of seen classes, so that unseen ones get their turn.

A constant δ moves a layer along its seen–unseen curve (calibrated stacking). How far it does
depends on the scale of the logits and so on all that trained them. ``calibration: auto`` fixes
what δ costs the seen classes instead, and takes δ from real features of theirs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paddle_csrl.config import AUTO, DEFAULT_SEEN_COST
from paddle_csrl.stages.feature_bank import FeatureBank, Scale


class Calibration(NamedTuple):
    """What a section ``classifier`` says.

    Attributes:
        value (float): δ in logit units; or, with ``is_cost``, the share of seen pixels, in
            (0, 1), that may go to unseen classes.
        is_cost (bool): which of the two.
    """
    value: float
    is_cost: bool = False

    @classmethod
    def of(cls, section: dict[str, Any]) -> "Calibration":
        """Of a section ``classifier``."""
        value = section.get("calibration", 0.0)
        if value == AUTO:
            return cls(float(section.get("seen_cost", DEFAULT_SEEN_COST)), True)
        return cls(float(value))

    @property
    def settings(self) -> dict[str, Any]:
        """The dotted keys that say so."""
        if self.is_cost:
            return {"classifier.calibration": AUTO, "classifier.seen_cost": self.value}
        return {"classifier.calibration": self.value}


def cost_calibration(margins: Sequence[np.ndarray], cost: float) -> float:
    """The δ at which the share ``cost`` of the seen pixels goes to unseen classes.

    A pixel does once δ exceeds its margin, by which its best logit of a seen class is above that
    of an unseen one. δ is a quantile of the margins.

    Args:
        margins: float [K_s] of each seen class; the classes weigh alike.
        cost (float): in (0, 1).

    Returns:
        float: δ; negative where more than the share goes there by itself.
    """
    weights = np.concatenate([np.full(len(rows), 1 / len(rows)) for rows in margins])
    rows = np.concatenate(margins)
    order = np.argsort(rows, kind="stable")
    lost = np.cumsum(weights[order]) / weights.sum()
    return float(rows[order[min(np.searchsorted(lost, cost), len(order) - 1)]])


def margins_of(layer: dict[str, np.ndarray], bank: FeatureBank, scale: Scale,
               unseen_ids: np.ndarray, unit: np.ndarray | None = None) -> list:
    """The margins of a layer on the bank, float [K_s] for each seen class.

    Args:
        layer: ``weight`` [C, D, 1, 1] and ``bias`` [C], if it has one, for raw features.
        bank: real features of the seen classes, standardized by ``scale``.
        scale: what takes them back to raw ones.
        unseen_ids (int array [U]): U >= 1.
        unit (float32 array [D], optional): of ``unit_direction``, for a layer without bias: what
            a calibration δ takes off a pixel is then δ u·x, and margins are in these units.
    """
    is_unseen = np.isin(np.arange(len(bank.counts)), unseen_ids)
    margins = []
    for class_id in np.flatnonzero(bank.counts):
        raw = bank.of(class_id) * scale.deviation + scale.mean
        logits = raw @ layer["weight"][:, :, 0, 0].T + layer.get("bias", 0)
        reach = 1.0 if unit is None else np.maximum(raw @ unit, np.finfo(np.float32).eps)
        margins.append((logits[:, ~is_unseen].max(1) - logits[:, is_unseen].max(1)) / reach)
    return margins
