"""The number taken off the logits of seen classes, so that unseen ones get their turn.

A constant δ moves a layer along its seen–unseen curve (calibrated stacking). How far it does
depends on the scale of the logits and so on all that trained them. ``calibration: auto`` fixes
what δ costs the seen classes instead, and takes δ from real features of theirs; ``seen_cost``
says which cost that is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from paddleseg.utils import logger

from paddle_csrl.bank.feature_bank import FeatureBank, Scale
from paddle_csrl.config.schema import AUTO
from paddle_csrl.models.pixel_classifier import PixelClassifier


class Calibration(NamedTuple):
    """The calibration that a section ``classifier`` asks for: δ in logit units.

    With ``is_cost`` it is the share of seen pixels, in (0, 1), that may go to unseen classes; with
    ``is_open``, too, ``seen_cost.settled`` has yet to find that share.
    """
    value: float
    is_cost: bool = False
    is_open: bool = False

    @classmethod
    def of(cls, section: Any) -> "Calibration":
        """Read it from a section ``classifier``; 0 where there is none."""
        if section is None:
            return cls(0.0)
        if section.calibration == AUTO:
            if section.seen_cost == AUTO:
                return OPEN
            return cls(float(section.seen_cost), True)
        return cls(float(section.calibration))

    def found(self, layer: dict[str, np.ndarray], bank: FeatureBank, scale: Scale,
              unseen_ids: np.ndarray, unit: np.ndarray | None = None) -> float:
        """Return δ, in logit units, for a ``layer`` without any; arguments as ``margins_of``."""
        if not self.is_cost:
            return self.value
        return cost_calibration(margins_of(layer, bank, scale, unseen_ids, unit), self.value)

    @property
    def at_cost(self) -> str:
        """The end of a log line that says δ; empty where the config says it."""
        return f", which costs {self.value:.3g} of their features" if self.is_cost else ""

    @property
    def settings(self) -> dict[str, Any]:
        """The dotted keys of a config that say so."""
        if self.is_cost:
            return {"classifier.calibration": AUTO,
                    "classifier.seen_cost": AUTO if self.is_open else self.value}
        return {"classifier.calibration": self.value}


#: ``seen_cost: auto``.
OPEN = Calibration(0.0, is_cost=True, is_open=True)


def fold(classifier: PixelClassifier, scale: Scale, seen_ids: np.ndarray, calibration: float,
         unit: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Fold standardization and calibration into a trained layer, so that it takes raw features.

    With x' = (x − m)/s, W x' + b = (W/s) x + (b − (W/s) m). The calibration δ, in logit units, is
    taken off the logits of seen classes (calibrated stacking), so that it too ends in the bias;
    without one in the weights, as δ u·x with u·x ≈ 1, for which ``unit`` has to be given.

    Returns:
        ``weight`` float32 [C, D, 1, 1] and, unless the layer has none, ``bias`` float32 [C].
    """
    weight = classifier.conv.weight.numpy() / scale.deviation[None, :, None, None]
    if classifier.conv.bias is None:
        if calibration:
            weight[seen_ids] -= calibration * unit[:, None, None]
        return {"weight": weight}
    bias = classifier.conv.bias.numpy() - weight[:, :, 0, 0] @ scale.mean
    bias[seen_ids] -= calibration
    return {"weight": weight, "bias": bias}


def unit_direction(bank: FeatureBank, scale: Scale) -> np.ndarray:
    """Find u with u·x nearest to 1 over raw features x, in least squares: float32 [D].

    Every seen class weighs alike. ``bank`` holds features standardized by ``scale``.
    """
    origin = scale.origin.astype(np.float64)
    present = bank.present_ids
    mean, moment = np.zeros(len(origin)), np.zeros((len(origin), len(origin)))
    for rows in (bank.of(c) + origin for c in present):
        mean += rows.mean(0) / len(present)
        moment += rows.T @ rows / (len(rows) * len(present))
    unit = np.linalg.lstsq(moment, mean, rcond=1e-6)[0]
    error = np.sqrt(max(0.0, float(1 - 2 * mean @ unit + unit @ moment @ unit)))
    logger.info(f"[classifier] the layer has no bias: the calibration goes into its weights, "
                f"exact up to {100 * error:.1f} % (root mean square over seen features)")
    return (unit / scale.deviation).astype(np.float32)


def cost_calibration(margins: Sequence[np.ndarray], cost: float) -> float:
    """Find the δ at which the share ``cost``, in (0, 1), of the seen pixels goes to unseen classes.

    A pixel does once δ exceeds its margin, by which its best logit of a seen class is above that
    of an unseen one. δ is a quantile of the ``margins``, float [K_s] of each seen class, which
    weigh alike; it is negative where more than the share goes there by itself.
    """
    return cost_calibrations(margins, [cost])[0]


def cost_calibrations(margins: Sequence[np.ndarray], costs: Sequence[float]) -> list[float]:
    """Find the δ of each of ``costs``, as ``cost_calibration``."""
    weights = np.concatenate([np.full(len(rows), 1 / len(rows)) for rows in margins])
    rows = np.concatenate(margins)
    order = np.argsort(rows, kind="stable")
    lost = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(lost, costs).clip(max=len(order) - 1)
    return [float(value) for value in rows[order[places]]]


def margins_of(layer: dict[str, np.ndarray], bank: FeatureBank, scale: Scale,
               unseen_ids: np.ndarray, unit: np.ndarray | None = None) -> list:
    """Compute the margins of a folded layer on the bank, float [K_s] for each seen class.

    ``bank`` is standardized by ``scale``. Without a bias a calibration δ takes δ u·x off a pixel,
    and margins are in these units.
    """
    is_unseen = np.isin(np.arange(len(bank.counts)), unseen_ids)
    margins = []
    for class_id in bank.present_ids:
        raw = scale.undone(bank.of(class_id))
        logits = raw @ layer["weight"][:, :, 0, 0].T + layer.get("bias", 0)
        reach = 1.0 if unit is None else np.maximum(raw @ unit, np.finfo(np.float32).eps)
        margins.append((logits[:, ~is_unseen].max(1) - logits[:, is_unseen].max(1)) / reach)
    return margins
