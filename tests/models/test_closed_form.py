"""The discriminant of Gaussians of one covariance, against their densities."""

import numpy as np
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.models.closed_form import Discriminant

C, D = 5, 4


def made(seed=0, classes=C, dim=D):
    """Means, a full covariance and points between the means."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim)) + np.eye(dim)
    return rng.normal(size=(classes, dim)), root @ root.T, rng.normal(size=(200, dim))


def logits(means, covariance, points, shrinkage=0.0):
    weight, bias = Discriminant.of(covariance, shrinkage).layer(means)
    return points @ weight.T + bias


def log_densities(means, covariance, points):
    """log N(x; μ_c, Σ) by the formula, class by class and point by point."""
    inverse, (_, log_det) = np.linalg.inv(covariance), np.linalg.slogdet(covariance)
    return np.array([[-0.5 * ((x - m) @ inverse @ (x - m) + log_det + len(x) * np.log(2 * np.pi))
                      for m in means] for x in points])


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 3.0])
def test_logits_are_log_densities_but_for_what_all_classes_share(shrinkage):
    means, covariance, points = made()
    shrunk = covariance + shrinkage * np.diag(covariance).mean() * np.eye(D)
    ours, theirs = logits(means, covariance, points, shrinkage), log_densities(
        means, shrunk, points)
    np.testing.assert_allclose(ours - ours[:, :1], theirs - theirs[:, :1], atol=1e-9)
    assert np.array_equal(ours.argmax(1), theirs.argmax(1))
    assert len(np.unique(ours.argmax(1))) == C


def test_by_hand():
    means, covariance = np.array([[2.0, 0.0], [0.0, 4.0]]), np.diag([1.0, 4.0])
    weight, bias = Discriminant.of(covariance, 0.0).layer(means)
    np.testing.assert_allclose(weight, [[2, 0], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(bias, [-2, -2], atol=1e-12)
    weight, bias = Discriminant.of(covariance, 0.4).layer(means)  # 0.4 · 2.5 on the diagonal
    np.testing.assert_allclose(weight, [[1, 0], [0, 0.8]], atol=1e-12)
    np.testing.assert_allclose(bias, [-1, -1.6], atol=1e-12)


def test_the_order_of_classes_means_nothing():
    means, covariance, points = made(1)
    order = np.random.default_rng(0).permutation(C)
    np.testing.assert_allclose(logits(means[order], covariance, points),
                               logits(means, covariance, points)[:, order], atol=1e-12)


def test_a_class_does_not_depend_on_the_others():
    means, covariance, points = made(2)
    np.testing.assert_allclose(logits(means[:2], covariance, points, 0.1),
                               logits(means, covariance, points, 0.1)[:, :2], atol=1e-12)


def test_linear_maps_of_the_features_change_nothing_without_shrinkage():
    means, covariance, points = made(3)
    turn = np.random.default_rng(4).normal(size=(D, D))
    mapped = logits(means @ turn.T, turn @ covariance @ turn.T, points @ turn.T)
    np.testing.assert_allclose(mapped, logits(means, covariance, points), rtol=1e-7, atol=1e-7)


def test_shrinkage_makes_fewer_features_than_channels_do():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(3, D))
    covariance = np.cov(rows.T)  # of rank 2
    means, points = rng.normal(size=(C, D)), rng.normal(size=(50, D))
    shrunk = covariance + 0.1 * np.diag(covariance).mean() * np.eye(D)
    assert np.array_equal(logits(means, covariance, points, 0.1).argmax(1),
                          log_densities(means, shrunk, points).argmax(1))


@pytest.mark.parametrize("covariance", [
    np.cov(np.random.default_rng(5).normal(size=(3, D)).T),  # rounded to a regular one, perhaps
    np.diag([1.0, 1.0, 0.0, 1.0]), np.diag([1.0, 1e-17, 1.0, 1.0]), np.ones((D, D))])
def test_a_singular_covariance_is_told(covariance):
    with pytest.raises(UserError, match="shrinkage: 0.0` leaves the covariance of the 4 channels "
                                        "singular"):
        Discriminant.of(covariance, 0.0)
    assert np.isfinite(Discriminant.of(covariance, 0.1).layer(np.ones((1, D)))[0]).all()


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_features_that_do_not_vary_are_told(shrinkage):
    with pytest.raises(UserError, match="needs features that vary within a class"):
        Discriminant.of(np.zeros((D, D)), shrinkage)
