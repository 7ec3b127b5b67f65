"""The batches of stages 2 and 3, drawn from the feature bank and from the generator.

Items are whole batches and depend on the seed and their index alone, so that any split of the
indices among workers or devices gives the same data.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config.schema import AUTO

#: How real samples are spread over seen classes: exponent of a class's pixel count.
CLASS_BALANCE = {"balanced": 0.0, "sqrt": 0.5, "frequency": 1.0}


class FeatureBatches(paddle.io.Dataset):
    """Batches of rows, drawn on the host, of tables of features, which may be on the device.

    Args:
        tables (sequence of float32 array [K_i, D]): numbered through, one below the other.
        length (int): number of items.
        seed (int): of the draws.

    Items hold arrays or, after ``to_device``, tensors of the same values.
    """

    def __init__(self, tables: Sequence[np.ndarray], length: int, seed: int):
        self.tables, self.length, self.seed = tables, length, seed
        self._on_device: paddle.Tensor | None = None

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(table.nbytes for table in self.tables)

    def to_device(self) -> None:
        """Copy the tables to Paddle's device, for a moment twice; items are cut there from now."""
        self._on_device = paddle.concat([paddle.to_tensor(table) for table in self.tables
                                         if len(table)])

    def features(self, rows: np.ndarray) -> np.ndarray | paddle.Tensor:
        """Float32 [..., D], the features in ``rows``, int64 [...]."""
        if self._on_device is not None:
            taken = self._on_device.gather(paddle.to_tensor(rows.ravel()))
            return taken.reshape([*rows.shape, taken.shape[1]])
        first, *others = self.tables
        features, start = first.take(rows, axis=0, mode="clip"), len(first)
        for table in others:  # mostly few of the rows, put over those that were clipped
            inside = (start <= rows) & (rows < start + len(table))
            features[inside] = table[rows[inside] - start]
            start += len(table)
        return features

    def image(self, rows: np.ndarray) -> np.ndarray | paddle.Tensor:
        """Float32 [D, n, 1], the features in ``rows`` [n] as an image one pixel wide.

        PaddleSeg's own layers and losses apply to it.
        """
        features = self.features(rows)
        if isinstance(features, paddle.Tensor):
            return features.T.unsqueeze(2)
        return np.ascontiguousarray(features.T[:, :, None])


class GeneratorBatches(FeatureBatches):
    """Real features of every seen class, M = ``num_samples`` at a time, in ``length`` items.

    Item: ``img`` float32 [S, M, D]; ``label`` int64 [S], how many of the M are valid. A class
    with fewer than M features in the bank gives each of them once.
    """

    #: Keys of arrays that are not made tensors, for losses read them.
    on_host = ("label",)

    def __init__(self, bank: FeatureBank, seen_ids: np.ndarray, num_samples: int, length: int,
                 seed: int):
        super().__init__([bank.features], length, seed)
        self.num_samples, self.last = num_samples, len(bank.features) - 1
        self.counts, self.starts = bank.counts[seen_ids], bank.starts[seen_ids]
        self.valid = np.minimum(self.counts, num_samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        counts = np.maximum(self.counts, 1)[:, None]
        drawn = (rng.random((len(counts), self.num_samples)) * counts).astype(np.int64)
        each_once = np.arange(self.num_samples) % counts
        rows = self.starts[:, None] + np.where(counts >= self.num_samples, drawn, each_once)
        return {"img": self.features(np.minimum(rows, self.last)), "label": self.valid}


class ClassifierBatches(FeatureBatches):
    """Real seen and generated unseen features with their classes.

    Args:
        generated (float32 array [U, P, D]): generated features of the classes ``unseen_ids`` [U].
        batch_size (int): features per item, n.
        unseen_share (float or "auto"): expected share of generated features, in [0, 1);
            ``auto`` gives every class, seen or unseen, the same share.
        class_balance (str): how the real ones are spread over seen classes, of ``CLASS_BALANCE``.
        length (int): number of items.

    Item: ``img`` float32 [D, n, 1] and ``label`` int64 [n, 1].
    """

    def __init__(self, bank: FeatureBank, generated: np.ndarray, unseen_ids: np.ndarray,
                 batch_size: int, unseen_share: float | str, class_balance: str,
                 length: int, seed: int):
        self.seen_ids = bank.present_ids
        share = (len(unseen_ids) / (len(unseen_ids) + len(self.seen_ids))
                 if unseen_share == AUTO else float(unseen_share))
        super().__init__([bank.features, as_table(generated)], length, seed)
        self.bank, self.unseen_ids = bank, unseen_ids
        self.batch_size, self.per_class = batch_size, generated.shape[1]
        self.unseen_share = share if len(unseen_ids) else 0.0
        weights = bank.pixel_counts[self.seen_ids] ** CLASS_BALANCE[class_balance]
        self.seen_probabilities = weights / weights.sum()

    @classmethod
    def of(cls, section: Any, bank: FeatureBank, generated: np.ndarray, unseen_ids: np.ndarray,
           seed: int, **options: Any) -> "ClassifierBatches":
        """Make the batches of a section ``classifier``; ``options`` are for a subclass."""
        return cls(bank, generated, unseen_ids, section.batch_size,
                   unseen_share=section.unseen_share, class_balance=section.class_balance,
                   length=section.iters, seed=seed, **options)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        num_unseen = rng.binomial(self.batch_size, self.unseen_share)
        seen = rng.choice(self.seen_ids, self.batch_size - num_unseen, p=self.seen_probabilities)
        rows, labels = self.bank.draw(seen, rng), seen
        if num_unseen:
            of_unseen, unseen = self.draw_unseen(num_unseen, rng)
            rows = np.concatenate([rows, of_unseen])
            labels = np.concatenate([labels, unseen])
        return {"img": self.image(rows), "label": labels[:, None].astype(np.int64)}

    def draw_unseen(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows [number] of unseen classes and their class ids [number]."""
        places = rng.integers(len(self.unseen_ids), size=number)
        columns = rng.integers(self.per_class, size=number)
        return (len(self.bank.features) + places * self.per_class + columns,
                self.unseen_ids[places])


def as_table(generated: np.ndarray) -> np.ndarray:
    """Features [U, P, D] of classes as rows [U * P, D], not copied."""
    return generated.reshape([-1, generated.shape[2]])
