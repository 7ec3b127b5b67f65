"""The feature bank: a bounded, uniform sample of real pixel features of every seen class.

Sampling is bottom-k: every pixel draws a uniform key and each class keeps the pixels with its
smallest keys. That is a uniform sample without replacement, needs one pass, and merges: the
sample of a union is the bottom-k of the samples. Keys depend on the seed and the image alone,
so the bank is the same however the images are ordered or shared out among processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils.arrays import read_npz, save_arrays
from paddle_csrl.utils.record import require_unchanged

#: Features that are copied, or whose products are taken, at once.
_BLOCK = 4096
#: Means float64 [S, D] and a covariance float64 [D, D].
Moments = tuple[np.ndarray, np.ndarray]


class BottomKSampler:
    """Collects at most ``bound`` features per class from a stream of pixels.

    ``float16`` stores features in half the memory, which is that of the features kept plus at most
    the same amount waiting to be merged.
    """

    def __init__(self, num_classes: int, bound: int, ignore_index: int = 255,
                 dtype: str = "float32"):
        if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
            raise UserError(f"`samples_per_class: {bound}` must be an integer of at least 1")
        if dtype not in ("float32", "float16"):
            raise UserError(f"`zero_shot.features.dtype: {dtype}` must be float32 or float16")
        self.num_classes, self.bound, self.ignore_index = num_classes, bound, ignore_index
        self.dtype = np.dtype(dtype)
        self.pixel_counts = np.zeros(num_classes, np.int64)
        self._threshold = np.full(num_classes, np.inf)
        self._parts: list[tuple] = []
        self._waiting = 0

    def candidates(self, labels: np.ndarray, seed: list[int]) -> tuple:
        """Draw the keys of one image's pixels and tell which pixels may enter the sample.

        Args:
            labels (int array [P]): class of each pixel, or ``ignore_index``.
            seed (list[int]): seed of the keys, such as ``[seed, image index]``.

        Returns:
            positions (int64 [K]), labels (int64 [K]) and keys (float64 [K]) of the candidates.
        """
        keys = np.random.default_rng(seed).random(labels.size)
        valid = np.flatnonzero(labels != self.ignore_index)
        classes = labels[valid].astype(np.int64)
        self.pixel_counts += np.bincount(classes, minlength=self.num_classes)
        inside = keys[valid] < self._threshold[classes]
        positions = valid[inside]
        return positions, classes[inside], keys[positions]

    def add(self, features: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> None:
        """Offer candidate ``features`` (float32 [K, D]) with their ``labels`` and ``keys``."""
        if not len(labels):
            return
        self._parts.append((features.astype(self.dtype, copy=False), labels, keys))
        self._waiting += len(labels)
        if self._waiting > max(self.num_classes * self.bound, 65536):
            self._compact()

    def merge(self, other: "BottomKSampler") -> None:
        """Take in another sampler's pixels, as if both streams had been one."""
        self.pixel_counts += other.pixel_counts
        for part in other._parts:
            self.add(*part)

    def merge_processes(self, everywhere: bool = False) -> None:
        """Bring the sample of all processes together on the first one, or on every one.

        A key's rank over all processes is found before any feature is sent, so that the sample
        travels once however many processes there are.
        """
        if parallel.world_size() == 1:
            return
        self.pixel_counts = parallel.total(self.pixel_counts)
        width = self._parts[0][0].shape[1] if self._parts else 0
        width = int(parallel.collect_everywhere(width).max())
        empty = np.zeros((0, width), self.dtype), np.zeros(0, np.int64), np.zeros(0)
        features, *others = zip(*(self._parts or [empty]))
        labels, keys = map(np.concatenate, others)
        kept = np.flatnonzero(
            keys < _common_threshold(labels, keys, self.num_classes, self.bound)[labels])
        self._parts = []
        own = [_take(features, kept), labels[kept], keys[kept]]
        del features
        columns = [parallel.collect(column) for column in own]
        if everywhere:
            columns = [[parallel.from_first(np.concatenate(column))] for column in columns]
        self._parts = [part for part in zip(*columns) if len(part[1])]

    def _compact(self) -> None:
        if not self._parts:
            return
        features, *columns = zip(*self._parts)
        labels, keys = map(np.concatenate, columns)
        order = np.lexsort((keys, labels))
        starts = np.searchsorted(labels[order], np.arange(self.num_classes))
        rank = np.arange(len(order)) - starts[labels[order]]
        kept = order[rank < self.bound]
        full = order[rank == self.bound - 1]
        self._threshold[labels[full]] = keys[full]
        self._parts = [(_take(features, kept), labels[kept], keys[kept])]
        self._waiting = 0

    def bank(self) -> "FeatureBank":
        """The sample so far; ``UserError`` if no labelled pixel was offered."""
        self._compact()
        if not self._parts:
            raise UserError("the training set has no labelled pixel of a seen class, so the "
                            "feature bank is empty; check the labels and `zero_shot.unseen`")
        features, labels, _ = self._parts[0]
        return FeatureBank(features, np.bincount(
            labels, minlength=self.num_classes), self.pixel_counts.copy())


def _take(parts: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """``np.concatenate(parts)[rows]`` of arrays [K_i, D] that are too large to be copied whole."""
    taken = np.empty((len(rows), parts[0].shape[1]), parts[0].dtype)
    order, ends = np.argsort(rows), np.cumsum([len(part) for part in parts])
    places = np.split(order, np.searchsorted(rows[order], ends[:-1]))
    for part, end, place in zip(parts, ends, places):
        for start in range(0, len(place), _BLOCK):
            own = place[start:start + _BLOCK]
            taken[own] = part[rows[own] - (end - len(part))]
    return taken


def _common_threshold(labels: np.ndarray, keys: np.ndarray, num_classes: int,
                      bound: int) -> np.ndarray:
    """float64 [C]: what just ``bound`` keys of a class are below, over all processes.

    That is the key of rank ``bound``, or above 1 where there is none. Its 7 digits of 8 bits are
    found from the highest on, by counts of keys, which are all that is exchanged. A key is a
    multiple of 2^-53.
    """
    keys = (keys * 2.0**53).astype(np.int64)
    found, rank = np.zeros(num_classes, np.int64), np.full(num_classes, bound)
    for shift in range(48, -1, -8):
        alike = keys >> shift + 8 == found[labels]
        labels, keys = labels[alike], keys[alike]
        counts = parallel.total(np.bincount(
            labels << 8 | keys >> shift & 255, minlength=num_classes << 8)).reshape(-1, 256)
        is_below = counts.cumsum(1) <= rank[:, None]
        found = (found << 8) + is_below.sum(1)  # 256 more, like no key, where there are too few
        rank -= np.where(is_below, counts, 0).sum(1)
    return found * 2.0**-53


@dataclass
class Scale:
    """Mean and deviation of features, float32 [D] each: (x − mean) / deviation."""
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def identity(cls, feature_dim: int) -> "Scale":
        """The scale that changes nothing."""
        return cls(np.zeros(feature_dim, np.float32), np.ones(feature_dim, np.float32))

    def undone(self, features: np.ndarray) -> np.ndarray:
        """Return standardized features [K, D] as they were, float32."""
        return features * self.deviation + self.mean

    @property
    def origin(self) -> np.ndarray:
        """float32 [D]: what takes standardized features back to raw ones but for the deviation.

        x' + origin = x / deviation, in which a layer without bias is linear.
        """
        return self.mean / self.deviation


@dataclass
class FeatureBank:
    """Real features by class.

    Attributes:
        features (float32 or float16 [K, D]): the sampled features, sorted by class.
        counts (int64 [C]): how many of them belong to each class; 0 for unseen classes.
        pixel_counts (int64 [C]): labelled pixels met in the training set, before sampling.
    """
    features: np.ndarray
    counts: np.ndarray
    pixel_counts: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """int64 [C]: row where each class begins."""
        return np.cumsum(self.counts) - self.counts

    @property
    def present_ids(self) -> np.ndarray:
        """int64 [S]: the classes that have features, which are seen ones."""
        return np.flatnonzero(self.counts)

    @property
    def feature_dim(self) -> int:
        return self.features.shape[1]

    def of(self, class_id: int) -> np.ndarray:
        """[K_c, D]: the features of one class, in their dtype."""
        start = self.starts[class_id]
        return self.features[start:start + self.counts[class_id]]

    def prototypes(self, class_ids: np.ndarray) -> np.ndarray:
        """[len(class_ids), D]: mean feature of each class, in the dtype of features."""
        return np.stack([self.of(class_id).mean(0) for class_id in class_ids])

    def moments(self) -> Moments:
        """Means of the present classes, float64 [S, D], and the covariance within classes.

        The covariance, float64 [D, D], is the mean of the classes' own unbiased ones: every class
        weighs alike, however many features it has. A class with one feature has none and takes
        no part; without any other it is zero.
        """
        present, counts = self.present_ids, self.counts[self.present_ids]
        means = np.stack([self.of(c).mean(0, dtype=np.float64) for c in present])
        weights = 1 / np.sqrt(np.maximum(counts - 1, 1) * max(np.count_nonzero(counts > 1), 1))
        places = np.repeat(np.arange(len(present)), counts)
        covariance = np.zeros((self.feature_dim, self.feature_dim))
        for start in range(0, len(places), _BLOCK):  # which also bounds the memory
            own = places[start:start + _BLOCK]
            rows = self.features[start:start + _BLOCK] - means[own]
            rows *= weights[own, None]
            covariance += rows.T @ rows
        return means, covariance

    def scale(self) -> "Scale":
        """Mean and standard deviation of a feature, every present class weighing alike.

        A dimension that never varies gets deviation 1, so that dividing by it is harmless.
        """
        present = self.present_ids
        mean = np.mean([self.of(c).mean(0, dtype=np.float64) for c in present], axis=0)
        variance = np.mean([np.square(self.of(c) - mean).mean(0) for c in present], axis=0)
        deviation = np.sqrt(variance)
        deviation[deviation <= 1e-6 * deviation.max()] = 1.0
        return Scale(mean.astype(np.float32), deviation.astype(np.float32))

    def renumbered(self, class_ids: Sequence[int | None]) -> "FeatureBank":
        """The bank of other classes: class i is class ``class_ids[i]`` of this one.

        An id stands there at most once; None is for a class without features. The features are
        those of this bank, not a copy, where all stay in their order.
        """
        known = np.array([class_id is not None for class_id in class_ids], bool)
        ids = np.array([class_id or 0 for class_id in class_ids], np.int64)
        rows = [np.arange(start, start + count) for start, count in zip(
            self.starts[ids[known]], self.counts[ids[known]])]
        order = np.concatenate(rows)
        same = np.array_equal(order, np.arange(len(self.features)))
        return FeatureBank(self.features if same else self.features[order],
                           np.where(known, self.counts[ids], 0),
                           np.where(known, self.pixel_counts[ids], 0))

    def scaled(self, scale: "Scale") -> "FeatureBank":
        """The bank with its features standardized by ``scale``, float32."""
        features = self.features - scale.mean
        features /= scale.deviation  # in place, for a bank may fill a good part of the memory
        return FeatureBank(features, self.counts, self.pixel_counts)

    def draw(self, class_ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int64 [len(class_ids)]: a row of ``features``, with replacement, for each class id."""
        return self.starts[class_ids] + (rng.random(len(class_ids))
                                         * self.counts[class_ids]).astype(np.int64)

    def save(self, path: str) -> None:
        """Write the bank to an ``.npz`` file, atomically."""
        save_arrays(path, {"features": self.features, "counts": self.counts,
                           "pixel_counts": self.pixel_counts})

    @classmethod
    def load(cls, path: str) -> "FeatureBank":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing, torn, not as its stage has left it, not a bank, empty,
                or not finite.
        """
        advice = "make it anew with --stage features --restart"
        require_unchanged(path)
        try:
            content = read_npz(path)
            bank = cls(*(content[key] for key in ("features", "counts", "pixel_counts")))
        except FileNotFoundError:
            raise UserError(f"no feature bank at {path}; {advice}") from None
        except (OSError, LookupError, ValueError) as error:
            raise UserError(f"{path} is not a whole feature bank ({error}); {advice}") from None
        if not bank._is_consistent():
            raise UserError(f"{path} is no feature bank: {bank.features.shape} features, counts "
                            f"{bank.counts.tolist()}; {advice}")
        if not len(bank.features):
            raise UserError(f"the feature bank {path} is empty; {advice}")
        if not np.isfinite(bank.features).all():
            raise UserError(f"{path} holds features that are not finite, so stage segmentor has "
                            f"diverged; train it again with a lower learning rate")
        return bank

    def _is_consistent(self) -> bool:
        """Tell whether the arrays fit together as the attributes say."""
        counts = self.counts
        return bool(self.features.ndim == 2 and self.features.dtype.kind == "f"
                    and counts.ndim == 1 and counts.shape == self.pixel_counts.shape
                    and counts.dtype.kind == self.pixel_counts.dtype.kind == "i"
                    and (counts >= 0).all() and counts.sum() == len(self.features))
