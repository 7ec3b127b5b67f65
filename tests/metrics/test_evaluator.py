"""ZeroShotEvaluator against per-class NumPy loops and hand values."""

import numpy as np
import paddle
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.registry import EVALUATORS

NAMES = ["background", "cow", "马", "sofa"]


def oracle(pairs, num_classes, unseen, ignore_index=255, absent="zero"):
    """Scores by one pass over all pixels per class."""
    pred = np.concatenate([np.ravel(p).astype(int) for p, _ in pairs])
    label = np.concatenate([np.ravel(t).astype(int) for _, t in pairs])
    pred, label = pred[label != ignore_index], label[label != ignore_index]

    def ious(pred, label):
        values = []
        for c in range(num_classes):
            union = np.sum((pred == c) | (label == c))
            hits = np.sum((pred == c) & (label == c))
            values.append(hits / union if union else (0.0 if absent == "zero" else np.nan))
        return np.array(values)

    def mean(values):
        values = [v for v in values if not np.isnan(v)]
        return sum(values) / len(values) if values else np.nan

    seen = [c for c in range(num_classes) if c not in unseen]
    iou = ious(pred, label)
    s, u = mean(iou[seen]), mean(iou[list(unseen)])
    of_seen = np.isin(label, seen)
    return {"seen_miou": s, "unseen_miou": u, "miou": mean(iou),
            "hiou": 0.0 if s + u == 0 else 2 * s * u / (s + u), "class_iou": iou,
            "pixel_accuracy": np.mean(pred == label),
            "selection_miou": mean(ious(pred[of_seen], label[of_seen])[seen])}


def assert_scores(actual, expected):
    assert actual.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-12, err_msg=key)


def random_pair(rng, num_classes, shape=(2, 17, 13), ignored=0.1, dtype=np.int64):
    label = rng.integers(0, num_classes, shape).astype(dtype)
    label[rng.random(shape) < ignored] = 255
    return rng.integers(0, num_classes, shape).astype(dtype), label


@pytest.mark.parametrize("absent", ["zero", "skip"])
@pytest.mark.parametrize("num_classes, unseen", [(2, [1]), (7, [0, 3]), (60, [5, 59]),
                                                 (254, [7]), (300, [299])])
def test_random_labels_match_loops(num_classes, unseen, absent):
    rng = np.random.default_rng(num_classes)
    ignore_index = 255 if num_classes < 255 else 1000
    evaluator = ZeroShotEvaluator(num_classes, unseen, ignore_index, absent=absent)
    pairs = []
    for _ in range(3):
        pred, label = random_pair(rng, num_classes, ignored=0)
        label[rng.random(label.shape) < 0.1] = ignore_index
        evaluator.update(pred, label)
        pairs.append((pred, label))
    assert_scores(evaluator.compute(), oracle(pairs, num_classes, unseen, ignore_index, absent))


def test_hand_values():
    # Labels 0 0 0 1 1 2 and one ignored; class 2 is unseen.
    evaluator = ZeroShotEvaluator(3, [2])
    evaluator.update(np.array([0, 0, 2, 1, 0, 2, 1]), np.array([0, 0, 0, 1, 1, 2, 255]))
    np.testing.assert_array_equal(evaluator.confusion, [[2, 0, 1], [1, 1, 0], [0, 0, 1]])
    scores = evaluator.compute()
    # IoU: 2/4, 1/2, 1/2; harmonic mean of 1/2 and 1/2.
    np.testing.assert_allclose(scores["class_iou"], [0.5, 0.5, 0.5])
    assert scores["seen_miou"] == scores["unseen_miou"] == scores["hiou"] == 0.5
    assert scores["pixel_accuracy"] == pytest.approx(4 / 6)


def test_harmonic_mean_by_hand():
    evaluator = ZeroShotEvaluator(2, [1])
    evaluator.confusion[:] = [[3, 1], [0, 1]]  # IoU 3/4 and 1/2
    assert evaluator.compute()["hiou"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert evaluator.compute()["miou"] == pytest.approx(0.625)


def test_selection_score_ignores_unseen_pixels():
    rng = np.random.default_rng(1)
    pred, label = random_pair(rng, 5)
    changed = np.where(label == 4, rng.integers(0, 5, label.shape), pred)
    first, second = ZeroShotEvaluator(5, [4]), ZeroShotEvaluator(5, [4])
    first.update(pred, label)
    second.update(changed, label)
    assert first.compute()["selection_miou"] == second.compute()["selection_miou"]
    assert first.compute()["seen_miou"] != second.compute()["seen_miou"]


@pytest.mark.parametrize("absent, seen, unseen, hiou", [
    ("zero", 0.5, 0.0, 0.0), ("skip", 1.0, np.nan, np.nan)])
def test_absent_class(absent, seen, unseen, hiou):
    # Classes 1 (seen) and 2 (unseen) are neither labelled nor predicted.
    evaluator = ZeroShotEvaluator(3, [2], absent=absent)
    evaluator.update(np.zeros(4, int), np.zeros(4, int))
    scores = evaluator.compute()
    np.testing.assert_equal([scores["seen_miou"], scores["unseen_miou"], scores["hiou"]],
                            [seen, unseen, hiou])


@pytest.mark.parametrize("unseen, pred, label, expected", [
    ([1], [0, 1, 0], [0, 0, 1], {"selection_miou": 0.5}),  # an unseen prediction is a miss
    ([1], [0, 1], [0, 0], {"class_iou": [0.5, 0.0]}),  # predicted, so not absent
    ([1], [1, 0], [0, 1], {"hiou": 0.0}),  # all wrong
    ([], [1, 0], [1, 1], {"unseen_miou": np.nan, "hiou": np.nan, "miou": 0.25,
                          "seen_miou": 0.25}),
])
def test_two_classes_by_hand(unseen, pred, label, expected):
    evaluator = ZeroShotEvaluator(2, unseen, absent="skip")
    evaluator.update(np.array(pred), np.array(label))
    scores = evaluator.compute()
    for key, value in expected.items():
        np.testing.assert_array_equal(scores[key], value)


def test_perfect_prediction():
    label = np.arange(6).reshape(2, 3)
    evaluator = ZeroShotEvaluator(6, [1, 4])
    evaluator.update(label, label)
    scores = evaluator.compute()
    assert all(np.all(value == 1.0) for value in scores.values())


def test_merge_equals_one_shot():
    rng = np.random.default_rng(2)
    pairs = [random_pair(rng, 9) for _ in range(4)]
    whole, left, right = (ZeroShotEvaluator(9, [2, 3]) for _ in range(3))
    for index, pair in enumerate(pairs):
        whole.update(*pair)
        (left if index % 2 else right).update(*pair)
    left.merge(right)
    np.testing.assert_array_equal(left.confusion, whole.confusion)
    assert left.confusion.dtype == np.int64
    assert_scores(left.compute(), oracle(pairs, 9, [2, 3]))


def test_reset_forgets():
    evaluator = ZeroShotEvaluator(3, [2])
    evaluator.update(np.array([0, 1]), np.array([0, 1]))
    evaluator.reset()
    assert evaluator.confusion.sum() == 0
    assert np.isnan(evaluator.compute()["pixel_accuracy"])


def test_all_ignored_counts_nothing():
    evaluator = ZeroShotEvaluator(3, [2])
    evaluator.update(np.full((2, 2), 77), np.full((2, 2), 255))
    assert evaluator.confusion.sum() == 0


@pytest.mark.parametrize("pred_type", ["uint8", "int8", "int16", "uint16", "int32", ">i4",
                                       "int64", "uint64"])
@pytest.mark.parametrize("label_type", ["uint8", "int16", "int32", "int64", "uint64"])
def test_dtypes(pred_type, label_type):
    rng = np.random.default_rng(3)
    pred, label = random_pair(rng, 60)
    evaluator = ZeroShotEvaluator(60, [1])
    evaluator.update(pred.astype(pred_type), label.astype(label_type))
    assert_scores(evaluator.compute(), oracle([(pred, label)], 60, [1]))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("ignore_index", [-1, -100, 2, 3, 254, 255, 256, 65535])
def test_ignore_index(ignore_index, dtype):
    evaluator = ZeroShotEvaluator(2, [1], ignore_index)
    pred = np.array([0, 1, 0, -5, 300, 1], dtype)  # at ignored pixels it may be anything
    label = np.array([0, 1, 1, ignore_index, ignore_index, ignore_index], dtype)
    evaluator.update(pred, label)
    np.testing.assert_array_equal(evaluator.confusion, [[1, 0], [1, 1]])
    for other in {-1, 2, ignore_index - 1, ignore_index + 1} - {0, 1, ignore_index}:
        with pytest.raises(UserError, match=f"label holds {other}; expected class ids"):
            evaluator.update(pred, np.where(label == 1, other, label))
    with pytest.raises(UserError, match="prediction holds 2; expected class ids"):
        evaluator.update(pred + 2 * (label == 1) - (pred == 1), label)
    np.testing.assert_array_equal(evaluator.confusion, [[1, 0], [1, 1]])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_paddle_tensors(dtype):
    pred, label = random_pair(np.random.default_rng(4), 5)
    evaluator = ZeroShotEvaluator(5, [0])
    evaluator.update(paddle.to_tensor(pred.astype(dtype)).unsqueeze(1),
                     paddle.to_tensor(label.astype(dtype)))
    assert_scores(evaluator.compute(), oracle([(pred, label)], 5, [0]))


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_a_negative_label_is_no_ignored_one(dtype):
    evaluator = ZeroShotEvaluator(3, [2])
    with pytest.raises(UserError, match="label holds -1; expected class ids"):
        evaluator.update(np.zeros(3, int), np.array([0, -1, 2], dtype))
    assert evaluator.confusion.sum() == 0


def test_counts_are_exact_where_float32_is_not():
    size = 2**24 + 1
    evaluator = ZeroShotEvaluator(3, [2])
    evaluator.update(np.ones(size, np.uint8), np.ones(size, np.uint8))
    np.testing.assert_array_equal(evaluator.confusion, np.diag([0, size, 0]))


def test_more_classes_than_a_byte_holds_where_an_image_shows_the_first_ones():
    evaluator = ZeroShotEvaluator(300, [299], 1000)
    evaluator.update(np.array([0, 255]), np.array([7, 254]))
    assert np.argwhere(evaluator.confusion).tolist() == [[7, 0], [254, 255]] == \
        np.argwhere(evaluator.confusion == 1).tolist()


def test_order_in_memory_does_not_matter():
    pred, label = random_pair(np.random.default_rng(6), 5)
    evaluator = ZeroShotEvaluator(5, [0])
    evaluator.update(np.asfortranarray(pred), label)
    assert_scores(evaluator.compute(), oracle([(pred, label)], 5, [0]))


def test_nothing_counts_nothing():
    evaluator = ZeroShotEvaluator(3, [2])
    evaluator.update(np.zeros((0, 4), int), np.zeros((0, 4), int))
    assert evaluator.confusion.sum() == 0


def test_bool_and_strided_input():
    label = np.array([[True, False, True], [False, False, True]])
    evaluator = ZeroShotEvaluator(2, [1])
    evaluator.update(~label[:, ::2], label[:, ::2])
    np.testing.assert_array_equal(evaluator.confusion, [[0, 1], [3, 0]])


def test_inputs_are_not_changed():
    pred, label = random_pair(np.random.default_rng(5), 4)
    copies = pred.copy(), label.copy()
    ZeroShotEvaluator(4, [1]).update(pred, label)
    np.testing.assert_array_equal((pred, label), copies)


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_bad_prediction_is_named_and_counts_nothing(dtype):
    evaluator = ZeroShotEvaluator(3, [2])
    with pytest.raises(UserError, match=r"prediction holds -1, 3; expected class ids 0\.\.2"):
        evaluator.update(np.array([0, 3, -1, 99], dtype), np.array([0, 1, 2, 255]))
    assert evaluator.confusion.sum() == 0


@pytest.mark.parametrize("pred, label, message", [
    (np.zeros(4, int), np.array([254, 255, -7, 0]),
     r"label holds -7, 254; .* 0\.\.2 or ignore_index 255"),
    (np.zeros(20, int), np.arange(20), r"label holds 3, 4, 5, 6, 7, \.\.\.; expected"),
    (np.zeros((2, 3), int), np.zeros((3, 2), int), r"prediction \[2, 3\] and label \[3, 2\]"),
    (np.zeros(4, np.float32), np.zeros(4, int), "class ids, got float32; take the argmax"),
])
def test_what_cannot_be_counted_is_refused(pred, label, message):
    with pytest.raises(UserError, match=message):
        ZeroShotEvaluator(3, [2]).update(pred, label)


def test_merge_of_other_classes():
    with pytest.raises(UserError, match=r"cannot merge .* unseen \[2\], and .* unseen \[1\]"):
        ZeroShotEvaluator(3, [2]).merge(ZeroShotEvaluator(3, [1]))


@pytest.mark.parametrize("arguments, message", [
    (dict(num_classes=0, unseen=[]), "num_classes must be at least 1, got 0"),
    (dict(num_classes=3, unseen=[0], ignore_index=2), "ignore_index 2 is one of the 3 class ids"),
    (dict(num_classes=3, unseen=[0], absent="one"), "'zero' or 'skip', got 'one'"),
    (dict(num_classes=3, unseen=[0], class_names=NAMES), "4 names for 3 classes"),
    (dict(num_classes=3, unseen=[3]), r"unseen class 3 is outside 0\.\.2"),
    (dict(num_classes=3, unseen=[-1]), r"unseen class -1 is outside 0\.\.2"),
    (dict(num_classes=4, unseen=["cwo"], class_names=NAMES), "cow"),
    (dict(num_classes=4, unseen=["cow"]), "are names; give class_names too"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        ZeroShotEvaluator(**arguments)


def test_unseen_by_name():
    evaluator = ZeroShotEvaluator(4, ["sofa", "马"], class_names=NAMES)
    assert evaluator.unseen.tolist() == [False, False, True, True]


def test_table_shows_every_class_and_lines_up():
    evaluator = ZeroShotEvaluator(4, ["马"], class_names=NAMES)
    evaluator.confusion[:] = np.diag([1, 1, 3, 1])
    evaluator.confusion[0, 2] = 1
    lines = evaluator.table().splitlines()
    assert "| 马         | unseen |  75.00 |" in lines
    assert "| background |   seen |  50.00 |" in lines
    assert "|   83.33   |    75.00    | 81.25 | 78.95 |" in lines  # 2 · 83.33 · 75 / 158.33


def test_table_marks_unseen_classes_that_were_named():
    evaluator = ZeroShotEvaluator(4, ["sofa", "马"], class_names=NAMES)
    lines = evaluator.table("LEAKS", named={"马": "horse", "background": "x"}).splitlines()
    kinds = {line.split("|")[1].strip(): line.split("|")[2].strip()
             for line in lines if line.count("|") == 4}
    assert kinds["马"] == "unseen, named" and kinds["sofa"] == "unseen"
    assert kinds["background"] == "seen"


def test_registered():
    assert EVALUATORS["ZeroShotEvaluator"] is ZeroShotEvaluator
