"""Means, spreads and paired differences with Student's t-intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from scipy import stats

#: What a pair has in common, the levels of the index that ``paired_difference`` looks at.
PAIR = ["split", "stage1_seed", "seed"]


class Summary(NamedTuple):
    """Mean, standard deviation of the sample (nan for n < 2) and number of values."""

    mean: float
    sd: float
    n: int


class Interval(NamedTuple):
    """A mean with its confidence interval; the bounds are nan for n < 2."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0


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


def summarize(values: Sequence[float] | pd.Series) -> Summary:
    """Mean ± standard deviation (n − 1 in its denominator); nans are left out."""
    values = pd.Series(values, dtype=float)
    return Summary(float(values.mean()), float(values.std()), int(values.count()))


def t_interval(values: Sequence[float] | pd.Series) -> Interval:
    """mean ± t(n − 1, 0.975) · sd / √n, the 95 % confidence interval of a normal mean."""
    mean, sd, n = summarize(values)
    half = math.nan if n < 2 else float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(values: pd.Series, reference: pd.Series) -> PairedDifference:
    """Differences between scores of the same split, stage-1 seed and seed.

    Args:
        values: of the method, indexed by ``PAIR``, each pair once.
        reference: of the reference, likewise. What only one of them holds, or holds as nan, is
            left out. Where all seeds of a split and stage-1 seed scored the same, neither method
            has a random part after stage 1, and their pair counts once.
    """
    pairs = pd.DataFrame({"own": values, "reference": reference.reindex(values.index)}).dropna()
    of_stage1 = pairs.groupby(level=PAIR[:2], sort=False)
    copies = (of_stage1.transform("nunique") == 1).all(axis=1) & (of_stage1.cumcount() > 0)
    differences = (pairs.own - pairs.reference)[~copies]
    splits = {str(split): t_interval(found)
              for split, found in differences.groupby(level="split", sort=False)}
    return PairedDifference(splits, t_interval([item.mean for item in splits.values()]),
                            t_interval(differences))
