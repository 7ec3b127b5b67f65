"""Generators without training, against what their formulas say and by what they minimise."""

import numpy as np
import paddle
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.models import ConvexPrototypes, MeanPrototypes, RidgePrototypes

D = 3
BOTH = [RidgePrototypes, ConvexPrototypes, MeanPrototypes]


def made(seen, width, seed=0):
    """Embeddings of seen and of two more classes, prototypes and a covariance."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(D, D))
    return (rng.normal(size=(seen, width)), rng.normal(size=(2, width)),
            rng.normal(size=(seen, D)) + 5, root @ root.T)


def prototypes(model, embeddings):
    return model.prototypes(paddle.to_tensor(embeddings.astype(np.float32))).numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("seen, width", [(4, 7), (7, 4), (5, 5), (1, 3)])
@pytest.mark.parametrize("ridge", [0.1, 2.0])
def test_ridge_solves_the_normal_equations_with_a_free_intercept(seen, width, ridge):
    embeddings, new, targets, covariance = made(seen, width)
    model = RidgePrototypes(width, D, ridge=ridge)
    model.fit(embeddings, targets, covariance)
    design = np.concatenate([unit(embeddings), np.ones((seen, 1))], axis=1)
    penalty = np.diag([ridge] * width + [0.0])
    weight = np.linalg.solve(design.T @ design + penalty, design.T @ targets)
    expected = np.concatenate([unit(new), np.ones((2, 1))], axis=1) @ weight
    np.testing.assert_allclose(prototypes(model, new), expected, rtol=1e-4, atol=1e-4)


def test_much_ridge_leaves_the_mean_of_the_seen_prototypes_and_little_their_own():
    embeddings, new, targets, covariance = made(4, 7)
    model = RidgePrototypes(7, D, ridge=1e6)
    model.fit(embeddings, targets, covariance)
    np.testing.assert_allclose(prototypes(model, new), np.tile(targets.mean(0), (2, 1)), rtol=1e-4)
    model = RidgePrototypes(7, D, ridge=1e-6)
    model.fit(embeddings, targets, covariance)
    np.testing.assert_allclose(prototypes(model, embeddings), targets, rtol=1e-3)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 3.0])
def test_convex_mixes_the_seen_prototypes_by_softmax_of_cosines(temperature):
    embeddings, new, targets, covariance = made(5, 4)
    model = ConvexPrototypes(4, D, temperature=temperature)
    model.fit(embeddings, targets, covariance)
    for row, found in zip(new, prototypes(model, new)):
        weights = np.array([np.exp(row @ a / np.linalg.norm(row) / np.linalg.norm(a) / temperature)
                            for a in embeddings])
        np.testing.assert_allclose(found, weights / weights.sum() @ targets, rtol=1e-4)


def test_the_mean_is_half_way_between_the_others():
    embeddings, others, means, covariance = made(6, 4)
    models = [kind(4, D, **arguments) for kind, arguments in (
        (RidgePrototypes, {"ridge": 0.3}), (ConvexPrototypes, {"temperature": 0.2}),
        (MeanPrototypes, {"ridge": 0.3, "temperature": 0.2}))]
    for model in models:
        model.fit(embeddings, means, covariance)
    ridge, convex, mean = (prototypes(model, others) for model in models)
    assert np.abs(ridge - convex).max() > 0.1
    np.testing.assert_allclose(mean, (ridge + convex) / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_the_length_of_an_embedding_means_nothing(kind):
    embeddings, new, targets, covariance = made(5, 4)
    model = kind(4, D)
    model.fit(embeddings, targets, covariance)
    first = prototypes(model, new)
    model.fit(embeddings * 7, targets, covariance)
    np.testing.assert_allclose(prototypes(model, new * 3), first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_features_have_the_prototype_as_mean_and_the_covariance_of_real_ones(kind):
    embeddings, new, targets, covariance = made(5, 4)
    model = kind(4, D)
    model.fit(embeddings, targets, covariance)
    paddle.seed(0)
    features, relations = model(paddle.to_tensor(new.astype(np.float32)), 20000)
    np.testing.assert_allclose(features.numpy().mean(1), prototypes(model, new), atol=0.1)
    last = model.last_prototypes(paddle.to_tensor(new.astype(np.float32)), 1, start=1)
    np.testing.assert_allclose(last.numpy(), prototypes(model, new)[1:], rtol=1e-6)
    for rows in features.numpy():
        np.testing.assert_allclose(np.cov(rows.T), covariance, atol=0.05 * np.trace(covariance))
    np.testing.assert_allclose(relations[0].numpy(), unit(new) @ unit(new).T, atol=1e-5)


def test_a_covariance_of_rank_one_stays_on_its_line():
    embeddings, new, targets, _ = made(5, 4)
    line = np.array([1.0, -2.0, 0.5])
    model = RidgePrototypes(4, D)
    model.fit(embeddings, targets, np.outer(line, line))
    features = model(paddle.to_tensor(new.astype(np.float32)), 50).features.numpy()
    noise = features - prototypes(model, new)[:, None]
    along = noise @ line / (line @ line)
    assert along.std() == pytest.approx(1, abs=0.3)
    np.testing.assert_allclose(noise, along[..., None] * line, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_weights_fit_whatever_the_number_of_classes_they_are_of(kind):
    embeddings, new, targets, covariance = made(6, 4)
    model, other = kind(4, D), kind(4, D)
    model.fit(embeddings, targets, covariance)
    state = model.state_dict()
    other.make_room(state)
    other.set_state_dict(state)
    assert np.array_equal(prototypes(other, new), prototypes(model, new))
    assert [list(value.shape) for value in other.state_dict().values()] == [
        list(value.shape) for value in state.values()]


@pytest.mark.parametrize("kind", BOTH)
def test_weights_of_other_dimensions_get_no_room(kind):
    state, model = kind(5, D).state_dict(), kind(4, D)
    model.make_room(state)
    assert [list(value.shape) for value in model.state_dict().values()] != [
        list(value.shape) for value in state.values()]


@pytest.mark.parametrize("kind, name", [(RidgePrototypes, "ridge"),
                                        (ConvexPrototypes, "temperature")])
@pytest.mark.parametrize("value", [0, -1.0, True, "much", None, float("nan")])
def test_an_argument_out_of_its_range_is_named(kind, name, value):
    with pytest.raises(UserError, match=f"{kind.__name__}: {name} must be a number of at least "
                                        f"1e-06, got {value!r}"):
        kind(4, D, **{name: value})


@pytest.mark.parametrize("kind", BOTH)
def test_an_embedding_of_zeros_is_named(kind):
    embeddings, _, targets, covariance = made(5, 4)
    embeddings[2] = 0
    with pytest.raises(UserError, match=r"row\(s\) \[2\]"):
        kind(4, D).fit(embeddings, targets, covariance)
