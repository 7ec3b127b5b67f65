"""FusedSegFormer against PaddleSeg's own."""

import numpy as np
import paddle
import pytest
from paddleseg.models import SegFormer

from paddle_csrl.errors import UserError
from paddle_csrl.models import CSRLTinyNet, EfficientNetLite0, FusedSegFormer


def pair(align_corners=False, dropout=0.0):
    """PaddleSeg's model and ours with the same weights, all of them random."""
    models = [kind(5, EfficientNetLite0(), 16, align_corners) for kind in (SegFormer,
                                                                          FusedSegFormer)]
    rng = np.random.default_rng(0)
    for layer in models[0].sublayers():
        for name in ("weight", "bias"):
            value = getattr(layer, name, None)
            if value is not None and (name == "bias" or value.ndim < 2):
                value.set_value(rng.uniform(0.5, 1.5, value.shape).astype("float32"))
    models[1].set_state_dict(models[0].state_dict())
    for model in models:
        model.dropout.p = dropout
    return models


def image(height, width, count=2):
    rng = np.random.default_rng(1)
    return paddle.to_tensor(rng.normal(size=(count, 3, height, width)).astype("float32"))


def close(actual, expected, tolerance=2e-4):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("height, width", [(64, 64), (53, 90)])
def test_logits_are_those_of_paddleseg(height, width, align_corners):
    stock, fused = pair(align_corners)
    for model in (stock, fused):
        model.eval()
    expected = stock(image(height, width))[0].numpy()
    actual = fused(image(height, width))[0].numpy()
    assert actual.shape == (2, 5, height, width)
    assert expected.std() > 0.01
    close(actual, expected)


def test_gradients_and_statistics_of_a_training_step_are_those_of_paddleseg():
    stock, fused = pair()
    weights = paddle.to_tensor(np.random.default_rng(2).normal(size=(2, 5, 64, 64))
                               .astype("float32"))
    for model in (stock, fused):
        model.train()
        (model(image(64, 64))[0] * weights).mean().backward()
    fused_parameters = dict(fused.named_parameters())
    # Biases before a batch norm have no gradient but rounding.
    compared = [(name, value) for name, value in stock.named_parameters()
                if name.startswith("linear_") and not name.endswith("proj.bias")
                and not value.stop_gradient]
    assert len(compared) == 9
    for name, value in compared:
        assert np.abs(value.grad.numpy()).max() > 1e-7, name
        close(fused_parameters[name].grad.numpy(), value.grad.numpy())
    fuse = [model.linear_fuse._batch_norm for model in (stock, fused)]
    close(fuse[1]._mean.numpy(), fuse[0]._mean.numpy())
    close(fuse[1]._variance.numpy(), fuse[0]._variance.numpy())


def test_dropout_acts_in_training_only():
    _, fused = pair(dropout=0.5)
    fused.train()
    first, second = (fused(image(64, 64))[0].numpy() for _ in range(2))
    assert not np.allclose(first, second)
    fused.eval()
    np.testing.assert_array_equal(*(fused(image(64, 64))[0].numpy() for _ in range(2)))


@pytest.mark.parametrize("width", [0, -4, 1.5, True, "256"])
def test_an_impossible_width_is_named(width):
    with pytest.raises(UserError, match="FusedSegFormer: embedding_dim is .*whole number above 0"):
        FusedSegFormer(5, EfficientNetLite0(), width)


def test_a_backbone_of_other_maps_is_named():
    with pytest.raises(UserError, match="takes four feature maps, and CSRLTinyNet has 2"):
        FusedSegFormer(5, CSRLTinyNet(), 16)
