"""ZeroShotEvaluator on whatever labels Hypothesis thinks of, against counting pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paddle_csrl.metrics import ZeroShotEvaluator

IGNORED = 255


@st.composite
def situations(draw):
    """C, the unseen ids, and images as (prediction, label); classes may well be absent."""
    num_classes = draw(st.integers(1, 5))
    ids = st.integers(0, num_classes - 1)
    unseen = draw(st.lists(ids, unique=True, max_size=num_classes))
    images = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        label = draw(arrays(np.int64, shape, elements=st.one_of(ids, st.just(IGNORED))))
        pred = draw(arrays(np.int64, shape, elements=ids))
        images.append((pred, label))
    return num_classes, unseen, images


def counted(num_classes, unseen, images, absent="zero"):
    evaluator = ZeroShotEvaluator(num_classes, unseen, IGNORED, absent=absent)
    for pred, label in images:
        evaluator.update(pred, label)
    return evaluator


def confusion(num_classes, images):
    table = [[0] * num_classes for _ in range(num_classes)]
    for pred, label in images:
        for place in np.ndindex(label.shape):
            if label[place] != IGNORED:
                table[label[place]][pred[place]] += 1
    return table


def scores_of(table, unseen, absent):
    """The scores by the definitions, in Python's numbers."""
    every = range(len(table))

    def iou(c, rows):
        hits = table[c][c] if c in rows else 0
        union = sum(table[c]) * (c in rows) + sum(table[r][c] for r in rows) - hits
        return hits / union if union else {"zero": 0.0, "skip": None}[absent]

    def mean(classes, rows):
        values = [value for c in classes if (value := iou(c, rows)) is not None]
        return sum(values) / len(values) if values else np.nan

    seen = [c for c in every if c not in unseen]
    s, u = mean(seen, every), mean(unseen, every)
    pixels = sum(map(sum, table))
    return {"seen_miou": s, "unseen_miou": u, "miou": mean(every, every),
            "hiou": 0.0 if s + u == 0 else 2 * s * u / (s + u),
            "class_iou": [np.nan if iou(c, every) is None else iou(c, every) for c in every],
            "pixel_accuracy": sum(table[c][c] for c in every) / pixels if pixels else np.nan,
            "selection_miou": mean(seen, seen)}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-12, err_msg=key)


@pytest.mark.parametrize("absent", ["zero", "skip"])
@given(situation=situations())
def test_scores_are_those_of_the_definitions(absent, situation):
    num_classes, unseen, images = situation
    evaluator = counted(*situation, absent)
    table = confusion(num_classes, images)
    assert evaluator.confusion.tolist() == table
    assert_same(evaluator.compute(), scores_of(table, unseen, absent))


@given(situations(), st.data())
def test_order_and_splits_of_the_images_do_not_matter(situation, data):
    num_classes, unseen, images = situation
    whole = counted(*situation)
    order = data.draw(st.permutations(images))
    assert_same(counted(num_classes, unseen, order).compute(), whole.compute())
    # Pixel after pixel, and all of them at once.
    pixels = [(pred[i:i + 1], label[i:i + 1]) for pred, label in images for i in range(len(label))]
    assert_same(counted(num_classes, unseen, pixels).compute(), whole.compute())
    at_once = [np.concatenate([part.ravel() for part in parts]) for parts in zip(*images)]
    assert_same(counted(num_classes, unseen, [at_once]).compute(), whole.compute())
    # Shards of several processes.
    cut = data.draw(st.integers(0, len(images)))
    first = counted(num_classes, unseen, images[:cut])
    first.merge(counted(num_classes, unseen, images[cut:]))
    assert_same(first.compute(), whole.compute())


@given(situations(), st.integers(0, 3))
def test_classes_have_no_place_of_their_own(situation, seed):
    num_classes, unseen, images = situation
    order = np.random.default_rng(seed).permutation(num_classes)
    names = np.append(order, np.zeros(IGNORED + 1 - num_classes, int))
    names[IGNORED] = IGNORED
    moved = counted(num_classes, [int(order[c]) for c in unseen],
                    [(names[pred], names[label]) for pred, label in images]).compute()
    original = counted(*situation).compute()
    np.testing.assert_array_equal(moved.pop("class_iou")[order], original.pop("class_iou"))
    assert_same(moved, original)


@given(situations(), st.data())
def test_predictions_at_ignored_pixels_are_not_looked_at(situation, data):
    num_classes, unseen, images = situation
    junk = [(np.where(label == IGNORED, data.draw(st.integers(-5, 300)), pred), label)
            for pred, label in images]
    assert_same(counted(num_classes, unseen, junk).compute(), counted(*situation).compute())


@given(situations(), st.sampled_from(["uint8", "int16", "uint16", "int32", "int64", "uint64"]),
       st.sampled_from(["uint8", "int16", "uint16", "int32", "int64", "uint64"]))
def test_integers_of_any_width_count_alike(situation, first, second):
    num_classes, unseen, images = situation
    cast = [(pred.astype(first), label.astype(second)) for pred, label in images]
    assert counted(num_classes, unseen, cast).confusion.tolist() == confusion(num_classes, images)
