"""Outputs of a segmentor in training that are more than one tensor of logits."""

import numpy as np
import paddle
import pytest
from paddle import nn

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
