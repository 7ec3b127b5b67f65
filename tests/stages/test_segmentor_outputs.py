"""Outputs of a segmentor in training that are more than one tensor of logits."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import BCELoss

from paddle_csrl.stages.segmentor import _check_outputs


class Model(nn.Layer):
    """One convolution whose outputs ``form`` arranges, as GSCNN and HRNetW48Contrast do."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv2D(3, 3, 1), form

    def forward(self, images):
        return self.form(self.conv(images))


class Mean(nn.Layer):
    """The mean of all tensors in an output, however it is nested."""

    def forward(self, output, label):
        return sum(part.mean() for part in paddle.utils.flatten(output))


@pytest.mark.parametrize("form", [
    lambda x: [x, (x, 2 * x)], lambda x: [{"seg": x, "embed": 2 * x}, x], lambda x: [x, [x, x]]],
    ids=["pair", "dict", "list"])
def test_nested_outputs_are_tried_with_a_gradient(form):
    seen = []
    loss = Mean()
    loss.register_forward_pre_hook(lambda _, given: seen.extend(
        part.stop_gradient for part in paddle.utils.flatten(given[0])))
    sample = {"img": np.zeros((3, 8, 8), np.float32), "label": np.zeros((8, 8), np.int32)}
    _check_outputs(Model(form), sample, 255, {"types": [loss, loss], "coef": [1, 1]},
                   {"types": [{"type": "Mean"}] * 2, "coef": [1, 1]})
    assert seen and not any(seen)


def test_edges_are_those_of_the_trainer():
    """PaddleSeg's data sets have them in 8 bits, and its trainer makes integers of 64 of them."""
    edge = np.zeros((1, 8, 8), np.uint8)
    edge[0, 2] = 1
    sample = {"img": np.ones((3, 8, 8), np.float32), "label": np.zeros((8, 8), np.int32),
              "edge": edge}
    loss = {"types": [{"type": "BCELoss", "edge_label": True}], "coef": [1]}
    _check_outputs(Model(lambda x: [x[:, :1]]), sample, 255,
                   {"types": [BCELoss(edge_label=True)], "coef": [1]}, loss)
