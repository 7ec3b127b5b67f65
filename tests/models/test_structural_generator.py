"""The generator against a loop over classes and samples in NumPy."""

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.models import structural_generator
from paddle_csrl.models.feature_generator import HostDropout
from paddle_csrl.models.structural_generator import StructuralGenerator

C, N, W, Z, H, D = 4, 3, 5, 2, 7, 6

#: Paddle 2.6 rounds the slope 0.2 of LeakyReLU to float32, in float64 networks too.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


@pytest.fixture
def generator():
    return build()


def build(num_layers=2, dropout=0.0):
    paddle.seed(0)
    model = StructuralGenerator(W, D, Z, num_layers, H, dropout)
    model.to(dtype="float64")
    return model


def inputs(classes=C, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(classes, W)), rng.normal(size=(classes, N, Z))


def run(model, embeddings, noise):
    output = model(paddle.to_tensor(embeddings), noise.shape[1], paddle.to_tensor(noise))
    return output.features.numpy(), [relation.numpy() for relation in output.relations]


def mlp_by_hand(mlp, vector):
    first, second = [(layer.weight.numpy(), layer.bias.numpy()) for layer in (mlp[0], mlp[3])]
    hidden = vector @ first[0] + first[1]
    return np.where(hidden > 0, hidden, 0.2 * hidden) @ second[0] + second[1]


def generate_by_loops(model, a, z):
    """Eqs. 1 to 3, one class, sample and pair at a time."""
    classes, samples = z.shape[:2]
    v = [[np.concatenate([a[i], z[i, n]]) for n in range(samples)] for i in range(classes)]
    e = [np.array([[a[i] @ a[j] / np.sqrt((a[i] @ a[i]) * (a[j] @ a[j]))
                    for j in range(classes)] for i in range(classes)])]
    for f_v, f_e in zip(model.feature_mlps, model.relation_mlps):
        p = [sum(v[i]) / samples for i in range(classes)]
        for i in range(classes):
            message = sum((e[-1][i, j] * p[j] for j in range(classes) if j != i),
                          np.zeros_like(p[0]))
            v[i] = [mlp_by_hand(f_v, np.concatenate([sample, message])) for sample in v[i]]
        p = [sum(v[i]) / samples for i in range(classes)]
        e.append(np.array([[mlp_by_hand(f_e, abs(p[i] - p[j]))[0] * e[-1][i, j]
                            for j in range(classes)] for i in range(classes)]))
    return np.array(v), e


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_agrees_with_loops(num_layers):
    model = build(num_layers)
    features, relations = run(model, *inputs())
    expected, edges = generate_by_loops(model, *inputs())
    assert features.shape == (C, N, D) and len(relations) == num_layers + 1
    np.testing.assert_allclose(features, expected, **CLOSE)
    for relation, edge in zip(relations, edges):
        np.testing.assert_allclose(relation, edge, **CLOSE)


@pytest.mark.parametrize("block", [1, 3 * H])
def test_blocks_of_pairs_change_neither_values_nor_gradients(monkeypatch, block):
    def outcome():
        model = build()
        embeddings, noise = map(paddle.to_tensor, inputs())
        output = model(embeddings, N, noise)
        (output.features.square().sum() + output.relations[-1].square().sum()).backward()
        return [output.relations[-1].numpy()] + [p.grad.numpy() for p in model.parameters()]

    whole = outcome()
    monkeypatch.setattr(structural_generator, "PAIR_BLOCK_SIZE", block)
    for part, expected in zip(outcome(), whole):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12)


def test_gradient():
    model = build()
    embeddings, noise = map(paddle.to_tensor, inputs())
    weights = np.random.default_rng(1).normal(size=(C, N, D))

    def total():
        output = model(embeddings, N, noise)
        return (output.features * paddle.to_tensor(weights)).sum() + output.relations[-1].sum()

    total().backward()
    rng = np.random.default_rng(2)
    for parameter in model.parameters():
        value = parameter.numpy()
        index = tuple(rng.integers(0, size) for size in value.shape)
        sums = []
        for step in (1e-5, -1e-5):
            moved = value.copy()
            moved[index] += step
            parameter.set_value(moved)
            sums.append(float(total()))
        parameter.set_value(value)
        assert parameter.grad.numpy()[index] == pytest.approx(
            (sums[0] - sums[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("moved", [0, 1])
def test_gradient_to_the_inputs(generator, moved):
    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in inputs()]
    generator(tensors[0], N, tensors[1]).features.square().sum().backward()

    def total(step):
        arrays = [value.copy() for value in inputs()]
        arrays[moved][(1, 0, 1)[:arrays[moved].ndim]] += step
        return (run(generator, *arrays)[0]**2).sum()

    numeric = (total(1e-5) - total(-1e-5)) / 2e-5
    made = tensors[moved].grad.numpy()
    assert made[(1, 0, 1)[:made.ndim]] == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, C - 1, C])
def test_the_last_classes_alone_are_those_of_all(num_layers, start):
    """With the same noise and the same masks of dropout."""
    model = build(num_layers, dropout=0.5)
    embeddings = paddle.to_tensor(inputs()[0])
    paddle.seed(1)
    whole = model(embeddings, N).features.numpy()
    paddle.seed(1)
    last = model.last_features(embeddings, N, start).numpy()
    np.testing.assert_allclose(last, whole[start:], **CLOSE)
    paddle.seed(1)
    prototypes = model.last_prototypes(embeddings, N, start).numpy()
    np.testing.assert_allclose(prototypes, whole[start:].mean(1), **CLOSE)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_without_gradients_features_are_the_same(dropout):
    model = build(dropout=dropout)
    embeddings, noise = map(paddle.to_tensor, inputs())
    paddle.seed(1)
    expected = model(embeddings, N, noise).features.numpy()
    paddle.seed(1)
    with paddle.no_grad():
        found = model(embeddings, N, noise).features.numpy()
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_reordering_the_classes_reorders_the_output(generator):
    embeddings, noise = inputs()
    features, relations = run(generator, embeddings, noise)
    order = np.array([2, 0, 3, 1])
    moved, moved_relations = run(generator, embeddings[order], noise[order])
    np.testing.assert_allclose(moved, features[order], rtol=1e-10)
    for relation, expected in zip(moved_relations, relations):
        np.testing.assert_allclose(relation, expected[np.ix_(order, order)], rtol=1e-10)


def test_reordering_the_samples_reorders_the_features(generator):
    embeddings, noise = inputs()
    features, relations = run(generator, embeddings, noise)
    moved, moved_relations = run(generator, embeddings, noise[:, ::-1].copy())
    np.testing.assert_allclose(moved, features[:, ::-1], rtol=1e-10)
    np.testing.assert_allclose(moved_relations[-1], relations[-1], rtol=1e-10)


def test_one_class_has_no_neighbours(generator):
    embeddings, noise = inputs(classes=1)
    features, relations = run(generator, embeddings, noise)
    np.testing.assert_allclose(features, generate_by_loops(generator, embeddings, noise)[0],
                               **CLOSE)
    assert relations[0] == pytest.approx(1.0)


def test_noise_is_drawn_from_paddles_random_state(generator):
    embeddings = paddle.to_tensor(inputs()[0])
    drawn = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        drawn.append(generator(embeddings, 5).features.numpy())
    assert drawn[0].shape == (C, 5, D)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert abs(drawn[0] - drawn[2]).max() > 1e-3


def test_initial_values_and_widths():
    model = StructuralGenerator(300, 256)
    assert [mlp[0].weight.shape + mlp[3].weight.shape for mlp in model.feature_mlps] == [
        [728, 256, 256, 256], [512, 256, 256, 256]]
    for mlp in [*model.feature_mlps, *model.relation_mlps]:
        for layer in (mlp[0], mlp[3]):
            bound = np.sqrt(6 / sum(layer.weight.shape))
            weight = layer.weight.numpy()
            assert abs(weight).max() <= bound and weight.std() == pytest.approx(
                bound / np.sqrt(3), rel=0.15)
            assert (layer.bias.numpy() == np.float32(0.01)).all()


def test_dropout_is_random_in_training_and_absent_in_evaluation():
    model, plain = build(dropout=0.5), build()
    embeddings, noise = inputs()
    assert abs(run(model, embeddings, noise)[0] - run(model, embeddings, noise)[0]).max() > 1e-3
    model.eval()
    np.testing.assert_array_equal(run(model, embeddings, noise)[0],
                                  run(plain, embeddings, noise)[0])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scale(rate):
    layer = HostDropout(rate)
    ones = paddle.ones([200, 500])
    ones.stop_gradient = False
    paddle.seed(0)
    values = layer(ones)
    kept = values.numpy() != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=5e-3)
    np.testing.assert_allclose(values.numpy()[kept], 1 / (1 - rate), rtol=1e-5)
    values.sum().backward()
    np.testing.assert_array_equal(ones.grad.numpy(), values.numpy())
    paddle.seed(0)
    np.testing.assert_array_equal(layer(ones).numpy(), values.numpy())


def test_registered_with_the_injected_arguments():
    model = manager.MODELS["StructuralGenerator"](embed_dim=W, feature_dim=D, num_classes=4,
                                                  in_channels=3)
    assert isinstance(model, StructuralGenerator)


@pytest.mark.parametrize("name, value", [
    ("embed_dim", 0), ("feature_dim", -1), ("noise_dim", 2.5), ("num_layers", 0),
    ("hidden_dim", "256"), ("dropout", 1.0), ("dropout", "half")])
def test_bad_arguments(name, value):
    arguments = {"embed_dim": W, "feature_dim": D, name: value}
    with pytest.raises(UserError, match=f"{name} must be .*{value!r}"):
        StructuralGenerator(**arguments)


@pytest.mark.parametrize("embeddings, samples, match", [
    *((np.where(np.arange(C)[:, None] == 2, bad, 1.0) * np.ones(W), N, r"row\(s\) \[2\]")
      for bad in (0.0, np.nan, np.inf)),
    *((np.ones(shape), N, r"embeddings must be \[C, 5\]") for shape in ((C, W + 1), (0, W), (W,))),
    (np.ones((C, W)), 2, r"noise must be \[4, 2, 2\], got \[4, 3, 2\]"),
    (np.ones((C, W)), 0, "num_samples must be >= 1, got 0"),
])
def test_bad_inputs(generator, embeddings, samples, match):
    with pytest.raises(UserError, match=match):
        generator(paddle.to_tensor(embeddings), samples, paddle.to_tensor(inputs()[1]))
