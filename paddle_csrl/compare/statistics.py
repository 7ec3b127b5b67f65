"""Means, spreads and paired differences with Student's t-intervals."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Summary(NamedTuple):
    """Mean, standard deviation of the sample (nan for n < 2) and number of values."""

    mean: float
    sd: float
    n: int


class Interval(NamedTuple):
    """A mean with its confidence interval; the bounds are nan for n < 2."""

    mean: float
    low: float
    high: float
    n: int


class PairedDifference(NamedTuple):
    """Differences of a method to the reference.

    Attributes:
        splits: by split, the interval over its pairs.
        over_splits: the interval over the means of the splits, n the number of splits.
        pooled: the interval over all pairs, as if they were independent.
    """

    splits: dict[str, Interval]
    over_splits: Interval
    pooled: Interval


def summarize(values: Sequence[float]) -> Summary:
    """Mean ± standard deviation (n − 1 in its denominator); nans are left out."""
    values = _present(values)
    mean = float(values.mean()) if len(values) else math.nan
    return Summary(mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan, len(values))


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """mean ± t(n − 1, (1 + level)/2) · sd / √n, the confidence interval of a normal mean."""
    mean, sd, n = summarize(values)
    half = math.nan if n < 2 else float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(values: dict[str, dict[Hashable, float]],
                      reference: dict[str, dict[Hashable, float]]) -> PairedDifference:
    """Differences between scores of the same split, stage-1 seed and seed.

    Args:
        values: of the method, by split and pair.
        reference: of the reference, likewise. What only one of them holds is left out.
    """
    differences = {split: _present([value - reference[split][pair]
                                    for pair, value in scores.items()
                                    if pair in reference.get(split, {})])
                   for split, scores in values.items()}
    splits = {split: t_interval(found) for split, found in differences.items() if len(found)}
    pooled: list[float] = [value for found in differences.values() for value in found]
    return PairedDifference(splits, t_interval([item.mean for item in splits.values()]),
                            t_interval(pooled))


def _present(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)]
