"""Counts of a layer at every calibration, and the margins that decide them."""

from collections.abc import Sequence

import numpy as np
import paddle


class CalibrationSweep:
    """Confusion matrices of a layer off whose seen logits each of several numbers is taken.

    A number δ taken off all seen logits leaves the best seen and the best unseen class of a pixel
    as they are and only chooses between the two: the seen one as long as δ is below its margin,
    by which its logit is above the other, and at a tie if its id is the lower one, as argmax has
    it. Therefore a pixel is counted once, under both classes, by how many δ its seen class
    outlasts.

    Args:
        unseen: bool [C], which classes are unseen.
        shifts: δ in logit units, in rising order.
        ignore_index: label of the pixels left out.

    Attributes:
        counts (int64 [len(shifts) + 1, C, C]): pixels by the number of outlasted δ, label and
            class. Those of several processes add up.
    """

    def __init__(self, unseen: np.ndarray, shifts: Sequence[float], ignore_index: int = 255):
        self.unseen, self.ignore_index = unseen, ignore_index
        self.shifts = np.array(shifts, np.float64)
        self.counts = np.zeros((len(shifts) + 1, len(unseen), len(unseen)), np.int64)

    def update(self, logits: paddle.Tensor, label: np.ndarray) -> None:
        """Count an image: logits float [1, C, H, W], label [1, 1, H, W] of ids that exist."""
        counted = np.flatnonzero(label.ravel() != self.ignore_index)
        (top, seen_id), (other, unseen_id) = (
            _best(logits, np.flatnonzero(own), counted) for own in (~self.unseen, self.unseen))
        margin = top - other
        margin = np.where(seen_id < unseen_id, np.nextafter(margin, np.inf), margin)
        outlasted = np.searchsorted(self.shifts, margin)
        classes = len(self.unseen)
        place = (outlasted * classes + label.ravel()[counted].astype(np.int64)) * classes
        self.counts += np.bincount(np.concatenate([place + seen_id, place + unseen_id]),
                                   minlength=self.counts.size).reshape(self.counts.shape)

    def confusions(self) -> np.ndarray:
        """int64 [len(shifts) + 2, C, C]: with seen classes alone, at every δ, without them."""
        to_unseen = np.concatenate([np.zeros_like(self.counts[:1]), self.counts.cumsum(0)])
        return np.where(self.unseen, to_unseen, to_unseen[-1] - to_unseen)


class MarginSample:
    """Margins of pixels of seen classes, as ``CalibrationSweep`` has them.

    Args:
        unseen: bool [C], which classes are unseen.
        bound: pixels to keep of an image, at most, evenly spaced.
    """

    def __init__(self, unseen: np.ndarray, bound: int):
        self.unseen, self.bound = unseen, bound
        self._labels: list[np.ndarray] = []
        self._margins: list[np.ndarray] = []

    def update(self, logits: paddle.Tensor, label: np.ndarray) -> None:
        """Take pixels of an image: logits float [1, C, H, W], label [1, 1, H, W]."""
        is_seen = np.isin(label.ravel(), np.flatnonzero(~self.unseen))
        places = np.flatnonzero(is_seen)[::max(1, -(-int(is_seen.sum()) // self.bound))]
        (top, _), (other, _) = (_best(logits, np.flatnonzero(own), places)
                                for own in (~self.unseen, self.unseen))
        self._labels.append(label.ravel()[places])
        self._margins.append(top - other)

    def by_class(self) -> list[np.ndarray]:
        """float64 [P_s] for each seen class that occurred."""
        labels, margins = np.concatenate(self._labels), np.concatenate(self._margins)
        return [margins[labels == class_id] for class_id in np.unique(labels)]


def _best(logits: paddle.Tensor, class_ids: np.ndarray, places: np.ndarray
          ) -> tuple[np.ndarray, np.ndarray]:
    """Find at ``places`` the largest logit of some classes, float64 [P], and whose, int64 [P]."""
    if logits.dtype in (paddle.float16, paddle.bfloat16):  # which a CPU and NumPy do little with
        logits = logits.astype("float32")
    part = logits.index_select(paddle.to_tensor(class_ids), axis=1)
    return (part.max(axis=1).numpy().ravel()[places].astype(np.float64),
            class_ids[part.argmax(axis=1).numpy().ravel()[places]])
