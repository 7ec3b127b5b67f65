"""The price of unseen classes that is worth paying, told by seen classes that are left out.

``seen_cost: auto``. The best price depends on how well features tell classes apart: where they do,
few pixels of seen classes need to go to unseen ones; where they do not, many. Some seen classes at
a time are left out and stand in for the unseen ones: their prototypes come from their embeddings by
ridge regression on the others, the layer is the closed form, with the covariance of all seen
classes, and their real features are scored. The price is the one at which the share that hIoU has
of its best is largest on average, so that classes that are easily told apart do not outweigh the
others. It supposes that unseen classes are as large, and as hard to place, as seen ones; no feature
of theirs is needed.
"""

from typing import NamedTuple

import numpy as np

from paddle_csrl.bank.feature_bank import FeatureBank, Moments
from paddle_csrl.models.closed_form import Discriminant
from paddle_csrl.models.prototype_generators import RIDGE, ridge_map, unit_rows
from paddle_csrl.stages.calibration import Calibration, cost_calibrations

#: The shares that are tried, and the one where too few classes are seen to leave any out.
COSTS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35,
         0.4, 0.5, 0.6)
DEFAULT_COST = 0.1
_FOLDS = 32
#: Features to score in a fold, at most, and per class at least.
_ROWS, _LEAST_ROWS = 16000, 20
_SHRINKAGE = 0.1
#: All that the share found depends on beside classes and features, for records of what it led to;
#: the first number is raised with the code.
ALGORITHM = (1, COSTS, DEFAULT_COST, _FOLDS, _ROWS, _LEAST_ROWS, _SHRINKAGE, RIDGE)


def settled(calibration: Calibration, bank: FeatureBank, embeddings: np.ndarray,
            num_unseen: int, moments: Moments | None = None) -> Calibration:
    """Find the cost of a ``calibration`` that leaves it open; arguments as ``cost_of_left_out``."""
    if not calibration.is_open:
        return calibration
    return Calibration(cost_of_left_out(bank, embeddings, num_unseen, moments), is_cost=True)


def cost_of_left_out(bank: FeatureBank, embeddings: np.ndarray, num_unseen: int,
                     moments: Moments | None = None) -> float:
    """Find the share of seen features whose loss to unseen classes gives the best hIoU.

    Args:
        bank: standardized features of the seen classes, C classes in all.
        embeddings: float32 [C, d_w].
        num_unseen: U; as many seen classes are left out at a time, but a third of them at most.
        moments: of the bank, where they are known.

    Returns:
        One of ``COSTS``; ``DEFAULT_COST`` with fewer than three seen classes.
    """
    seen = bank.present_ids
    if len(seen) < 3 or not num_unseen:
        return DEFAULT_COST
    means, covariance = moments or bank.moments()
    if np.trace(covariance) <= 0:
        return DEFAULT_COST
    scene = _Scene.of(bank, embeddings[seen], means, Discriminant.of(covariance, _SHRINKAGE))
    size, rng = min(num_unseen, len(seen) // 3), np.random.default_rng(0)
    folds = [rng.choice(len(seen), size, replace=False) for _ in range(_FOLDS)]
    scores = np.array([scene.scores(left_out) for left_out in folds])
    best = scores.max(1, keepdims=True)
    return COSTS[int((scores / np.where(best > 0, best, 1)).mean(0).argmax())]


class _Scene(NamedTuple):
    """S seen classes, numbered anew, and R of their features.

    ``embeddings`` have length 1; ``weight`` and ``bias`` are the layer in closed form with all
    classes; ``pixels``, float64 [R], are those of the training images that a feature stands for.
    """
    embeddings: np.ndarray
    means: np.ndarray
    discriminant: Discriminant
    weight: np.ndarray
    bias: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, bank: FeatureBank, embeddings: np.ndarray, means: np.ndarray,
           discriminant: Discriminant) -> "_Scene":
        bound = max(_LEAST_ROWS, _ROWS // len(means))
        rows = [bank.of(class_id)[:bound] for class_id in bank.present_ids]  # in random order
        counts = [len(own) for own in rows]
        return cls(unit_rows(embeddings), means, discriminant, *discriminant.layer(means),
                   np.concatenate(rows), np.repeat(np.arange(len(rows)), counts),
                   np.repeat(bank.pixel_counts[bank.present_ids] / counts, counts))

    def scores(self, left_out: np.ndarray) -> np.ndarray:
        """Return hIoU, as a fraction, at each of ``COSTS``, with ``left_out`` for unseen."""
        is_left_out = np.isin(np.arange(len(self.means)), left_out)
        logits = self._logits(is_left_out)
        kept, other = (np.where(own, logits, -np.inf) for own in (~is_left_out, is_left_out))
        margins = kept.max(1) - other.max(1)
        kept, other = kept.argmax(1), other.argmax(1)
        by_class = [margins[self.labels == c] for c in np.flatnonzero(~is_left_out)]
        limits = cost_calibrations(by_class, COSTS)
        return np.array([self._hiou(np.where(margins < limit, other, kept), is_left_out)
                         for limit in limits])

    def _logits(self, is_left_out: np.ndarray) -> np.ndarray:
        """float32 [R, S], of classes left out by the prototypes that their embeddings have."""
        prototypes = ridge_map(self.embeddings[~is_left_out], self.means[~is_left_out], RIDGE)
        weight, bias = self.weight.copy(), self.bias.copy()
        weight[is_left_out], bias[is_left_out] = self.discriminant.layer(
            prototypes(self.embeddings[is_left_out]))
        return self.features @ weight.T.astype(np.float32) + bias.astype(np.float32)

    def _hiou(self, predicted: np.ndarray, is_left_out: np.ndarray) -> float:
        classes = len(self.means)
        confusion = np.bincount(self.labels * classes + predicted, self.pixels,
                                classes ** 2).reshape(classes, classes)
        hits = np.diag(confusion)
        iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
        kept, other = iou[~is_left_out].mean(), iou[is_left_out].mean()
        return 2 * kept * other / max(kept + other, np.finfo(np.float64).tiny)
