"""EfficientNet-Lite against a NumPy forward pass, and its weights against the released files."""

from functools import partial

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager

from helpers import layers
from helpers.layers import convolve
from paddle_csrl.errors import UserError
from paddle_csrl.models import efficientnet_lite
from paddle_csrl.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite1

LITE = [getattr(efficientnet_lite, f"EfficientNetLite{size}") for size in range(5)]
# Of Lite0: the blocks that halve the image, and those whose outputs are the feature maps.
STRIDED, LAST = (1, 3, 5, 11), (2, 4, 10, 15)
#: Channels out of the blocks, of which the released files of Lite0 to Lite2 have so many.
CHANNELS = {
    0: [16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320],
    1: [16, *[24] * 3, *[40] * 3, *[80] * 4, *[112] * 4, *[192] * 5, 320],
    2: [16, *[24] * 3, *[48] * 3, *[88] * 4, *[120] * 4, *[208] * 5, 352]}
#: Depthwise kernels by the output stride of Lite0's stages.
KERNELS = {0: [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3],
           1: [3, *[3] * 3, *[5] * 3, *[3] * 4, *[5] * 4, *[5] * 5, 3],
           2: [3, *[3] * 3, *[5] * 3, *[3] * 4, *[5] * 4, *[5] * 5, 3]}


normalise = partial(layers.normalise, epsilon=1e-3)


def relu6(x):
    return np.clip(x, 0, 6)


def lite0(x, state, output_stride):
    """The four feature maps of one image (3, H, W), block by block."""
    x = relu6(normalise(convolve(x, state["conv_stem.weight"], 2), state, "bn0"))
    features, reached, dilation = [], 2, 1
    for block in range(16):
        name, stride, grown, y = f"blocks.{block}", 1, dilation, x
        if block in STRIDED:
            if reached < output_stride:
                stride, reached = 2, 2 * reached
            else:
                grown = 2 * dilation
        if block > 0:
            y = relu6(normalise(convolve(y, state[f"{name}.expand_conv.weight"]), state,
                                f"{name}.bn0"))
        y = convolve(y, state[f"{name}.depthwise_conv.weight"], stride, dilation)
        y = relu6(normalise(y, state, f"{name}.bn1"))
        y = normalise(convolve(y, state[f"{name}.project_conv.weight"]), state, f"{name}.bn2")
        x = x + y if x.shape == y.shape else y
        dilation = grown
        if block in LAST:
            features.append(x)
    return features


def randomise(model, seed=0):
    """Random weights and batch-norm statistics of moderate size; float64 copies of them."""
    rng, state = np.random.default_rng(seed), {}
    for key, value in model.state_dict().items():
        if value.ndim == 4:
            state[key] = rng.normal(0, np.sqrt(2 / np.prod(value.shape[1:])), value.shape)
        else:
            low = 0.5 if key.endswith(("weight", "_variance")) else -0.5
            state[key] = rng.uniform(low, low + 1, value.shape)
        state[key] = state[key].astype("float32")
    model.set_state_dict(state)
    model.eval()
    return {key: value.astype("float64") for key, value in state.items()}


def features_of(model, image):
    with paddle.no_grad():
        return [feature.numpy() for feature in model(paddle.to_tensor(image))]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).normal(0, 1, (1, 3, 45, 70)).astype("float32")


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_forward_matches_numpy(image, output_stride):
    model = EfficientNetLite0(output_stride)
    expected = lite0(image[0].astype("float64"), randomise(model), output_stride)
    features = features_of(model, image)
    assert [feature.shape[1] for feature in features] == [24, 40, 112, 320] == model.feat_channels
    for feature, reference in zip(features, expected):
        np.testing.assert_allclose(feature[0], reference, rtol=1e-4, atol=1e-4 * reference.std())


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_leaves_every_second_or_fourth_pixel_as_it_was(image, output_stride):
    plain, dilated = EfficientNetLite0(), EfficientNetLite0(output_stride)
    randomise(plain)
    randomise(dilated)
    step = 32 // output_stride
    a, b = features_of(plain, image)[3], features_of(dilated, image)[3]
    np.testing.assert_allclose(b[:, :, ::step, ::step], a, rtol=1e-3, atol=1e-3 * a.std())


@pytest.mark.parametrize("size", range(5))
def test_sizes_and_channels(size):
    model = LITE[size](output_stride=16, in_channels=1)
    assert model.feat_channels == [[24, 40, 112, 320], [24, 40, 112, 320], [24, 48, 120, 352],
                                   [32, 48, 136, 384], [32, 56, 160, 448]][size]
    features = features_of(model, np.zeros((2, 1, 65, 64), "float32"))
    assert [feature.shape for feature in features] == [
        (2, channels, *hw) for channels, hw in zip(model.feat_channels, [
            (17, 16), (9, 8), (5, 4), (5, 4)])]
    assert len(model.blocks) == [16, 21, 21, 24, 30][size]


@pytest.mark.parametrize("size", CHANNELS)
def test_names_and_shapes_are_those_of_the_released_files(size):
    shapes, channels = {}, 32

    def conv_bn(conv, bn, *shape):
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{bn}.{key}": shape[:1] for key in ("weight", "bias", "_mean",
                                                           "_variance")})

    conv_bn("conv_stem", "bn0", 32, 3, 3, 3)
    for block, (out, kernel) in enumerate(zip(CHANNELS[size], KERNELS[size])):
        name, width = f"blocks.{block}", channels * (6 if block else 1)
        if block:
            conv_bn(f"{name}.expand_conv", f"{name}.bn0", width, channels, 1, 1)
        conv_bn(f"{name}.depthwise_conv", f"{name}.bn1", width, 1, kernel, kernel)
        conv_bn(f"{name}.project_conv", f"{name}.bn2", out, width, 1, 1)
        channels = out
    state = LITE[size]().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes


def step(relative_lr):
    """The state before and after a step of SGD on a head and the backbone."""
    paddle.seed(0)
    backbone = EfficientNetLite0(relative_lr=relative_lr)
    model = manager.MODELS["FCN"](num_classes=3, backbone=backbone)
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    model.train()
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    image = np.random.default_rng(0).normal(0, 1, (2, 3, 64, 64)).astype("float32")
    (model(paddle.to_tensor(image))[0] - 1).square().mean().backward()
    optimizer.step()
    changes = {key: value.numpy() - before[key] for key, value in model.state_dict().items()}
    return {part: {key: value for key, value in changes.items() if key.startswith(part)}
            for part in ("backbone.", "head.")}


def test_relative_lr_is_a_factor_on_the_steps_of_the_backbone():
    whole, tenth = step(1.0), step(0.1)
    learnt = [key for key in whole["backbone."] if key.endswith(("weight", "bias"))]
    assert len(learnt) == 48 * 3  # a kernel, a scale and a shift each
    for key in learnt:
        change = whole["backbone."][key]
        np.testing.assert_allclose(tenth["backbone."][key], 0.1 * change,
                                   atol=1e-3 * np.abs(change).max() + 1e-7)
    assert any(np.abs(whole["backbone."][key]).max() > 1e-4 for key in learnt)


def test_a_frozen_backbone_stays_and_the_head_learns():
    changes = step(0)
    assert not any(value.any() for value in changes["backbone."].values())  # statistics, too
    assert changes["head."]["head.cls.bias"].all()


def test_a_frozen_backbone_of_a_training_model_predicts_as_in_evaluation(image):
    model = EfficientNetLite0(relative_lr=0)
    randomise(model)
    expected = features_of(model, image)
    model.train()
    for feature, reference in zip(features_of(model, image), expected):
        np.testing.assert_array_equal(feature, reference)


@pytest.mark.parametrize("output_stride", [32, 16])
@pytest.mark.parametrize("head, arguments, outputs", [
    ("DeepLabV3P", {"backbone_indices": [0, 3]}, 1), ("FCN", {}, 1),
    ("PPLiteSeg", {"backbone_indices": [1, 2, 3], "arm_out_chs": [32, 64, 128],
                   "seg_head_inter_chs": [32, 64, 64]}, 3),
    ("SegFormer", {"embedding_dim": 32}, 1)])
def test_heads_of_paddleseg_train_on_it(head, arguments, outputs, output_stride):
    backbone = EfficientNetLite0(output_stride)
    model = manager.MODELS[head](num_classes=3, backbone=backbone, **arguments)
    logits = model(paddle.ones([2, 3, 64, 96]))
    assert [logit.shape for logit in logits] == [[2, 3, 64, 96]] * outputs
    sum(logit.square().mean() for logit in logits).backward()
    gradients = [value.grad for value in backbone.parameters() if value.grad is not None]
    assert len(gradients) == 48 * 3
    assert all(np.isfinite(gradient.numpy()).all() for gradient in gradients)


@pytest.mark.parametrize("arguments, message", [
    *(({"output_stride": stride}, f"output_stride is {stride!r}; write 8, 16 or 32")
      for stride in (4, 64, "16", None)),
    *(({"relative_lr": factor}, f"relative_lr is {factor!r}; write a number from 0")
      for factor in (-1, float("nan"), float("inf"), "0.1", True)),
    ({"pretrained": "efficientnet_lite9"}, "efficientnet_lite9` is no file, no address and none "
                                           "of efficientnet_lite0, ")])
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        EfficientNetLite1(**arguments)
