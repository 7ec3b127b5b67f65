"""Depthwise convolutions, those by OpenCV among them, against sums in NumPy and Paddle's own."""

import numpy as np
import paddle
import pytest
from scipy import ndimage

from paddle_csrl.models import depthwise
from paddle_csrl.models.depthwise import DepthwiseConv2D


@pytest.fixture
def left(monkeypatch):
    """The shapes of what was filtered outside of Paddle."""
    shapes, original = [], depthwise._filtered

    def recorded(images, filters):
        shapes.append(images.shape)
        return original(images, filters)

    monkeypatch.setattr(depthwise, "_filtered", recorded)
    return shapes


def layer(kernel=5, **kwargs):
    paddle.seed(0)
    return DepthwiseConv2D(3, kernel, **kwargs)


def images(*shape):
    return paddle.to_tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("size", [(17, 23), (5, 5), (2, 3), (1, 1), (1, 40)])
def test_every_pixel_is_the_sum_around_it(left, size):
    convolution, x = layer(), images(2, 3, *size)
    with paddle.no_grad():
        y = convolution(x)
    assert left == [(2, 3, *size)] and y.shape == x.shape and y.dtype == paddle.float32
    for image, out in zip(x.numpy(), y.numpy()):
        for channel, weights, result in zip(image, convolution.weight.numpy()[:, 0], out):
            expected = ndimage.correlate(channel.astype(np.float64), weights, mode="constant")
            np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(paddle.nn.Conv2D.forward(convolution, x).numpy(), y.numpy(),
                               atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"kernel": 3}, {"stride": 2}, {"dilation": 2}])
def test_other_filters_are_paddles(left, kwargs):
    with paddle.no_grad():
        convolution, x = layer(**kwargs), images(1, 3, 12, 9)
        np.testing.assert_array_equal(convolution(x), paddle.nn.Conv2D.forward(convolution, x))
    assert not left


@pytest.mark.parametrize("of_images", [True, False])
def test_gradients_stay_with_paddle(left, of_images):
    convolution, x = layer(), images(1, 3, 8, 9)
    x.stop_gradient, convolution.weight.stop_gradient = not of_images, of_images
    convolution(x).square().sum().backward()
    wanted = x.grad if of_images else convolution.weight.grad
    assert not left and float(wanted.abs().sum()) > 0


def test_frozen_weights_leave_paddle_in_training_too(left):
    convolution = layer()
    convolution.weight.stop_gradient = True
    assert convolution(images(1, 3, 8, 9)).stop_gradient and left


def test_other_numbers_stay_with_paddle(left):
    convolution = layer()
    convolution.to(dtype="float64")
    with paddle.no_grad():
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
