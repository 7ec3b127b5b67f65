"""Relations of classes by their formulas, pair by pair."""

import numpy as np


def centred_cosines(unseen, seen):
    """Cosines [U, S] between rows [U, D] and [S, D], both less the mean of the second."""
    centre = seen.mean(0)
    result = np.empty((len(unseen), len(seen)))
    for row, first in enumerate(unseen - centre):
        for column, second in enumerate(seen - centre):
            result[row, column] = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    return result
