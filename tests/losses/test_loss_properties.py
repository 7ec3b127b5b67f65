"""What the formulas of the losses promise, on whatever arrays Hypothesis thinks of.

The oracles are NumPy loops over the definitions. Shape letters: C classes, N generated and M real
samples, D feature dimensions; U unseen and S seen classes.
"""

import itertools
import math
from functools import partial

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.losses import central_differences, evaluate, gradient
from helpers.processes import together
from paddle_csrl.losses import (
    CosineRegressionLoss,
    ListwiseRelationLoss,
    MMDLoss,
    PairwiseRelationLoss,
    PrototypeNormLoss,
    mmd_on_host,
    prototype_relations,
    standardize_rows,
)

BOTH = [PairwiseRelationLoss, ListwiseRelationLoss]

bandwidth_lists = st.lists(st.sampled_from([0.5, 0.7, 1, 2, 3.0, 4, 8, 80]), min_size=1,
                           max_size=5)


def floats(*shape, limit=4.0):
    """Arrays of ``shape``, many with equal and zero entries."""
    return arrays(np.float64, shape, elements=st.floats(-limit, limit, width=32))


@st.composite
def sample_sets(draw, same_size=False):
    classes, generated, real, dim = (draw(st.integers(1, most)) for most in (3, 4, 4, 3))
    return draw(floats(classes, generated, dim)), draw(
        floats(classes, generated if same_size else real, dim))


@st.composite
def relations(draw, least_seen=1, most_seen=5):
    shape = draw(st.integers(1, 3)), draw(st.integers(least_seen, most_seen))
    return draw(floats(*shape)), draw(floats(*shape))


@st.composite
def prototypes(draw):
    unseen, seen, dim = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return draw(floats(unseen, dim)), draw(floats(seen, dim))


def rotation(dim, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


# The point-to-point loss.

def kernel(p, q, bandwidths):
    distance = math.dist(p, q)**2
    return sum(math.exp(-distance / (2 * v)) for v in bandwidths)


def kernel_mean(a, b, bandwidths):
    return np.mean([[kernel(p, q, bandwidths) for q in b.tolist()] for p in a.tolist()])


def mmd2(x, y, bandwidths):
    return np.mean([kernel_mean(a, a, bandwidths) + kernel_mean(b, b, bandwidths)
                    - 2 * kernel_mean(a, b, bandwidths) for a, b in zip(x, y)])


@given(sample_sets(), bandwidth_lists)
def test_mmd_is_the_mean_of_its_definition(sets, bandwidths):
    value = evaluate(MMDLoss(bandwidths), *sets)
    assert value == pytest.approx(mmd2(*sets, bandwidths), abs=1e-10)
    assert -1e-10 < value <= 2 * len(bandwidths)


@given(sample_sets(), bandwidth_lists, st.integers(0, 3))
def test_mmd_does_not_change_with_the_coordinates(sets, bandwidths, seed):
    x, y = sets
    loss, value = MMDLoss(bandwidths), evaluate(MMDLoss(bandwidths), x, y)
    turned = rotation(x.shape[2], seed)
    order = np.random.default_rng(seed)
    for moved in [(y, x), (x + 50, y + 50), (x @ turned, y @ turned),
                  (order.permutation(x, axis=1), order.permutation(y, axis=1)),
                  (np.repeat(x, 2, axis=1), np.repeat(y, 3, axis=1))]:
        assert evaluate(loss, *map(np.ascontiguousarray, moved)) == pytest.approx(value, abs=1e-9)
    wider = MMDLoss([9 * v for v in bandwidths])
    assert evaluate(wider, 3 * x, 3 * y) == pytest.approx(value, abs=1e-9)


@given(sample_sets(), bandwidth_lists)
def test_mmd_of_equal_sets_is_zero_and_pulls_nowhere(sets, bandwidths):
    x, _ = sets
    other = x[:, ::-1].copy()
    assert evaluate(MMDLoss(bandwidths), x, other) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient(MMDLoss(bandwidths), x, other), 0, atol=1e-12)
    assert 0 <= evaluate(MMDLoss(bandwidths, squared=False), x, other) < 1e-7


@given(sample_sets(), bandwidth_lists, st.integers(1, 40), st.booleans())
def test_blocks_of_mmd_change_nothing(sets, bandwidths, block, squared):
    loss = MMDLoss(bandwidths, squared)
    whole = evaluate(loss, *sets), gradient(loss, *sets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmd_on_host, "BLOCK_SIZE", block)
        parts = evaluate(loss, *sets), gradient(loss, *sets)
    # The root makes 1e-8 of a rounding of 1e-16.
    assert parts[0] == pytest.approx(whole[0], abs=1e-12 if squared else 1e-7)
    if squared:
        np.testing.assert_allclose(parts[1], whole[1], atol=1e-12)


@given(sample_sets(), st.data())
def test_the_parts_of_mmd_add_up(sets, data):
    x, y = sets
    parts = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x))))
    counts = np.array(data.draw(st.lists(st.integers(0, y.shape[1]), min_size=len(x),
                                         max_size=len(x))))
    loss = MMDLoss("auto")
    whole = evaluate(loss, x, y, counts)
    rows = [np.flatnonzero(parts == part) for part in (0, 1)]
    rows = [own if len(own) else np.array([-1]) for own in rows]
    values = together([partial(loss, *map(paddle.to_tensor, (x[own.clip(0)], y)), counts, own)
                       for own in rows])
    assert sum(map(float, values)) == pytest.approx(whole, abs=1e-12)


@given(sample_sets(), bandwidth_lists, st.data())
def test_what_lies_past_the_counts_of_mmd_is_not_seen(sets, bandwidths, data):
    x, y = sets
    counts = [data.draw(st.integers(0, y.shape[1])) for _ in x]
    junk = y.copy()
    for class_id, count in enumerate(counts):
        junk[class_id, count:] = data.draw(st.sampled_from([math.nan, math.inf, 1e30, 0.0]))
    each = [mmd2(a[None], b[None, :count], bandwidths) for a, b, count in zip(x, y, counts)
            if count]
    assert evaluate(MMDLoss(bandwidths), x, junk, np.array(counts)) == pytest.approx(
        np.mean(each) if each else 0, abs=1e-10)


@given(sample_sets(), bandwidth_lists)
def test_gradient_of_mmd(sets, bandwidths):
    x, y = sets
    numeric = central_differences(lambda v: mmd2(v, y, bandwidths), x)
    np.testing.assert_allclose(gradient(MMDLoss(bandwidths), x, y), numeric, atol=1e-7)


@given(sample_sets(), bandwidth_lists)
def test_mmd_in_single_precision(sets, bandwidths):
    value = evaluate(MMDLoss(bandwidths), *(part.astype("float32") for part in sets))
    assert value == pytest.approx(mmd2(*sets, bandwidths), abs=2e-4)


# The relation losses.

def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def kl(a, x):
    p, q = softmax(a), softmax(x)
    return float(np.sum(p * (np.log(p) - np.log(q))))


def pairwise(x, a, gamma):
    return np.mean([kl(row_a / gamma, row_x / gamma) for row_x, row_a in zip(x, a)])


def listwise(x, a, gamma):
    """Order by order: the probability of each under a, and what its stages add up to."""
    total = 0.0
    for row_x, row_a in zip((x / gamma).tolist(), (a / gamma).tolist()):
        for order in itertools.permutations(range(len(row_a))):
            p, q = (log_probability([row[place] for place in order]) for row in (row_a, row_x))
            total += math.exp(p) * (p - q)
    return total / len(x)


def log_probability(scores):
    """Of drawing all in their order, each from those that are left."""
    return -sum(math.log(sum(math.exp(score - first) for score in scores[stage:]))
                for stage, first in enumerate(scores))


@given(relations(), st.sampled_from([0.25, 1.0, 4.0]))
def test_relation_losses_are_their_definitions(pair, gamma):
    assert evaluate(PairwiseRelationLoss(gamma), *pair) == pytest.approx(
        pairwise(*pair, gamma), abs=1e-10)
    assert evaluate(ListwiseRelationLoss(gamma), *pair) == pytest.approx(
        listwise(*pair, gamma), abs=1e-9)


@pytest.mark.parametrize("kind", BOTH)
@given(pair=relations(), seed=st.integers(0, 3), shift=st.floats(-9, 9, width=32))
def test_relation_losses_do_not_change_with_order_shift_and_unit(kind, pair, seed, shift):
    x, a = pair
    value = evaluate(kind(0.5), x, a)
    rng = np.random.default_rng(seed)
    columns, rows = rng.permutation(x.shape[1]), rng.permutation(len(x))
    for moved in [(x[:, columns], a[:, columns]), (x[rows], a[rows]), (x + shift, a),
                  (x, a + shift)]:
        assert evaluate(kind(0.5), *moved) == pytest.approx(value, abs=1e-9)
    assert evaluate(kind(1.5), 3 * x, 3 * a) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("kind", BOTH)
@given(pair=relations(least_seen=2), shift=st.floats(-9, 9, width=32))
def test_relation_losses_are_zero_where_the_shares_agree_and_only_there(kind, pair, shift):
    x, a = pair
    assert evaluate(kind(0.5), a + shift, a) == pytest.approx(0, abs=1e-10)
    difference = (x - a) - (x - a).mean(axis=1, keepdims=True)
    value = evaluate(kind(0.5), x, a)
    assert value >= 0
    if np.abs(difference).max() > 0.01:
        assert value > 0


@pytest.mark.parametrize("kind", BOTH)
@given(pair=relations(most_seen=4))
def test_gradient_of_the_relation_losses(kind, pair):
    x, a = pair
    definition = {PairwiseRelationLoss: pairwise, ListwiseRelationLoss: listwise}[kind]
    pull = gradient(kind(0.7), x, a)
    np.testing.assert_allclose(pull, central_differences(lambda v: definition(v, a, 0.7), x),
                               atol=1e-7)
    np.testing.assert_allclose(pull.sum(axis=1), 0, atol=1e-12)  # of a shift


@given(relations(most_seen=8))
def test_the_pair_is_the_first_stage_of_the_list(pair):
    first = evaluate(PairwiseRelationLoss(0.5), *pair)
    for loss in (ListwiseRelationLoss(0.5, "exact"), ListwiseRelationLoss(0.5, "sampled", 3)):
        whole = evaluate(loss, *pair)
        assert whole >= first - 1e-9
        if pair[0].shape[1] <= 2:  # there is no other stage
            assert whole == pytest.approx(first, abs=1e-9)


# Prototypes.

def norms(vectors):
    return np.sqrt((vectors**2).sum(axis=-1))


@given(prototypes(), st.integers(0, 3))
def test_relations_of_prototypes_do_not_change_with_the_coordinates(pair, seed):
    unseen, seen = pair
    made = prototype_relations(*map(paddle.to_tensor, pair)).numpy()
    assert made.shape == (len(unseen), len(seen)) and np.abs(made).max() <= 1 + 1e-12
    centre = seen.mean(axis=0)
    lengths = np.minimum.outer(norms(unseen - centre), norms(seen - centre))
    clear = lengths > 1e-6  # nearer than that a direction is rounding
    turned = rotation(unseen.shape[1], seed)
    for moved in [(unseen + 3, seen + 3), (2.5 * unseen, 2.5 * seen),
                  (unseen @ turned, seen @ turned)]:
        again = prototype_relations(*map(paddle.to_tensor, moved)).numpy()
        np.testing.assert_allclose(again[clear], made[clear], atol=1e-6)
    expected = ((unseen - centre) @ (seen - centre).T)
    scale = np.outer(norms(unseen - centre), norms(seen - centre))
    np.testing.assert_allclose((made * scale)[clear], expected[clear], atol=1e-6)


@given(relations(), st.floats(0.5, 8), st.floats(-9, 9, width=32))
def test_standardized_rows_have_no_unit(pair, scale, shift):
    rows, _ = pair
    made = standardize_rows(paddle.to_tensor(rows)).numpy()
    np.testing.assert_allclose(made.mean(axis=1), 0, atol=1e-9)
    varied = rows.std(axis=1) > 1e-6
    np.testing.assert_allclose(made[varied].std(axis=1), 1, rtol=1e-9)
    assert not made[np.ptp(rows, axis=1) == 0].any()
    again = standardize_rows(paddle.to_tensor(scale * rows + shift)).numpy()
    np.testing.assert_allclose(again[varied], made[varied], atol=1e-6)


@given(prototypes(), st.integers(0, 3))
def test_prototype_norm_by_its_definition(pair, seed):
    unseen, seen = pair
    centre = seen.mean(axis=0)
    allowed = norms(seen - centre).mean()
    value = evaluate(PrototypeNormLoss(), unseen, seen)
    if allowed > 1e-6:
        excess = np.maximum(norms(unseen - centre) / allowed - 1, 0)
        assert value == pytest.approx(np.mean(excess**2), rel=1e-6, abs=1e-9)
        turned = rotation(unseen.shape[1], seed)
        for moved in [(unseen + 3, seen + 3), (unseen @ turned, seen @ turned),
                      (2 * unseen, 2 * seen)]:
            assert evaluate(PrototypeNormLoss(), *moved) == pytest.approx(value, rel=1e-5, abs=1e-7)
    elif np.ptp(seen, axis=0).max() == 0:
        assert value == 0


# The regression of SegDeViSE.

@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_cosine_regression(classes, height, images, data):
    shape = images, classes, height, 2
    cosines = data.draw(floats(*shape, limit=1))
    labels = data.draw(arrays(np.int64, (images, height, 2),
                              elements=st.sampled_from([*range(classes), 255])))
    own = [1 - cosines[n, labels[n, i, j], i, j] for n, i, j in np.ndindex(labels.shape)
           if labels[n, i, j] != 255]
    loss = CosineRegressionLoss()
    value = evaluate(loss, cosines, labels)
    assert value == pytest.approx(np.mean(own) if own else 0, abs=1e-12) and 0 <= value <= 2
    # A class has no place of its own.
    order = np.random.default_rng(classes).permutation(classes)
    moved = np.where(labels == 255, 255, np.argsort(order)[labels % 255 % classes])
    assert evaluate(loss, cosines[:, order].copy(), moved) == pytest.approx(value, abs=1e-12)
    # The gradient is the same for every labelled pixel, at its class, and zero elsewhere.
    expected = np.zeros(shape)
    for n, i, j in np.argwhere(labels != 255):
        expected[n, labels[n, i, j], i, j] = -1 / len(own)
    np.testing.assert_allclose(gradient(loss, cosines, labels), expected, atol=1e-12)
