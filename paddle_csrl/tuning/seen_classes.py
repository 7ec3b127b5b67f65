"""The seen classes, numbered anew, without a trace of the others: all that tuning may know."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.errors import UserError

#: Classes with fewer rows take no part: both training and scoring need some.
MIN_ROWS = 4


@dataclass
class SeenClasses:
    """The seen classes that have features; class i is row i of everything.

    Attributes:
        names (list[str]): S names.
        embeddings (float32 [S, d_w]): class embeddings.
        bank (FeatureBank): raw features of these S classes.
        num_unseen (int): how many classes are unseen, the one thing known of them.
        normalizes (bool): whether stages 2 and 3 work on standardized features.
        has_bias (bool): whether the segmentor's classification layer has a bias.
    """
    names: list[str]
    embeddings: np.ndarray
    bank: FeatureBank
    num_unseen: int
    normalizes: bool = True
    has_bias: bool = True

    def digest(self) -> str:
        """Hash of all that scores depend on."""
        digest = hashlib.sha256(
            f"{self.num_unseen} {self.normalizes} {self.has_bias}".encode())
        for array in (self.embeddings, self.bank.features, self.bank.counts,
                      self.bank.pixel_counts):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @classmethod
    def from_bank(cls, bank: FeatureBank, embeddings: np.ndarray, names: Sequence[str],
                  unseen_ids: np.ndarray, normalizes: bool = True,
                  has_bias: bool = True) -> "SeenClasses":
        """Leave the unseen classes behind, and those with fewer than ``MIN_ROWS`` features.

        Args:
            bank: raw features of C classes, none of them of an unseen one.
            embeddings: float32 [C, d_w].
            names: C names.
            unseen_ids: int64 [U].
            normalizes, has_bias: as the attributes.

        Raises:
            UserError: the bank holds features of an unseen class.
        """
        leaked = [names[c] for c in unseen_ids if bank.counts[c]]
        if leaked:
            raise UserError(f"the feature bank holds features of unseen classes "
                            f"({', '.join(leaked)}); make it anew with --stage features")
        kept = np.flatnonzero(bank.counts >= MIN_ROWS)
        rows = np.repeat(bank.counts >= MIN_ROWS, bank.counts)
        return cls([names[c] for c in kept], embeddings[kept],
                   FeatureBank(bank.features[rows], bank.counts[kept], bank.pixel_counts[kept]),
                   len(unseen_ids), normalizes, has_bias)
