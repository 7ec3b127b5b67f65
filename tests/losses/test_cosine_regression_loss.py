"""The regression loss of SegDeViSE against loops, hand values and differences."""

import numpy as np
import paddle
import pytest

from helpers.losses import central_differences, gradient
from paddle_csrl.errors import UserError
from paddle_csrl.losses import CosineRegressionLoss


def brute_force(cosines, labels, ignore_index):
    total, number = 0.0, 0
    for n, i, j in np.ndindex(labels.shape):
        if labels[n, i, j] != ignore_index:
            total += 1 - cosines[n, labels[n, i, j], i, j]
            number += 1
    return total / max(number, 1)


def example(seed=0, ignored=(255,)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (2, 3, 5))
    for value in ignored:
        labels[rng.random(labels.shape) < 0.3] = value
    return rng.uniform(-1, 1, (2, 4, 3, 5)), labels


@pytest.mark.parametrize("ignore_index", [255, 0, -1])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-12)])
def test_against_a_loop(ignore_index, dtype, tolerance):
    cosines, labels = example(ignored=(ignore_index,))
    loss = CosineRegressionLoss(ignore_index)(paddle.to_tensor(cosines.astype(dtype)),
                                              paddle.to_tensor(labels))
    assert float(loss) == pytest.approx(brute_force(cosines, labels, ignore_index), abs=tolerance)


def test_by_hand():
    cosines = paddle.to_tensor([[[[1.0, 0.5]], [[0.0, -1.0]]]])
    for labels, expected in (([[[0, 0]]], 0.25), ([[[0, 1]]], 1.0), ([[[1, 255]]], 1.0)):
        assert float(CosineRegressionLoss()(cosines, paddle.to_tensor(labels))) == expected


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_may_have_a_channel_and_any_integer_type(dtype):
    cosines, labels = example()
    loss = CosineRegressionLoss()
    expected = float(loss(paddle.to_tensor(cosines), paddle.to_tensor(labels)))
    given = paddle.to_tensor(labels.astype(dtype))
    assert float(loss(paddle.to_tensor(cosines), given.unsqueeze(1))) == expected


def test_gradient_by_central_differences():
    cosines, labels = example(1)
    numeric = central_differences(lambda x: brute_force(x, labels, 255), cosines)
    np.testing.assert_allclose(gradient(CosineRegressionLoss(), cosines, labels), numeric,
                               atol=1e-8)


def test_no_labelled_pixel_gives_a_differentiable_zero():
    cosines = paddle.to_tensor(example()[0], stop_gradient=False)
    loss = CosineRegressionLoss()(cosines, paddle.full([2, 3, 5], 255, "int64"))
    loss.backward()
    assert float(loss) == 0 and not cosines.grad.numpy().any()


def test_inputs_stay_as_they_were():
    cosines, labels = map(paddle.to_tensor, example())
    before = cosines.numpy().copy(), labels.numpy().copy()
    CosineRegressionLoss()(cosines, labels)
    assert np.array_equal(cosines.numpy(), before[0]) and np.array_equal(labels.numpy(), before[1])


@pytest.mark.parametrize("shapes", [([2, 4, 3, 5], [2, 3, 4]), ([2, 4, 3, 5], [2, 2, 3, 5]),
                                    ([4, 3], [4])])
def test_shapes_that_do_not_fit_are_refused(shapes):
    cosines, labels = paddle.zeros(shapes[0]), paddle.zeros(shapes[1], "int64")
    with pytest.raises(UserError, match=r"CosineRegressionLoss takes cosines \[N, C, H, W\] and"):
        CosineRegressionLoss()(cosines, labels)
