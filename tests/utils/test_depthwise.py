"""Depthwise convolutions by OpenCV, which compat puts in the place of Paddle's, and its own."""

import sys

import numpy as np
import paddle
import pytest
from paddle import nn
from scipy import ndimage

from paddle_csrl import compat
from paddle_csrl.utils import depthwise
from paddle_csrl.utils.depthwise import convolve_depthwise

CHANNELS = 3


@pytest.fixture
def left(monkeypatch):
    """The shapes of what was filtered outside of Paddle."""
    shapes = []

    def recorded(x, *others):
        shapes.append(tuple(x.shape))
        return convolve_depthwise(x, *others)

    mended = sys.modules["paddle.nn.functional.conv"]
    monkeypatch.setattr(mended, "_conv_nd", compat._with_fast_parts(
        mended._conv_nd.__wrapped__, depthwise.is_fast_filter, recorded))
    return shapes


def layer(kernel=5, stride=1, dilation=1, bias=False, **kwargs):
    paddle.seed(0)
    return nn.Conv2D(CHANNELS, CHANNELS, kernel, stride, dilation * (kernel // 2), dilation,
                     groups=CHANNELS, bias_attr=None if bias else False, **kwargs)


def images(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def correlated(x, weight):
    """float64 [N, C, H, W] by SciPy."""
    return np.stack([[ndimage.correlate(channel, weights, mode="constant")
                      for channel, weights in zip(image, weight[:, 0])] for image in x])


@pytest.mark.parametrize("size", [(17, 23), (5, 5), (2, 3), (1, 1), (1, 40)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_every_pixel_and_every_gradient_is_a_sum(left, size, kernel):
    """The gradient of Σ g·y by x correlates g with the turned filter; by w it is Σ g·x there."""
    convolution = layer(kernel)
    x, g = (images(2, CHANNELS, *size, seed=seed) for seed in (0, 1))
    x.stop_gradient = False
    y = convolution(x)
    (y * g).sum().backward()
    assert left == [(2, CHANNELS, *size)]
    assert {y.dtype, x.grad.dtype, convolution.weight.grad.dtype} == {paddle.float32}
    weight, given, wanted = (t.numpy().astype(np.float64) for t in (convolution.weight, x, g))
    np.testing.assert_allclose(y.numpy(), correlated(given, weight), atol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), correlated(wanted, weight[..., ::-1, ::-1]),
                               atol=1e-5)
    padded = np.pad(given, ((0, 0), (0, 0), *[(kernel // 2, kernel // 2)] * 2))
    for row, column in np.ndindex(kernel, kernel):
        seen = padded[:, :, row:row + size[0], column:column + size[1]]
        np.testing.assert_allclose(convolution.weight.grad.numpy()[:, 0, row, column],
                                   (seen * wanted).sum((0, 2, 3)), atol=1e-4)
    with paddle.no_grad():
        np.testing.assert_allclose(convolution(x).numpy(), y.numpy(), atol=1e-5)


@pytest.mark.parametrize("view", [lambda x: x.transpose([0, 3, 1, 2]),
                                  lambda x: x.transpose([0, 3, 2, 1])[:, :, ::2]])
def test_channels_that_lie_apart_in_memory(left, view):
    convolution, x = layer(bias=True), view(images(2, 9, 8, 3))
    with paddle.no_grad():
        y = convolution(x)
    assert len(left) == 1
    np.testing.assert_allclose(
        y.numpy(), correlated(x.numpy(), convolution.weight.numpy()), atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"kernel": 3, "stride": 2}, {"dilation": 2}, {"kernel": 9},
                                    {"padding_mode": "reflect"}, {"data_format": "NHWC"}])
def test_other_filters_are_paddles(left, kwargs):
    layer(**kwargs)(images(1, *(12, 9, 3) if "data_format" in kwargs else (3, 12, 9)))
    assert not left


def test_small_filters_are_paddles_without_a_gradient(left):
    with paddle.no_grad():
        layer(3)(images(1, 3, 12, 9))
    assert not left


def test_convolutions_of_several_channels_are_paddles(left):
    nn.Conv2D(4, 4, 3, padding=1, groups=2)(images(1, 4, 5, 5))
    nn.Conv2D(4, 8, 3, padding=1, groups=4)(images(1, 4, 5, 5))
    assert not left


@pytest.mark.parametrize("of_images", [True, False])
def test_either_gradient_alone(left, of_images):
    convolution, x = layer(3), images(2, 3, 8, 9)
    x.stop_gradient, convolution.weight.stop_gradient = not of_images, of_images
    convolution(x).square().sum().backward()
    got, none = x.grad, convolution.weight.grad
    if not of_images:
        got, none = none, got
    assert left and none is None and float(got.abs().sum()) > 0


def test_frozen_weights_have_no_gradient(left):
    convolution = layer()
    convolution.weight.stop_gradient = True
    assert convolution(images(1, 3, 8, 9)).stop_gradient and left


def test_a_bias_is_added(left):
    convolution, x = layer(3, bias=True), images(2, 3, 6, 5)
    convolution.bias.set_value(paddle.to_tensor([1.0, -2.0, 3.0]))
    expected = correlated(x.numpy(), convolution.weight.numpy())
    expected += np.array([1.0, -2.0, 3.0])[:, None, None]
    y = convolution(x)
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
    y.square().sum().backward()
    np.testing.assert_allclose(convolution.bias.grad.numpy(), 2 * expected.sum((0, 2, 3)),
                               rtol=1e-4)
    assert len(left) == 1


def test_a_bias_alone_wants_its_gradient(left):
    convolution = layer(5, bias=True)
    convolution.weight.stop_gradient = True
    convolution(images(2, 3, 6, 5)).sum().backward()
    assert convolution.bias.grad.tolist() == [60, 60, 60] and convolution.weight.grad is None
    assert left


def test_other_numbers_stay_with_paddle(left):
    convolution = layer()
    convolution.to(dtype="float64")
    assert convolution(images(1, 3, 8, 9).astype("float64")).dtype == paddle.float64
    assert not left


def test_an_exported_graph_holds_the_convolution(left, tmp_path):
    convolution, x = layer(), images(1, 3, 8, 9)
    convolution.eval()
    paddle.jit.save(convolution, str(tmp_path / "layer"),
                    [paddle.static.InputSpec([None, 3, None, None], "float32")])
    loaded = paddle.jit.load(str(tmp_path / "layer"))
    other = images(2, 3, 11, 6)
    with paddle.no_grad():
        for given in (x, other):
            before = len(left)
            exported = loaded(given).numpy()
            assert len(left) == before
            np.testing.assert_allclose(exported, convolution(given).numpy(), atol=1e-5)


def test_images_do_not_touch_each_other():
    """What one image holds at its borders reaches no other one, by value or gradient."""
    x = images(3, 2, 4, 6)
    x.stop_gradient = False
    weight = images(2, 1, 3, 3, seed=2)
    y = depthwise.convolve_depthwise(x, weight)
    alone = depthwise.convolve_depthwise(x[1:2], weight)
    np.testing.assert_array_equal(y[1].numpy(), alone[0].numpy())
    y[1].sum().backward()
    assert not x.grad[0].numpy().any() and not x.grad[2].numpy().any()
    assert x.grad[1].numpy().all()
