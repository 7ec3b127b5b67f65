"""The small backbone."""

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager
from paddleseg.models import DeepLabV3P

from paddle_csrl.models.tiny_net import CSRLTinyNet


@pytest.mark.parametrize("width, size", [(4, (32, 48)), (6, (33, 21))])
def test_strides_and_channels_are_as_announced(width, size):
    net = CSRLTinyNet(width)
    low, high = net(paddle.zeros([2, 3, *size]))
    assert net.feat_channels == [2 * width, 4 * width]
    assert low.shape == [2, 2 * width, *(-(-length // 4) for length in size)]
    assert high.shape == [2, 4 * width, *(-(-length // 8) for length in size)]


def test_other_channel_counts_are_taken():
    assert CSRLTinyNet(4, in_channels=1)(paddle.zeros([1, 1, 16, 16]))[0].shape == [1, 8, 4, 4]


def test_an_output_sees_its_neighbourhood_and_no_more():
    # 3x3 convolutions at strides 2, 1, 2, 1 widen the receptive field by 2, 4, 4 and 8 pixels.
    net = CSRLTinyNet(4)
    net.eval()
    image = paddle.randn([1, 3, 64, 64])
    image.stop_gradient = False
    net(image)[0][0, :, 8, 8].sum().backward()
    reached = np.flatnonzero(np.abs(image.grad.numpy()).sum((0, 1, 2)))
    assert reached.max() - reached.min() + 1 <= 19 and reached.min() <= 32 <= reached.max()


def test_every_parameter_gets_a_gradient():
    net = CSRLTinyNet(4)
    low, high = net(paddle.randn([2, 3, 32, 32]))
    (low.square().mean() + high.square().mean()).backward()
    assert all(p.grad is not None and np.abs(p.grad.numpy()).sum() > 0
               for p in net.parameters() if not p.stop_gradient)


def test_it_is_registered_and_serves_deeplab():
    assert manager.BACKBONES["CSRLTinyNet"] is CSRLTinyNet
    model = DeepLabV3P(5, CSRLTinyNet(4), (0, 1), (1, 2))
    assert model(paddle.zeros([2, 3, 32, 48]))[0].shape == [2, 5, 32, 48]
