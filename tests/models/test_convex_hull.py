"""The projection onto the convex hull, against geometry by hand and a general optimiser."""

import numpy as np
import paddle
import pytest
from scipy.optimize import minimize

from paddle_csrl.models import GeneratorTask, StructuralGenerator
from paddle_csrl.models.convex_hull import project_to_hull

SQUARE = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])


@pytest.mark.parametrize("point, nearest", [
    ((1.0, 0.5), (1.0, 0.5)),  # inside
    ((1.0, -3.0), (1.0, 0.0)),  # under an edge
    ((5.0, 4.0), (2.0, 2.0)),  # beyond a corner
    ((2.0, 2.0), (2.0, 2.0)),  # a corner itself
])
def test_square(point, nearest):
    found, weights = project_to_hull(np.array([point]), SQUARE)
    np.testing.assert_allclose(found, [nearest], atol=1e-9)
    np.testing.assert_allclose(weights @ SQUARE, found, atol=1e-9)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_as_near_as_a_general_optimiser_comes(scale):
    rng = np.random.default_rng(0)
    vertices, points = scale * rng.normal(size=(6, 9)), scale * rng.normal(size=(4, 9))
    found, weights = project_to_hull(points, vertices)
    for point, own in zip(points, found):
        best = minimize(lambda w: np.square((w @ vertices - point) / scale).sum(),
                        np.full(6, 1 / 6), bounds=[(0, 1)] * 6, method="SLSQP",
                        options={"ftol": 1e-14},
                        constraints={"type": "eq", "fun": lambda w: w.sum() - 1})
        distance = np.square((own - point) / scale).sum()
        assert distance == pytest.approx(best.fun, abs=1e-7)
    np.testing.assert_allclose(weights.sum(1), 1)


def test_moves_with_the_points_and_does_nothing_twice():
    rng = np.random.default_rng(1)
    vertices, points, shift = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.normal(size=3)
    found, _ = project_to_hull(points, vertices)
    np.testing.assert_allclose(project_to_hull(points + shift, vertices + shift)[0], found + shift,
                               atol=1e-9)
    np.testing.assert_allclose(project_to_hull(found, vertices)[0], found, atol=1e-9)


def test_one_vertex_or_equal_vertices():
    for vertices in (np.ones((1, 4)), np.ones((3, 4))):
        found, _ = project_to_hull(np.zeros((2, 4)), vertices)
        np.testing.assert_allclose(found, np.ones((2, 4)))
    found, _ = project_to_hull(np.ones((1, 4)), np.ones((2, 4)))
    np.testing.assert_allclose(found, np.ones((1, 4)))


def _task(unseen_prototypes: str, outside_hull: float = 0.0) -> GeneratorTask:
    paddle.seed(0)
    rng = np.random.default_rng(0)
    generator = StructuralGenerator(embed_dim=3, feature_dim=5, noise_dim=2, hidden_dim=8,
                                    dropout=0.0)
    return GeneratorTask(generator, rng.normal(size=(6, 3)).astype("float32"),
                         rng.normal(size=(4, 5)).astype("float32"), [0, 1, 3, 5], [2, 4], 8,
                         unseen_prototypes=unseen_prototypes, outside_hull=outside_hull)


@pytest.mark.parametrize("outside", [0.0, 0.25, 1.0])
def test_generated_features_keep_their_spread_and_their_means_are_projected(outside):
    free, hull = _task("free"), _task("hull", outside)
    paddle.seed(1)
    before = free.generate_unseen(16).numpy()
    paddle.seed(1)
    after = hull.generate_unseen(16).numpy()
    np.testing.assert_allclose(after - after.mean(1, keepdims=True),
                               before - before.mean(1, keepdims=True), atol=1e-5)
    expected, _ = project_to_hull(before.mean(1), hull.prototypes.numpy())
    expected = outside * before.mean(1) + (1 - outside) * expected
    np.testing.assert_allclose(after.mean(1), expected, atol=1e-5)
    assert (np.abs(after - before).max() > 0.1) == (outside < 1)
