"""The place of a class that a network never saw among those it did."""

import numpy as np
from scipy.optimize import nnls


def project_to_hull(points: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest points of the convex hull of ``vertices``.

    The nearest point to p is p + Σ w_s (v_s − p), the point of least norm in the hull of the
    v_s − p. Its weights are, up to their sum, those w ≥ 0 that minimise
    ‖Σ w_s (v_s − p)‖² + (Σ w_s − 1)², a non-negative least squares problem.

    Args:
        points: [U, D].
        vertices: [S, D], S ≥ 1.

    Returns:
        The nearest points, float64 [U, D], and their weights, float64 [U, S], ≥ 0 with sum 1:
        the relations of each point to the vertices in barycentric form.
    """
    points, vertices = np.asarray(points, np.float64), np.asarray(vertices, np.float64)
    weights = np.zeros((len(points), len(vertices)))
    for row, point in zip(weights, points):
        differences = vertices - point
        # On the scale of the differences the row of ones weighs neither too much nor nothing.
        unit = max(np.linalg.norm(differences, axis=1).mean(), np.finfo(np.float64).tiny)
        system = np.concatenate([differences.T / unit, np.ones((1, len(vertices)))])
        target = np.zeros(len(system))
        target[-1] = 1
        row[:], _ = nnls(system, target)
        row /= row.sum()
    return weights @ vertices, weights
