"""Time and memory of the last layer in closed form.

    OMP_NUM_THREADS=1 python benchmarks/closed_form.py

For two sizes, that of Pascal-Context and one far above: the statistics of the bank, which a run
computes once, and the layer from them, for all classes and for one more. The covariance takes a
product of D² per feature of the bank; the rest does not depend on how many there are. The exit
status is 1 if a target is missed: the layer of the one within 0.1 s, all of the other within 30 s
and 1 GiB beside the bank.
"""

import sys
from typing import NamedTuple

import _path  # noqa: F401
import numpy as np
from _measure import at_most, peak_memory, status, timed

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.models.closed_form import Discriminant

GIB = 2 ** 30
SHRINKAGE = 0.1


class Size(NamedTuple):
    """A data set: classes, of them unseen; features of each seen class; channels."""
    title: str
    classes: int
    unseen: int
    samples: int
    channels: int


CONTEXT = Size("Pascal-Context", 60, 4, 8192, 256)
LARGE = Size("2,000 classes", 2000, 200, 32, 2048)


def make_bank(size: Size) -> FeatureBank:
    """Features of seen classes, drawn class by class."""
    rng, seen = np.random.default_rng(0), size.classes - size.unseen
    features = np.empty((seen * size.samples, size.channels), np.float32)
    for rows in features.reshape(seen, size.samples, size.channels):
        rows[:] = rng.standard_normal((1, size.channels)) + rng.standard_normal(rows.shape)
    counts = np.where(np.arange(size.classes) < seen, size.samples, 0)
    return FeatureBank(features, counts, counts)


def measure(size: Size) -> tuple[float, float, float]:
    """Print a row; seconds of the layer and of all, and bytes beside the bank."""
    bank = make_bank(size)
    prototypes = np.random.default_rng(1).standard_normal((size.unseen, size.channels))
    before = peak_memory()
    (means, covariance), statistics = timed(bank.moments)
    means = np.concatenate([means, prototypes])

    def solve() -> Discriminant:
        found = Discriminant.of(covariance, SHRINKAGE)
        found.layer(means)
        return found

    solver, layer = timed(solve)
    _, one_more = timed(lambda: solver.layer(prototypes[:1]))
    memory = peak_memory() - before
    print(f"{size.title:16s} C={size.classes:5d} D={size.channels:5d} {len(bank.features):8,d} "
          f"features: statistics {statistics:7.3f} s, layer {1000 * layer:8.1f} ms, one class "
          f"more {1000 * one_more:6.2f} ms, {memory / GIB:.2f} GiB beside the bank's "
          f"{bank.features.nbytes / GIB:.2f}")
    return layer, statistics + layer, memory


def main() -> int:
    context, _, _ = measure(CONTEXT)
    _, large, memory = measure(LARGE)
    print(f"{CONTEXT.title}: layer {context:.3f} s ({at_most(context, 0.1)}); {LARGE.title}: "
          f"statistics and layer {large:.1f} s ({at_most(large, 30)}), {memory / GIB:.2f} GiB "
          f"beside the bank ({at_most(memory / GIB, 1)})")
    return status()


if __name__ == "__main__":
    sys.exit(main())
