"""A sweep counts what argmax predicts with δ taken off the seen logits, at every δ."""

import numpy as np
import paddle
import pytest

from paddle_csrl.evaluation.sweep import CalibrationSweep, MarginSample

UNSEEN = np.array([False, True, False, False, True, False])
SHIFTS = (-3.0, -1.0, -1.0, 0.0, 0.5, 2.0)  # as two costs of few features have the same δ


def counted(images, unseen, shifts, ignore_index=255) -> np.ndarray:
    """By argmax and one pixel at a time; at the ends the other classes are taken away."""
    confusions = np.zeros((len(shifts) + 2, len(unseen), len(unseen)), np.int64)
    for logits, label in images:
        variants = [np.where(unseen[:, None, None], -np.inf, logits)]
        variants += [logits - shift * ~unseen[:, None, None] for shift in shifts]
        variants += [np.where(unseen[:, None, None], logits, -np.inf)]
        for confusion, variant in zip(confusions, variants):
            for row, column in np.argwhere(label != ignore_index):
                confusion[label[row, column], variant[:, row, column].argmax()] += 1
    return confusions


def images(draw, dtype, seed=0):
    """Two images whose labels lack class 3, and a part of which is not labelled."""
    rng = np.random.default_rng(seed)
    for height, width in ((9, 7), (4, 11)):
        yield (draw(rng, (6, height, width)).astype(dtype),
               rng.choice([0, 1, 2, 4, 5, 255], (height, width)).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("draw", [
    lambda rng, shape: rng.normal(0, 2, shape),
    lambda rng, shape: rng.integers(-2, 3, shape)], ids=["no tie", "ties"])
def test_counts_are_those_of_argmax_at_every_shift(draw, dtype):
    sweep = CalibrationSweep(UNSEEN, SHIFTS)
    for logits, label in images(draw, dtype):
        sweep.update(paddle.to_tensor(logits[None]), label[None, None])
    expected = counted(images(draw, dtype), UNSEEN, SHIFTS)
    assert np.array_equal(sweep.confusions(), expected)
    assert len({str(item) for item in expected}) >= len(set(SHIFTS)) + 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_counts_the_logits_it_has(dtype):
    sweep = CalibrationSweep(UNSEEN, SHIFTS)
    rows = list(images(lambda rng, shape: rng.integers(-2, 3, shape), np.float32))  # exact in both
    for logits, label in rows:
        sweep.update(paddle.to_tensor(logits[None]).astype(dtype), label[None, None])
    assert np.array_equal(sweep.confusions(), counted(rows, UNSEEN, SHIFTS))


def test_the_ends_are_the_ends_whatever_the_logits():
    """Margins of log densities may be above any number that is taken for infinite."""
    sweep, logits = CalibrationSweep(UNSEEN, [0.0]), np.zeros((1, 6, 1, 2), np.float32)
    logits[0, 2, 0, 0], logits[0, 4, 0, 1] = 1e6, 1e6
    sweep.update(paddle.to_tensor(logits), np.full((1, 1, 1, 2), 5))
    np.testing.assert_array_equal(sweep.confusions()[:, 5], [
        [1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0]])


def test_a_sample_of_margins_keeps_seen_pixels_by_class_and_not_more_than_the_bound():
    logits = np.random.default_rng(1).normal(size=(6, 8, 8)).astype(np.float32)
    label = np.repeat([0, 0, 1, 2, 3, 255, 4, 0], 8).reshape(8, 8)
    margins = logits[~UNSEEN].max(0) - logits[UNSEEN].max(0).astype(np.float64)
    for bound in (64, 40, 25):  # of 40 seen pixels
        sample = MarginSample(UNSEEN, bound)
        sample.update(paddle.to_tensor(logits[None]), label[None, None])
        found = sample.by_class()
        assert 0 < sum(map(len, found)) <= bound
        for class_id, own in zip((0, 2, 3), found, strict=True):
            assert np.isin(own, margins[label == class_id]).all()
        if bound >= 40:
            assert [len(own) for own in found] == [24, 8, 8]
