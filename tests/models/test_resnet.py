"""The dilated plain ResNet against a NumPy forward pass and torchvision's layout."""

import inspect
from functools import partial

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager

from helpers import layers
from helpers.layers import convolve
from paddle_csrl.errors import UserError
from paddle_csrl.models.resnet import Bottleneck, CSRLResNet50, CSRLResNet101, DilatedResNet

DEPTHS = {CSRLResNet50: (3, 4, 6, 3), CSRLResNet101: (3, 4, 23, 3)}
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2)}


class ShortResNet(DilatedResNet):
    """Fewer blocks of full width, for speed."""

    depths = (2, 1, 1, 2)


normalise = partial(layers.normalise, epsilon=1e-5)


def max_pool(x):
    """3x3, stride 2, padding 1."""
    height, width = x.shape[1:]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return np.max([x[:, i:i + height:2, j:j + width:2] for i in range(3) for j in range(3)], 0)


def bottleneck(x, state, name, stride, dilation):
    y = np.maximum(normalise(convolve(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1"), 0)
    y = convolve(y, state[f"{name}.conv2.weight"], stride, dilation)
    y = np.maximum(normalise(y, state, f"{name}.bn2"), 0)
    y = normalise(convolve(y, state[f"{name}.conv3.weight"]), state, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in state:
        x = convolve(x, state[f"{name}.downsample.0.weight"], stride)
        x = normalise(x, state, f"{name}.downsample.1")
    return np.maximum(x + y, 0)


def resnet(x, state, depths, output_stride, multi_grid):
    """The four feature maps of one image (3, H, W), block by block."""
    x = np.maximum(normalise(convolve(x, state["conv1.weight"], 2), state, "bn1"), 0)
    x, features = max_pool(x), []
    for index, depth in enumerate(depths):
        for block in range(depth):
            dilation = DILATIONS[output_stride][index] * (multi_grid[block] if index == 3 else 1)
            stride = STRIDES[output_stride][index] if block == 0 else 1
            x = bottleneck(x, state, f"layer{index + 1}.{block}", stride, dilation)
        features.append(x)
    return features


def randomise(model, seed=0):
    """Random weights and batch-norm statistics of moderate size; float64 copies of them."""
    rng, state = np.random.default_rng(seed), {}
    for key, value in model.state_dict().items():
        if value.ndim == 4:
            scale = np.sqrt(2 / np.prod(value.shape[1:]))
            state[key] = rng.normal(0, scale, value.shape)
        else:
            low = 0.5 if key.endswith(("weight", "_variance")) else -0.5
            state[key] = rng.uniform(low, low + 1, value.shape)
        state[key] = state[key].astype("float32")
    model.set_state_dict(state)
    model.eval()
    return {key: value.astype("float64") for key, value in state.items()}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).normal(0, 1, (3, 45, 64)).astype("float32")


@pytest.mark.parametrize("output_stride, multi_grid", [(16, (1, 2)), (8, (2, 3))])
def test_forward_matches_numpy(image, output_stride, multi_grid):
    model = ShortResNet(output_stride=output_stride, multi_grid=multi_grid)
    expected = resnet(image.astype("float64"), randomise(model), model.depths, output_stride,
                      multi_grid)
    with paddle.no_grad():
        features = model(paddle.to_tensor(image[None]))
    assert len(features) == 4
    for feature, reference in zip(features, expected):
        np.testing.assert_allclose(feature.numpy()[0], reference, rtol=1e-4,
                                   atol=1e-4 * reference.std())


@pytest.mark.parametrize("output_stride", [8, 16])
def test_sizes_and_channels(output_stride):
    model = ShortResNet(output_stride=output_stride, multi_grid=(1, 1), in_channels=1)
    model.eval()
    with paddle.no_grad():
        features = model(paddle.zeros([2, 1, 33, 64]))
    sizes = {8: [(9, 16), (5, 8), (5, 8), (5, 8)], 16: [(9, 16), (5, 8), (3, 4), (3, 4)]}
    channels = [256, 512, 1024, 2048]
    assert model.feat_channels == channels
    assert [tuple(feature.shape) for feature in features] == [
        (2, count, *size) for count, size in zip(channels, sizes[output_stride])]


def test_dilated_block_equals_the_plain_block_on_every_second_pixel():
    """A block of dilation 2 sees four interleaved images, each as a plain block would."""
    plain, dilated = Bottleneck(16, 4), Bottleneck(16, 4, dilation=2)
    randomise(plain)
    randomise(dilated)
    x = paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (1, 16, 8, 10)).astype("float32"))
    with paddle.no_grad():
        for row, column in np.ndindex(2, 2):
            np.testing.assert_allclose(dilated(x)[:, :, row::2, column::2].numpy(),
                                       plain(x[:, :, row::2, column::2]).numpy(), atol=1e-5)


def torchvision_layout(depths):
    """Name to shape of every tensor of torchvision's ResNet without its classifier."""
    shapes = {}

    def conv_bn(conv, bn, *shape):
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{bn}.{key}": shape[:1] for key in ("weight", "bias", "_mean",
                                                           "_variance")})

    conv_bn("conv1", "bn1", 64, 3, 7, 7)
    channels = 64
    for layer, depth in enumerate(depths, start=1):
        width = 32 * 2**layer
        for block in range(depth):
            name = f"layer{layer}.{block}"
            conv_bn(f"{name}.conv1", f"{name}.bn1", width, channels, 1, 1)
            conv_bn(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            conv_bn(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    return shapes


@pytest.mark.parametrize("backbone, count", [(CSRLResNet50, 265), (CSRLResNet101, 520)])
def test_names_and_shapes_are_torchvisions(backbone, count):
    state = backbone().state_dict()
    assert len(state) == count  # 53 or 104 convolutions with a batch norm of four tensors each
    assert {key: tuple(value.shape) for key, value in state.items()} == torchvision_layout(
        DEPTHS[backbone])


def test_defaults_are_zs3nets():
    defaults = {name: parameter.default
                for name, parameter in inspect.signature(CSRLResNet101).parameters.items()}
    assert defaults["output_stride"] == 16
    assert defaults["multi_grid"] == (1, 2, 4)
    model = CSRLResNet101(multi_grid=[1, 2, 4])
    assert [block.conv2._dilation for block in model.layer4] == [[2, 2], [4, 4], [8, 8]]


def test_channels_last_gives_the_same_features(image):
    first, last = (ShortResNet(multi_grid=(1, 2), data_format=data_format)
                   for data_format in ("NCHW", "NHWC"))
    randomise(first)
    randomise(last)
    with paddle.no_grad():
        for a, b in zip(first(paddle.to_tensor(image[None])),
                        last(paddle.to_tensor(image[None].transpose(0, 2, 3, 1)))):
            b = b.numpy().transpose(0, 3, 1, 2)
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-4 * b.std())


def test_stock_deeplab_trains_on_it():
    backbone = manager.BACKBONES["CSRLResNet50"](output_stride=16)
    model = manager.MODELS["DeepLabV3P"](num_classes=3, backbone=backbone)
    logit, = model(paddle.ones([2, 3, 64, 64]))
    assert logit.shape == [2, 3, 64, 64]
    logit.mean().backward()
    learnt = [value for value in backbone.parameters() if not value.stop_gradient]
    assert len(learnt) == 53 * 3  # a kernel, a scale and a shift each
    assert all(np.isfinite(value.grad.numpy()).all() for value in learnt)


@pytest.mark.parametrize("arguments, message", [
    *(({"output_stride": stride}, f"output_stride is {stride!r}; write 8 or 16")
      for stride in (4, 32, "16", None)),
    *(({"multi_grid": grid}, "multi_grid is .* write 3 positive")
      for grid in ((1, 2), (1, 2, 0), (1, 2, 1.5))),
    ({"pretrained": "nowhere.pdparams"}, "pretrained is nowhere.pdparams, which is no file")])
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=f"CSRLResNet101: {message}"):
        CSRLResNet101(**arguments)


@pytest.fixture(scope="module")
def weights():
    model = ShortResNet(multi_grid=(1, 2))
    randomise(model, seed=3)
    return model.state_dict()


@pytest.fixture
def weights_path(tmp_path, weights):
    """A file of the backbone's weights with a classifier on top."""
    path = str(tmp_path / "resnet.pdparams")
    paddle.save({**weights, "fc.weight": paddle.zeros([2048, 10])}, path)
    return path


def test_pretrained_weights_are_loaded(weights, weights_path):
    loaded = ShortResNet(multi_grid=(1, 2), pretrained=weights_path).state_dict()
    assert all((loaded[key].numpy() == weights[key].numpy()).all() for key in weights)


def test_pretrained_of_another_depth_or_shape(weights_path):
    # 10 of 16 blocks are missing: three convolutions and batch norms, 15 tensors, each
    with pytest.raises(UserError, match="lacks 150 of 265 tensors .* first layer1.2.conv1.weight"):
        CSRLResNet50(pretrained=weights_path)
    with pytest.raises(UserError, match="lacks 1 of 115 tensors .* first conv1.weight"):
        ShortResNet(multi_grid=(1, 2), in_channels=4, pretrained=weights_path)
