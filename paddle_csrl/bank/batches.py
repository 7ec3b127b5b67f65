"""The batches of stages 2 and 3, drawn from the feature bank and from the generator.

Items are whole batches and depend on the seed and their index alone, so that any split of the
indices among workers or devices gives the same data.
"""

from typing import Any

import numpy as np
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config.schema import AUTO

#: How real samples are spread over seen classes: exponent of a class's pixel count.
CLASS_BALANCE = {"balanced": 0.0, "sqrt": 0.5, "frequency": 1.0}


class GeneratorBatches(paddle.io.Dataset):
    """Real features of every seen class, M = ``num_samples`` at a time, in ``length`` items.

    Item: ``img`` float32 [S, M, D]; ``label`` int64 [S], how many of the M are valid. A class
    with fewer than M features in the bank gives each of them once.
    """

    #: Keys of arrays that are not made tensors, for losses read them.
    on_host = ("label",)

    def __init__(self, bank: FeatureBank, seen_ids: np.ndarray, num_samples: int, length: int,
                 seed: int):
        self.bank, self.num_samples, self.length, self.seed = bank, num_samples, length, seed
        self.counts, self.starts = bank.counts[seen_ids], bank.starts[seen_ids]
        self.valid = np.minimum(self.counts, num_samples)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        counts = np.maximum(self.counts, 1)[:, None]
        drawn = (rng.random((len(counts), self.num_samples)) * counts).astype(np.int64)
        each_once = np.arange(self.num_samples) % counts
        rows = self.starts[:, None] + np.where(counts >= self.num_samples, drawn, each_once)
        rows = np.minimum(rows, len(self.bank.features) - 1)
        return {"img": self.bank.features[rows], "label": self.valid}


class ClassifierBatches(paddle.io.Dataset):
    """Real seen and generated unseen features with their classes.

    Args:
        generated (float32 array [U, P, D]): generated features of the classes ``unseen_ids`` [U].
        batch_size (int): features per item, n.
        unseen_share (float or "auto"): expected share of generated features, in [0, 1);
            ``auto`` gives every class, seen or unseen, the same share.
        class_balance (str): how the real ones are spread over seen classes, of ``CLASS_BALANCE``.
        length (int): number of items.

    Item: ``img`` float32 [D, n, 1] and ``label`` int64 [n, 1], an image one pixel wide, so
    that PaddleSeg's own layers and losses apply.
    """

    def __init__(self, bank: FeatureBank, generated: np.ndarray, unseen_ids: np.ndarray,
                 batch_size: int, unseen_share: float | str, class_balance: str,
                 length: int, seed: int):
        self.seen_ids = bank.present_ids
        share = (len(unseen_ids) / (len(unseen_ids) + len(self.seen_ids))
                 if unseen_share == AUTO else float(unseen_share))
        self.bank, self.generated, self.unseen_ids = bank, generated, unseen_ids
        self.batch_size, self.length, self.seed = batch_size, length, seed
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

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        num_unseen = rng.binomial(self.batch_size, self.unseen_share)
        seen = rng.choice(self.seen_ids, self.batch_size - num_unseen, p=self.seen_probabilities)
        features, labels = self.bank.draw(seen, rng), seen
        if num_unseen:
            of_unseen, unseen = self.draw_unseen(num_unseen, rng)
            features = np.concatenate([features, of_unseen])
            labels = np.concatenate([labels, unseen])
        return {"img": np.ascontiguousarray(features.T[:, :, None]),
                "label": labels[:, None].astype(np.int64)}

    def draw_unseen(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Features [number, D] of unseen classes and their class ids [number]."""
        rows = rng.integers(len(self.unseen_ids), size=number)
        columns = rng.integers(self.generated.shape[1], size=number)
        return self.generated[rows, columns], self.unseen_ids[rows]
