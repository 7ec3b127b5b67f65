"""ZS3Net's generator against NumPy, and its loss against a loop."""

import numpy as np
import paddle
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.losses import MMDLoss
from paddle_csrl.models import MLPGenerator

C, N, W, Z, H, D = 4, 3, 5, 2, 7, 6


def build(**options):
    paddle.seed(0)
    return MLPGenerator(W, D, **{"noise_dim": Z, "hidden_dim": H, "dropout": 0.0, **options})


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(C, W)).astype(np.float32)


def test_features_are_the_mlp_of_embedding_and_noise(embeddings):
    model = build()
    noise = np.random.default_rng(1).normal(size=(C, N, Z)).astype(np.float32)
    features, relations = model(paddle.to_tensor(embeddings), N, paddle.to_tensor(noise))
    (w1, b1), (w2, b2) = [(layer.weight.numpy(), layer.bias.numpy())
                          for layer in (model.mlp[0], model.mlp[3])]
    for i in range(C):
        for n in range(N):
            hidden = np.concatenate([embeddings[i], noise[i, n]]) @ w1 + b1
            hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
            np.testing.assert_allclose(features[i, n].numpy(), hidden @ w2 + b2, rtol=1e-4,
                                       atol=1e-5)
    norms = np.linalg.norm(embeddings, axis=1)
    assert len(relations) == 1
    np.testing.assert_allclose(relations[0].numpy(),
                               embeddings @ embeddings.T / np.outer(norms, norms), atol=1e-6)


def test_a_class_is_generated_alike_whatever_the_others_are(embeddings):
    model = build()
    noise = paddle.ones([C, N, Z])
    changed = embeddings.copy()
    changed[1:] += 1
    first, second = (model(paddle.to_tensor(a), N, noise).features.numpy()
                     for a in (embeddings, changed))
    assert np.array_equal(first[0], second[0]) and not np.allclose(first[1:], second[1:])


@pytest.mark.parametrize("start", [0, 1, C])
def test_the_last_classes_alone_are_those_of_all(embeddings, start):
    def made(make, *args):
        paddle.seed(0)
        return make(paddle.to_tensor(embeddings), N, *args)

    model = build(dropout=0.5)
    features = made(model).features.numpy()[start:]
    assert np.array_equal(made(model.last_features, start).numpy(), features)
    np.testing.assert_allclose(made(model.last_prototypes, start).numpy(), features.mean(1),
                               atol=1e-6)


def test_weights_start_as_zs3nets():
    model = build(hidden_dim=200, noise_dim=195)
    assert (model.mlp[0].bias.numpy() == np.float32(0.01)).all()
    assert (model.mlp[3].bias.numpy() == np.float32(0.01)).all()
    limit = np.sqrt(6 / (200 + 200))  # Glorot and Bengio, 2010
    assert 0.98 * limit < np.abs(model.mlp[0].weight.numpy()).max() <= limit


@pytest.mark.parametrize("noise, low, high, mean, spread", [
    ("uniform", 0, 1, 0.5, 1 / 12), ("gaussian", -9, 9, 0.0, 1.0)])
def test_noise_has_the_named_distribution(embeddings, noise, low, high, mean, spread):
    drawn = build(noise=noise).draw_noise([C, 500, 20], paddle.to_tensor(embeddings)).numpy()
    assert drawn.dtype == np.float32 and low <= drawn.min() and drawn.max() < high
    assert abs(drawn.mean() - mean) < 0.02 and abs(drawn.var() - spread) < 0.02
    assert noise == "uniform" or drawn.min() < -2


def test_noise_and_dropout_follow_the_seed(embeddings):
    model = build(dropout=0.5)
    drawn = []
    for seed in (3, 3, 4):
        paddle.seed(seed)
        drawn.append(model(paddle.to_tensor(embeddings), N).features.numpy())
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_every_weight_gets_a_gradient(embeddings):
    model = build()
    model(paddle.to_tensor(embeddings), N).features.square().sum().backward()
    assert all(float(weight.grad.abs().sum()) > 0 for weight in model.parameters())


@pytest.mark.parametrize("options, match", [
    ({"noise": "normal"}, "MLPGenerator: noise must be one of gaussian, uniform, got 'normal'"),
    ({"noise": ["uniform"]}, "MLPGenerator: noise must be one of"),
    ({"noise_dim": 0}, "MLPGenerator: noise_dim must be an integer >= 1, got 0"),
    ({"hidden_dim": 2.5}, "MLPGenerator: hidden_dim must be an integer >= 1"),
    ({"dropout": 1.0}, r"MLPGenerator: dropout must be in \[0, 1\), got 1.0"),
])
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        build(**options)


def test_bad_inputs_are_refused(embeddings):
    model, embeddings = build(), paddle.to_tensor(embeddings)
    with pytest.raises(UserError, match=r"MLPGenerator: embeddings must be \[C, 5\]"):
        model(embeddings[:, :4], N)
    with pytest.raises(UserError, match=r"MLPGenerator: noise must be \[4, 3, 2\]"):
        model(embeddings, N, paddle.zeros([C, N, Z + 1]))
    with pytest.raises(UserError, match=r"row\(s\) \[0, 1, 2, 3\]"):
        model(embeddings * 0, N)


def zs3net_loss(x, y):
    """The loss of one class: the root of MMD², kernel by kernel and pair by pair."""
    def kernel(a, b):
        return sum(np.exp((a @ b - a @ a / 2 - b @ b / 2) / v) for v in (2, 5, 10, 20, 40, 80))

    total = sum(weight * kernel(a, b) / (len(one) * len(other))
                for one, other, weight in ((x, x, 1), (y, y, 1), (x, y, -2))
                for a in one for b in other)
    return np.sqrt(total)


def test_the_loss_of_its_configs_is_zs3nets_class_by_class():
    rng = np.random.default_rng(5)
    generated, real = rng.normal(size=(3, 4, D)), rng.normal(1.0, 2.0, size=(3, 5, D))
    loss = MMDLoss(bandwidths=[2, 5, 10, 20, 40, 80], squared=False)
    found = float(loss(paddle.to_tensor(generated), paddle.to_tensor(real)))
    assert found == pytest.approx(np.mean([zs3net_loss(*pair) for pair in zip(generated, real)]),
                                  rel=1e-9)
