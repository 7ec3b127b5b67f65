"""Relation losses against brute force over all orders, central differences and hand values."""

import itertools
import math
import warnings

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.builder import Builder

from helpers.losses import central_differences, evaluate, gradient
from paddle_csrl.errors import UserError
from paddle_csrl.losses import listwise_relation_loss
from paddle_csrl.losses.functional import log_softmax, prototype_relations, standardize_rows
from paddle_csrl.losses.listwise_relation_loss import ListwiseRelationLoss
from paddle_csrl.losses.pairwise_relation_loss import PairwiseRelationLoss
from paddle_csrl.losses.prototype_norm_loss import PrototypeNormLoss
from paddle_csrl.utils import device

BOTH = [PairwiseRelationLoss, ListwiseRelationLoss]


def relations(unseen=2, seen=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(unseen, seen)), rng.normal(size=(unseen, seen))


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def pairwise_by_loops(generated, semantic, gamma):
    rows = [(softmax(a / gamma), softmax(x / gamma)) for x, a in zip(generated, semantic)]
    return np.mean([sum(p * math.log(p / q) for p, q in zip(*row)) for row in rows])


def plackett_luce(scores, order):
    drawn = [scores[place] for place in order]
    return math.prod(1 / sum(math.exp(score - first) for score in drawn[stage:])
                     for stage, first in enumerate(drawn))


def listwise_by_orders(generated, semantic, gamma):
    total = 0
    for x, a in zip((generated / gamma).tolist(), (semantic / gamma).tolist()):
        for order in itertools.permutations(range(len(a))):
            p, q = plackett_luce(a, order), plackett_luce(x, order)
            total += p * math.log(p / q)
    return total / len(generated)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("seen", [2, 5, 6])
def test_losses_agree_with_the_definition(seen, gamma):
    x, a = relations(seen=seen)
    assert evaluate(PairwiseRelationLoss(gamma), x, a) == pytest.approx(
        pairwise_by_loops(x, a, gamma), rel=1e-10)
    assert evaluate(ListwiseRelationLoss(gamma, "exact"), x, a) == pytest.approx(
        listwise_by_orders(x, a, gamma), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 0.001])  # exp overflows for the scores of the latter
def test_exact_form_is_the_same_on_a_device(monkeypatch, gamma):
    x, a = relations(seen=7)
    on_host = ListwiseRelationLoss(gamma, "exact")
    value, slopes = evaluate(on_host, x, a), gradient(on_host, x, a)
    monkeypatch.setattr(device, "is_on_host", lambda tensor: False)
    on_device = ListwiseRelationLoss(gamma, "exact")
    assert evaluate(on_device, x, a) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient(on_device, x, a), slopes, rtol=1e-10, atol=1e-10)
    assert isinstance(on_device._table.both, paddle.Tensor)


def test_exact_form_of_diverged_scores_is_nan_without_a_warning():
    x, a = relations()
    x[0, 1] = math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(evaluate(ListwiseRelationLoss(1.0, "exact"), x, a))


def test_hand_values():
    # softmax(log 3, 0) = (3/4, 1/4) against (1/2, 1/2); two classes have two orders, so that
    # the listwise divergence is the same number.
    x, a = np.zeros((1, 2)), np.array([[math.log(3), 0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert evaluate(PairwiseRelationLoss(1.0), x, a) == pytest.approx(expected, rel=1e-12)
    assert evaluate(ListwiseRelationLoss(1.0), x, a) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [PairwiseRelationLoss(0.7), ListwiseRelationLoss(0.7, "exact")])
def test_gradient(loss):
    x, a = relations(seen=7)
    numeric = central_differences(lambda v: evaluate(loss, v, a), x)
    np.testing.assert_allclose(gradient(loss, x, a), numeric, atol=1e-8)


def test_gradient_of_the_sampled_form():
    x, a = relations(seen=7)
    loss = ListwiseRelationLoss(0.7, "sampled", num_samples=8)

    def seeded(values):
        paddle.seed(3)
        return evaluate(loss, values, a)

    numeric = central_differences(seeded, x)
    paddle.seed(3)
    np.testing.assert_allclose(gradient(loss, x, a), numeric, atol=1e-7)


def test_blocks_of_unseen_classes_change_neither_value_nor_gradient(monkeypatch):
    x, a = relations(unseen=5, seen=7)
    loss, drawn, rand = ListwiseRelationLoss(0.7, "sampled", num_samples=8), [], paddle.rand
    monkeypatch.setattr(paddle, "rand", lambda shape, **kwargs: drawn.append(shape[0]) or rand(
        shape, **kwargs))

    def outcome():
        paddle.seed(3)
        value = evaluate(loss, x, a)
        paddle.seed(3)
        return value, gradient(loss, x, a)

    value, slopes = outcome()
    assert set(drawn) == {5}
    drawn.clear()
    monkeypatch.setattr(listwise_relation_loss, "ORDERS_BLOCK_SIZE", 2 * 8 * 7 + 1)
    in_blocks = outcome()
    assert set(drawn) == {1, 2}
    assert in_blocks[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(in_blocks[1], slopes, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seen", [6, 20])
def test_sampled_is_unbiased(seen):
    x, a = relations(unseen=1, seen=seen, seed=seen)
    exact = ListwiseRelationLoss(0.5, "exact")
    sampled = ListwiseRelationLoss(0.5, "sampled", num_samples=200)
    paddle.seed(0)
    values = [evaluate(sampled, x, a) for _ in range(20)]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert 0 < error < 0.05 * np.mean(values)
    assert abs(np.mean(values) - evaluate(exact, x, a)) < 4 * error
    gradients = np.stack([gradient(sampled, x, a) for _ in range(20)])
    errors = gradients.std(axis=0, ddof=1) / math.sqrt(len(gradients))
    assert (abs(gradients.mean(axis=0) - gradient(exact, x, a)) < 5 * errors + 1e-9).all()


@pytest.mark.parametrize("loss", [PairwiseRelationLoss(0.05), ListwiseRelationLoss(0.05, "exact"),
                                  ListwiseRelationLoss(0.05, "sampled")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_where_scores_agree_up_to_a_shift(loss, dtype):
    _, a = relations(seen=9)
    a = a.astype(dtype)
    assert evaluate(loss, a, a) == pytest.approx(0, abs=1e-9)
    assert 0 <= evaluate(loss, a + a.dtype.type(2), a) < 1e-4
    assert evaluate(loss, -a, a) > 1


@pytest.mark.parametrize("kind", BOTH)
def test_invariances(kind):
    x, a = relations(seen=6)
    value = evaluate(kind(0.5), x, a)
    order = np.random.default_rng(2).permutation(6)
    assert evaluate(kind(0.5), x[:, order], a[:, order]) == pytest.approx(value, rel=1e-10)
    assert evaluate(kind(0.5), x[::-1].copy(), a[::-1].copy()) == pytest.approx(value, rel=1e-10)
    assert evaluate(kind(0.5), x + [[3.0], [-1.0]], a - 7) == pytest.approx(value, rel=1e-10)
    assert evaluate(kind(1.0), 2 * x, 2 * a) == pytest.approx(value, rel=1e-10)
    assert evaluate(kind(0.5), x[:, order], a) != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", BOTH)
def test_gaps_above_64_nats_are_counted_in_full(kind, dtype):
    # Two classes: the one order that has all the probability lies as far below as they do apart.
    x, a = np.array([[0, 7]], dtype), np.array([[7, 0]], dtype)
    assert evaluate(kind(0.1), x, a) == pytest.approx(70, rel=1e-6)
    assert evaluate(kind(0.01), x, a) == pytest.approx(700, rel=1e-6)
    np.testing.assert_allclose(gradient(kind(0.1), x, a), [[-10, 10]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softmax_is_paddles_where_that_cuts_nothing_off(dtype):
    scores = 5 * np.random.default_rng(0).normal(size=(200, 33)).astype(dtype)
    weights = paddle.to_tensor(np.random.default_rng(1).normal(size=scores.shape).astype(dtype))
    ours, theirs = ((lambda x, f=f: (f(x) * weights).sum()) for f in (log_softmax, F.log_softmax))
    assert (log_softmax(paddle.to_tensor(scores)) == F.log_softmax(paddle.to_tensor(scores))).all()
    assert (gradient(ours, scores) == gradient(theirs, scores)).all()


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_listwise_holds_for_wide_scores(method):
    # Gaps of 1000s in the scores leave the range of exp, and one order has all the probability.
    # Its divergence sums, stage by stage, what the best of those left has over the one chosen.
    a = np.array([[0.0, 10, 20, 30, 40]])
    loss = ListwiseRelationLoss(0.01, method)
    assert evaluate(loss, a, a) == 0
    reverse = a[:, ::-1].copy()
    expected = sum(reverse[0, :k].max() - reverse[0, k - 1] for k in range(1, 6)) / 0.01
    assert evaluate(loss, reverse, a) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(gradient(loss, reverse, a)).all()


def test_auto_is_exact_up_to_17_seen_classes():
    x, a = relations(unseen=1, seen=17)
    assert evaluate(ListwiseRelationLoss(1.0), x, a) == evaluate(
        ListwiseRelationLoss(1.0, "exact"), x, a)
    x, a = relations(unseen=1, seen=18)
    loss = ListwiseRelationLoss(1.0)
    assert evaluate(loss, x, a) != evaluate(loss, x, a)


def test_cached_table_follows_the_semantic_side():
    x, a = relations()
    _, b = relations(seed=1)
    loss = ListwiseRelationLoss(1.0, "exact")
    assert evaluate(loss, x, a) == evaluate(loss, x, a)
    a_then_b = evaluate(loss, x, b)
    assert a_then_b == evaluate(ListwiseRelationLoss(1.0, "exact"), x, b)
    tensor = paddle.to_tensor(a)
    loss(paddle.to_tensor(x), tensor)
    tensor.set_value(b)
    assert float(loss(paddle.to_tensor(x), tensor)) == a_then_b
    assert loss.state_dict() == {}


@pytest.mark.parametrize("kind", BOTH)
def test_one_seen_class_and_no_unseen_class(kind):
    for shape in [(3, 1), (0, 4)]:
        tensor = paddle.ones(shape)
        tensor.stop_gradient = False
        value = kind(1.0)(tensor * 1.0, paddle.ones(shape))
        value.backward()
        assert float(value) == 0 and value.ndim == 0
    assert evaluate(kind(1.0), np.array([[5.0]]), np.array([[1.0]])) == 0
    assert gradient(kind(1.0), np.array([[5.0]]), np.array([[1.0]])) == 0


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("given, kept", [("float16", "float32"), ("float64", "float64")])
def test_precision(kind, given, kept):
    x, a = relations()
    value = kind(0.5)(*(paddle.to_tensor(v).astype(given) for v in (x, a)))
    assert value.dtype == getattr(paddle, kept)
    assert float(value) == pytest.approx(evaluate(kind(0.5), x, a), rel=2e-2)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("gamma", [0, -1.0, math.inf, "0.1", True])
def test_bad_gamma(kind, gamma):
    with pytest.raises(UserError, match=f"{kind.__name__}: gamma .*got {gamma!r}"):
        kind(gamma)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("x, a", [((2, 3), (2, 4)), ((2, 0), (2, 0)), ((3,), (3,))])
def test_bad_shapes(kind, x, a):
    with pytest.raises(UserError, match=str(list(x)).replace("[", r"\[")):
        kind(1.0)(paddle.zeros(x), paddle.zeros(a))


@pytest.mark.parametrize("arguments, semantic, message", [
    ({"method": "fast"}, [], "method .*'fast'"), ({"num_samples": 0}, [], "num_samples .*got 0"),
    ({"num_samples": 2.5}, [], "num_samples .*got 2.5"),
    ({"method": "exact"}, [[0.0] * 21], "at most 20 seen classes, got 21"),
    ({}, [[1.0, math.nan]], "must be finite")])
def test_what_the_listwise_loss_refuses(arguments, semantic, message):
    semantic = paddle.to_tensor(semantic)
    with pytest.raises(UserError, match=message):
        ListwiseRelationLoss(1.0, **arguments)(paddle.zeros_like(semantic), semantic)


def test_prototype_norm_hand_values():
    real = np.array([[3.0, 0], [-1, 0]])  # centre (1, 0), mean length 2
    loss = PrototypeNormLoss()
    assert evaluate(loss, np.array([[1.0, 2.0]]), real) == 0
    # Lengths 6 and 1: (6 / 2 - 1)^2 and 0.
    assert evaluate(loss, np.array([[1.0, -6.0], [2, 0]]), real) == pytest.approx(2.0)
    assert evaluate(loss, np.array([[1.0, 0.0]]), real) == 0
    assert (gradient(loss, np.array([[1.0, 0.0]]), real) == 0).all()


def test_prototype_norm_gradient():
    rng = np.random.default_rng(0)
    p, real = 3 * rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    numeric = central_differences(lambda v: evaluate(PrototypeNormLoss(), v, real), p)
    assert abs(numeric).max() > 0.1
    np.testing.assert_allclose(gradient(PrototypeNormLoss(), p, real), numeric, atol=1e-8)


@pytest.mark.parametrize("real", [np.ones((1, 3)), np.full((4, 3), 0.1), np.zeros((2, 3)),
                                  np.full((7, 3), 12345.678)])
def test_prototype_norm_without_a_length_is_a_differentiable_zero(real):
    assert evaluate(PrototypeNormLoss(), np.eye(3), real) == 0
    assert (gradient(PrototypeNormLoss(), np.eye(3), real) == 0).all()


def test_prototype_norm_without_unseen_classes_is_a_differentiable_zero():
    none = paddle.zeros([0, 3])
    none.stop_gradient = False
    loss = PrototypeNormLoss()(none, paddle.eye(3))  # whose prototypes do set a length
    loss.backward()
    assert float(loss) == 0


def test_prototype_norm_of_other_dimensions_is_refused():
    with pytest.raises(UserError, match="PrototypeNormLoss"):
        PrototypeNormLoss()(paddle.ones([2, 1]), paddle.eye(3))


def test_prototype_functions_without_unseen_classes():
    none = paddle.zeros([0, 3])
    none.stop_gradient = False
    PrototypeNormLoss()(none * 1.0, paddle.ones([2, 3])).backward()
    made = standardize_rows(prototype_relations(none, paddle.ones([2, 3])))
    assert list(made.shape) == [0, 2]
    PairwiseRelationLoss(1.0)(made, paddle.zeros([0, 2])).backward()


def test_prototype_relations():
    rng = np.random.default_rng(0)
    p, real = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    g = real.mean(axis=0)
    expected = [[(u - g) @ (s - g) / np.linalg.norm(u - g) / np.linalg.norm(s - g) for s in real]
                for u in p]
    made = prototype_relations(paddle.to_tensor(p), paddle.to_tensor(real)).numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-10)

    def total(values):
        weights = paddle.to_tensor(np.arange(8.0).reshape(2, 4))
        return (prototype_relations(values, paddle.to_tensor(real)) * weights).sum()

    numeric = central_differences(lambda v: evaluate(total, v), p)
    np.testing.assert_allclose(gradient(total, p), numeric, atol=1e-8)


def test_prototype_relations_on_the_centre_are_zero():
    one = np.array([[1.0, 2.0, 3.0]])
    made = prototype_relations(paddle.to_tensor(one), paddle.to_tensor(one))
    assert made.numpy().tolist() == [[0.0]]
    pulled = gradient(lambda p: prototype_relations(p, paddle.to_tensor(np.eye(3))).sum(),
                      np.full((1, 3), 1 / 3))
    assert (pulled == 0).all()


@pytest.mark.parametrize("p, real", [((2, 3), (4, 2)), ((2, 3), (0, 3)), ((3,), (4, 3))])
def test_bad_prototypes(p, real):
    with pytest.raises(UserError, match="got"):
        prototype_relations(paddle.zeros(p), paddle.zeros(real))


def test_standardize_rows():
    rows = np.array([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1], [1e-9, 0, -1e-9]])
    made = standardize_rows(paddle.to_tensor(rows)).numpy()
    z = math.sqrt(1.5)
    np.testing.assert_allclose(made, [[-z, 0, z], [0, 0, 0], [z, 0, -z]], atol=1e-12)
    assert standardize_rows(paddle.to_tensor([[0.3]])).numpy().tolist() == [[0.0]]

    def total(values):
        return (standardize_rows(values) * paddle.to_tensor([[1.0, 4, 9]], "float64")).sum()

    np.testing.assert_allclose(gradient(total, rows[:1]),
                               central_differences(lambda v: evaluate(total, v), rows[:1]),
                               atol=1e-8)
    assert (gradient(total, rows[1:2]) == 0).all()
    assert (gradient(total, np.zeros((1, 3))) == 0).all()


@pytest.mark.parametrize("name, consumes", [
    ("PairwiseRelationLoss", "relations"), ("ListwiseRelationLoss", "relations"),
    ("PrototypeNormLoss", "prototypes")])
def test_registered_with_the_injected_argument(name, consumes):
    builder = Builder(config=None, comp_list=[manager.LOSSES])
    assert builder.build_component({"type": name, "ignore_index": 255}).consumes == consumes
