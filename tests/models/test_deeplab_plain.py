"""DeepLabV3+ with plain convolutions: its layout, its feature, its pretrained weights."""

import hashlib

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.models import CSRLResNet101, CSRLTinyNet, DeepLabV3PPlain
from paddle_csrl.models.last_layer import FeatureExtractor, find_classification_layer

#: SHA-256 over the names and shapes of ZS3Net's DeepLabV3+ for VOC, one `name<tab>shape` a line.
LAYOUT = "f70d56bc842f16fff39043c095b177ec530b5d842ec374ea8e9909bd7ab2be4e"


def make(num_classes=5, seed=0, **options):
    paddle.seed(seed)
    return DeepLabV3PPlain(num_classes, CSRLTinyNet(4), (0, 1), (1, 2), 8, **options)


def image(size=(33, 46)):
    return paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 3, *size)).astype("float32"))


def test_names_order_and_shapes_are_those_of_the_released_weights():
    with paddle.LazyGuard():
        state = DeepLabV3PPlain(21, CSRLResNet101()).state_dict()
    lines = [f"{name}\t{tuple(value.shape)}\n".replace("_mean\t", "running_mean\t").replace(
        "_variance\t", "running_var\t") for name, value in state.items()]
    assert len(lines) == 567
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == LAYOUT


@pytest.mark.parametrize("num_classes", [5, 8, 48, 256])  # 8, 48, 256: widths of other layers
def test_the_classification_layer_is_found(num_classes):
    model = make(num_classes)
    name, layer = find_classification_layer(model, num_classes)
    assert name == "decoder.pred_conv" and layer is model.decoder.pred_conv


def test_feature_and_logit_sizes():
    model = make()
    extractor = FeatureExtractor(model, 5)
    low_level = model.backbone(image())[0].shape[2:]
    assert extractor.feature_dim == 256
    assert extractor(image()).shape == [1, 256, *low_level]
    logits = model(image())
    assert [logit.shape for logit in logits] == [[1, 5, 33, 46]]


def test_the_features_times_the_layer_resized_with_aligned_corners_are_the_logits():
    model = make()
    features = FeatureExtractor(model, 5)(image()).numpy()[0]
    layer = model.decoder.pred_conv
    small = np.einsum("cd,dhw->chw", layer.weight.numpy()[:, :, 0, 0], features)
    small += layer.bias.numpy()[:, None, None]
    large = model(image())[0].numpy()[0]
    # Aligned corners: the corners of both grids are the same points.
    corners = np.ix_(range(5), (0, -1), (0, -1))
    np.testing.assert_allclose(large[corners], small[corners], rtol=1e-4, atol=1e-5)


def test_dropout_is_where_zs3net_has_it_and_off_in_evaluation():
    model = make()
    assert [layer.p for layer in model.sublayers() if isinstance(layer, nn.Dropout)] == [
        0.5, 0.5, 0.1]
    model.eval()
    assert np.array_equal(model(image())[0].numpy(), model(image())[0].numpy())
    model.train()
    assert not np.array_equal(model(image())[0].numpy(), model(image())[0].numpy())


def test_all_of_it_learns():
    model = manager.MODELS["DeepLabV3PPlain"](num_classes=5, backbone=CSRLTinyNet(4),
                                              backbone_indices=[0, 1], aspp_ratios=[1, 2])
    batch = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("float32")
    logit, = model(paddle.to_tensor(batch))
    (logit ** 2).mean().backward()
    learnt = [value for value in model.parameters() if not value.stop_gradient]
    assert len(learnt) == len([name for name in model.state_dict()
                               if not name.endswith(("_mean", "_variance"))])
    # A random network may leave the odd convolution behind a dead ReLU, never a whole part.
    for part in (model.backbone, *model.aspp.children(), *model.decoder.children()):
        own = [value for value in part.parameters() if not value.stop_gradient]
        assert all(np.isfinite(value.grad.numpy()).all() for value in own)
        assert not own or any(value.grad.numpy().any() for value in own)


@pytest.fixture
def weights(tmp_path):
    """A file of a model's weights, and the weights."""
    state = make(seed=1).state_dict()
    path = str(tmp_path / "weights.pdparams")
    paddle.save(state, path)
    return path, {name: value.numpy() for name, value in state.items()}


def test_pretrained_weights_are_loaded(weights):
    path, expected = weights
    state = make(seed=2, pretrained=path).state_dict()
    assert all(np.array_equal(state[name].numpy(), value) for name, value in expected.items())


def test_pretrained_of_other_classes_keeps_the_classification_layer(weights):
    path, expected = weights
    fresh = make(7, seed=2).state_dict()
    state = make(7, seed=2, pretrained=path).state_dict()
    for name, value in state.items():
        own = name.startswith("decoder.pred_conv")
        assert np.array_equal(value.numpy(), fresh[name].numpy() if own else expected[name])


def test_pretrained_of_another_network_is_refused(tmp_path, weights):
    path, expected = weights
    short = {name: value for name, value in expected.items() if not name.startswith("aspp.conv1")}
    paddle.save(short, path)
    with pytest.raises(UserError, match="DeepLabV3PPlain: pretrained is .*weights.pdparams, which "
                                        "lacks 1 of .* first aspp.conv1.weight"):
        make(pretrained=path)


def test_pretrained_file_missing_or_torn(tmp_path):
    with pytest.raises(UserError, match="pretrained is nowhere.pdparams, which is no file"):
        make(pretrained="nowhere.pdparams")
    torn = tmp_path / "torn.pdparams"
    torn.write_bytes(b"\x80\x04torn")
    with pytest.raises(UserError, match="torn.pdparams is not a whole .pdparams"):
        make(pretrained=str(torn))
