"""Bilinear enlargement by matrix products, which compat puts in the place of Paddle's."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_csrl import compat
from paddle_csrl.utils.bilinear import enlarge, is_fast_enlargement


@pytest.fixture
def left(monkeypatch):
    """The sizes of what was enlarged outside of Paddle."""
    sizes = []

    def recorded(x, height, width, align_corners):
        sizes.append((height, width))
        return enlarge(x, height, width, align_corners)

    monkeypatch.setattr(F, "interpolate", compat._with_fast_bilinear(
        F.interpolate.__wrapped__, is_fast_enlargement, recorded))
    return sizes


def maps(*shape):
    return paddle.to_tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def at(image, row, column):
    """The value of an image [h, w] at a place between its pixels; its border goes on."""
    top, left = int(np.floor(row)), int(np.floor(column))
    down, right = row - top, column - left
    rows, columns = (np.clip([i, i + 1], 0, n - 1) for i, n in zip((top, left), image.shape))
    return np.array([1 - down, down]) @ image[np.ix_(rows, columns)] @ np.array([1 - right, right])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("old, new", [((3, 4), (12, 16)), ((1, 1), (5, 7)), ((5, 3), (6, 10)),
                                      ((4, 6), (4, 6)), ((2, 9), (31, 9)), ((1, 3), (1, 8))])
def test_values_lie_between_their_neighbours(left, old, new, align_corners):
    x = maps(2, 3, *old)
    got = F.interpolate(x, list(new), mode="bilinear", align_corners=align_corners).numpy()
    assert left == [new]
    for row, column in np.ndindex(*new):
        places = [(place * (m - 1) / max(n - 1, 1) if align_corners
                   else max((place + 0.5) * m / n - 0.5, 0.0))
                  for place, m, n in zip((row, column), old, new)]
        wanted = [[at(channel, *places) for channel in image] for image in x.numpy()]
        np.testing.assert_allclose(got[:, :, row, column], wanted, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_gradients_are_those_of_paddle(left, align_corners):
    gradients, weights = [], maps(2, 3, 20, 15)
    for interpolate in (F.interpolate, F.interpolate.__wrapped__):
        x = maps(2, 3, 8, 5)
        x.stop_gradient = False
        (interpolate(x, [20, 15], mode="bilinear", align_corners=align_corners)
         * weights).sum().backward()
        gradients.append(x.grad.numpy())
    assert len(left) == 1
    np.testing.assert_allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 9), [12, 9], paddle.to_tensor([12, 9]),
                                  [paddle.to_tensor(12), 9]])
def test_every_kind_of_size(left, size):
    assert F.interpolate(maps(1, 2, 4, 3), size, mode="bilinear").shape == [1, 2, 12, 9]
    assert left == [(12, 9)]


def test_what_paddleseg_says_of_the_layout(left):
    F.interpolate(maps(1, 2, 4, 3), [8, 6], mode="bilinear", data_format="NCHW", align_mode=0)
    assert left == [(8, 6)]


@pytest.mark.parametrize("shape, size, kwargs", [
    ((1, 2, 8, 8), [4, 4], {}), ((1, 2, 8, 8), [4, 16], {}), ((1, 1, 65, 8), [130, 16], {}),
    ((1, 2, 8, 8), [16, 16], {"mode": "nearest"}), ((1, 2, 8, 8), [16, 16], {"mode": "bicubic"}),
    ((1, 2, 8, 8), [16, 16], {"align_mode": 1}), ((1, 8, 8, 2), [16, 16], {"data_format": "NHWC"}),
    ((1, 2, 8, 8), None, {"scale_factor": 2})])
def test_all_else_is_paddles(left, shape, size, kwargs):
    arguments = {"mode": "bilinear", **kwargs}
    got = F.interpolate(maps(*shape), size, **arguments)
    np.testing.assert_array_equal(
        got.numpy(), F.interpolate.__wrapped__(maps(*shape), size, **arguments).numpy())
    assert not left


def test_other_numbers_stay_with_paddle(left):
    assert F.interpolate(maps(1, 2, 3, 3).astype("float64"), [6, 6],
                         mode="bilinear").dtype == paddle.float64
    assert not left


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_where_it_is(left, value):
    """A pixel reaches as far as the next ones: in products 0 times infinity would reach all."""
    x = maps(1, 1, 6, 6)
    x[0, 0, 2, 2] = value
    got = F.interpolate(x, [24, 24], mode="bilinear").numpy()[0, 0]
    reached = np.zeros((24, 24), bool)
    reached[6:14, 6:14] = True  # four to a pixel, and half of that on either side
    np.testing.assert_array_equal(np.isfinite(got), ~reached)
    assert not left


def test_an_exported_graph_holds_the_interpolation(left, tmp_path):
    class Twice(paddle.nn.Layer):
        def forward(self, x):
            return F.interpolate(x, paddle.shape(x)[2:] * 2, mode="bilinear")

    paddle.jit.save(Twice(), str(tmp_path / "twice"),
                    [paddle.static.InputSpec([None, 2, None, None], "float32")])
    loaded, x = paddle.jit.load(str(tmp_path / "twice")), maps(2, 2, 5, 4)
    assert not left
    np.testing.assert_allclose(loaded(x).numpy(), enlarge(x, 10, 8, False).numpy(), atol=1e-5)
