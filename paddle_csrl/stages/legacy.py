"""ZS3Net's published sampler for stage 3, which LEAKS: it reads labels of unseen classes.

Nothing else in the project does. It serves to repeat published figures and to measure what the
leak is worth; ``classifier.mode: legacy`` asks for it, and whoever does is told.
"""

from typing import Any

import numpy as np

from paddle_csrl.bank.batches import FeatureBatches, as_table
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.stages.base import StageContext


class LegacyBatches(FeatureBatches):
    """Features laid out by the real labels of all training images, unseen classes included.

    In an image with a pixel of an unseen class every pixel gets a generated feature of its
    class, in all others a real one. The layer is a 1×1 convolution, for which a pixel's place
    means nothing, so that features are drawn by the labels' composition: an image, then a class
    by its share of the image. Both are drawn at once from the mean composition.

    Args:
        generated (float32 array [K, P, D]): features of the classes ``generated_ids`` [K].
        label_counts (int array [N, C]): pixels of every class in every training image.
        batch_size (int): features per item, n; there are ``length`` items.

    Item: ``img`` float32 [D, n, 1] and ``label`` int64 [n, 1]. A class without features is left
    out.
    """

    def __init__(self, bank: FeatureBank, generated: np.ndarray, generated_ids: np.ndarray,
                 label_counts: np.ndarray, unseen_ids: np.ndarray, batch_size: int, length: int,
                 seed: int):
        super().__init__([bank.features, as_table(generated)], length, seed)
        self.bank, self.batch_size, self.per_class = bank, batch_size, generated.shape[1]
        compositions = label_counts / label_counts.sum(1, keepdims=True).clip(min=1)
        with_unseen = label_counts[:, unseen_ids].any(1)
        self.row_of = np.full(len(bank.counts), -1)
        self.row_of[generated_ids] = np.arange(len(generated_ids))
        weights = np.concatenate([compositions[~with_unseen].sum(0) * (bank.counts > 0),
                                  compositions[with_unseen].sum(0) * (self.row_of >= 0)])
        #: float64 [2C]: how often a feature of each class is real, then how often generated.
        self.probabilities = weights / weights.sum()

    @classmethod
    def of(cls, section: Any, bank: FeatureBank, generated: np.ndarray, unseen_ids: np.ndarray,
           seed: int, label_counts: np.ndarray) -> "LegacyBatches":
        """Make the batches of a section ``classifier``; ``generated`` is [S + U, P, D]."""
        generated_ids = np.concatenate([bank.present_ids, unseen_ids])
        return cls(bank, generated, generated_ids, label_counts, unseen_ids,
                   batch_size=section.batch_size, length=section.iters, seed=seed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        drawn = rng.choice(len(self.probabilities), self.batch_size, p=self.probabilities)
        is_generated, labels = np.divmod(drawn, len(self.row_of))
        real, made = labels[is_generated == 0], labels[is_generated == 1]
        columns = rng.integers(self.per_class, size=len(made))
        of_made = len(self.bank.features) + self.row_of[made] * self.per_class + columns
        return {"img": self.image(np.concatenate([self.bank.draw(real, rng), of_made])),
                "label": np.concatenate([real, made])[:, None].astype(np.int64)}


def label_counts(context: StageContext) -> np.ndarray:
    """Count the pixels int64 [N, C] of all classes in the training images, whatever the policy."""
    if not context.config.leaks:
        raise RuntimeError("must never happen: labels of unseen classes are about to be read "
                           "without `classifier.mode: legacy`")
    return context.builder.train_dataset.leaked_label_counts()
