"""Folds: the seen classes that are held out together."""

import numpy as np

from paddle_csrl.errors import UserError
from paddle_csrl.tuning.seen_classes import SeenClasses

#: Classes with fewer rows are not held out: too few would be left to score by.
MIN_HELD_OUT_ROWS = 40


def draw_folds(seen: SeenClasses, number: int, seed: int) -> list[np.ndarray]:
    """Disjoint random groups of classes, as many in each as there are unseen classes.

    They are smaller where the classes do not suffice, and never more than half of all. The
    background and classes with fewer than ``MIN_HELD_OUT_ROWS`` features are not held out.

    Args:
        seen: the classes.
        number: how many groups.
        seed: of the draw.

    Returns:
        list of int64 arrays, ids ascending, all of one size.

    Raises:
        UserError: there are fewer classes to hold out than groups.
    """
    eligible = [c for c, name in enumerate(seen.names)
                if not (c == 0 and name.strip().lower() == "background")
                and seen.bank.counts[c] >= MIN_HELD_OUT_ROWS]
    size = min(max(seen.num_unseen, 1), len(eligible) // number, len(seen.names) // 2)
    if size < 1:
        raise UserError(f"--folds {number}: only {len(eligible)} of {len(seen.names)} seen classes "
                        f"can be held out (not the background, {MIN_HELD_OUT_ROWS} features "
                        f"or more); ask for fewer folds")
    order = np.random.default_rng(seed).permutation(eligible)
    return [np.sort(order[start:start + size]) for start in range(0, number * size, size)]
