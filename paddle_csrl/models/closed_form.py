"""A classification layer without training: the discriminant of Gaussians of one covariance.

With means μ_c and the covariance Σ that all classes share, and no class likelier than another,
log p(c | x) is W_c x + b_c up to what all classes have in common, with

    W_c = Σ⁻¹ μ_c        and        b_c = −½ μ_cᵀ Σ⁻¹ μ_c.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky

from paddle_csrl.errors import UserError


class Discriminant(NamedTuple):
    """A covariance that is ready to be solved with, so that a class more costs next to nothing.

    ``factor``, float64 [D, D], is its lower Cholesky factor.
    """
    factor: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray, shrinkage: float) -> "Discriminant":
        """Factorize a covariance whose diagonal is raised by a share of its mean.

        Args:
            covariance: float64 [D, D], of any rank.
            shrinkage: the share, at least 0; above 0 it makes any covariance but zero regular.

        Raises:
            UserError: the covariance is zero, or singular and not shrunk.
        """
        size, mean = len(covariance), float(np.trace(covariance)) / len(covariance)
        if mean <= 0:
            raise UserError("`classifier.mode: closed_form` needs features that vary within a "
                            "class, and those of the bank do not; raise "
                            "`zero_shot.features.samples_per_class`, or take `mode: clean`")
        shrunk = covariance + shrinkage * mean * np.eye(size)
        try:
            factor = cholesky(shrunk, lower=True)
            pivots = np.square(np.diag(factor))
            singular = pivots.min() <= size * np.finfo(np.float64).eps * pivots.max()
        except LinAlgError:
            singular = True
        if singular:
            raise UserError(f"`classifier.shrinkage: {shrinkage}` leaves the covariance of the "
                            f"{size} channels singular, for some do not vary by themselves; raise "
                            f"it, such as to 0.1")
        return cls(factor)

    def layer(self, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight float64 [C, D] and bias float64 [C] of classes with ``means`` [C, D]."""
        weight = cho_solve((self.factor, True), np.asarray(means, np.float64).T).T
        return weight, -0.5 * np.einsum("cd,cd->c", weight, means)
