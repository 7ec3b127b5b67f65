"""Taking features off a segmentor, and folding a new layer back in."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models import DeepLabV3P, ResNet50_vd

from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank, Scale
from paddle_csrl.datasets.transforms import labels_at
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import FeatureExtractor, find_classification_layer, put_back
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.models.tiny_net import CSRLTinyNet
from paddle_csrl.stages.calibration import fold, unit_direction
from paddle_csrl.stages.features import fill


def make_model(num_classes=7, seed=0):
    """A DeepLabV3+ whose batch norms hold statistics that are not those of any batch."""
    paddle.seed(seed)
    model = DeepLabV3P(num_classes, CSRLTinyNet(4), (0, 1), (1, 2))
    for name, value in model.state_dict().items():
        if name.endswith(("_mean", "_variance")):
            value.set_value(paddle.uniform(value.shape, min=0.5, max=1.5))
    return model


def images(count=2, size=(32, 24), seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(
        size=(count, 3, *size)).astype(np.float32))


def statistics(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_finds_the_last_layer_of_stock_deeplab():
    model = make_model()
    name, layer = find_classification_layer(model, 7)
    assert name == "head.decoder.conv" and layer is model.head.decoder.conv


def test_finds_the_last_layer_behind_a_stock_resnet():
    model = DeepLabV3P(21, ResNet50_vd(), (0, 3))
    extractor = FeatureExtractor(model, 21)
    assert extractor.layer is model.head.decoder.conv and extractor.feature_dim == 256


def test_among_layers_with_as_many_outputs_the_last_is_taken():
    # 256 is also the width of ASPP, which has 1x1 convolutions too.
    assert find_classification_layer(make_model(256), 256)[0] == "head.decoder.conv"


def test_features_are_the_input_of_the_layer():
    model, batch = make_model(), images()
    captured = []
    model.eval()
    hook = model.head.decoder.conv.register_forward_pre_hook(
        lambda layer, inputs: captured.append(inputs[0]))
    model(batch)
    hook.remove()
    features = FeatureExtractor(model, 7)(batch)
    assert features.shape[:2] == [2, FeatureExtractor(model, 7).feature_dim]
    assert np.array_equal(features.numpy(), captured[0].numpy())
    assert features.stop_gradient


def test_features_times_the_layer_are_the_logits_of_the_model():
    model, batch = make_model(), images()
    features = FeatureExtractor(model, 7)(batch).numpy()
    layer = model.head.decoder.conv
    logits = np.einsum("cd,bdhw->bchw", layer.weight.numpy()[:, :, 0, 0], features)
    logits += layer.bias.numpy()[:, None, None]
    whole = nn.functional.interpolate(paddle.to_tensor(logits), batch.shape[2:], mode="bilinear")
    np.testing.assert_allclose(whole.numpy(), model(batch)[0].numpy(), atol=1e-5)


def test_extraction_uses_and_keeps_the_stored_statistics():
    model = make_model()
    model.train()
    before = statistics(model)
    extractor = FeatureExtractor(model, 7)
    alone = extractor(images()[:1]).numpy()
    together = extractor(images()).numpy()
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-5)
    assert not model.training
    after = statistics(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_model_runs_whole_again_after_extraction():
    model, batch = make_model(), images()
    model.eval()
    before = model(batch)[0].numpy()
    FeatureExtractor(model, 7)(batch)
    assert np.array_equal(model(batch)[0].numpy(), before)


def test_an_error_in_the_model_surfaces_and_leaves_no_hook():
    model, batch = make_model(), images()
    with pytest.raises(Exception, match="(?s)."):
        FeatureExtractor(model, 7)(paddle.zeros([1, 5, 32, 24]))
    assert model(batch)[0].shape == [2, 7, 32, 24]


@pytest.mark.parametrize("make, message", [
    (lambda: DeepLabV3P(7, CSRLTinyNet(4), (0, 1), (1, 2)),
     "DeepLabV3P has no 1×1 convolution with 4 outputs"),
    (lambda: nn.Sequential(nn.Conv2D(3, 4, 3)), "Sequential has no 1×1 convolution with 4 outputs"
     ".*; 0 looks at 3×3 features and 1 group"),
    (lambda: nn.Sequential(nn.Conv2D(3, 8, 1), nn.Linear(8, 4)),
     "; 1 is Linear, where a stock layer over feature maps"),
    # One that cannot be probed.
    (lambda: nn.Sequential(nn.Conv2D(3, 5, 1), nn.Conv2D(6, 4, 1)),
     "did not run on an image of 64.* name its last layer"),
])
def test_a_model_without_a_layer_that_serves_is_refused_with_the_reason(make, message):
    with pytest.raises(UserError, match=message):
        find_classification_layer(make(), 4)


class _TwoHeads(nn.Layer):
    """Two layers of one shape; ``combine`` makes the eval logits of their outputs."""

    def __init__(self, combine):
        super().__init__()
        self.one, self.other = nn.Conv2D(3, 4, 1), nn.Conv2D(3, 4, 1)
        self.combine = combine

    def forward(self, x):
        one, other = self.one(x), self.other(x)
        return [one, other] if self.training else [self.combine(one, other)]


def test_a_head_that_only_trains_is_not_taken_though_registered_and_run_last():
    model = _TwoHeads(lambda one, other: one)
    model.train()
    assert find_classification_layer(model, 4) == ("one", model.one)
    assert model.training and model.one.training


def test_a_head_that_only_guides_is_not_taken():
    # As in OCRNet, where the auxiliary head's soft regions gather the features.
    model = _TwoHeads(lambda one, other: one + 0.0 * other)
    assert find_classification_layer(model, 4)[0] == "one"


@pytest.mark.parametrize("combine", [lambda a, b: (a + b) / 2,
                                     lambda a, b: nn.functional.softmax(a, axis=1)])
def test_logits_that_are_no_layers_own_outputs_are_refused_unless_one_is_named(combine):
    model = _TwoHeads(combine)
    with pytest.raises(UserError, match="if one of one, other will do, name it with "
                                        "`zero_shot.classifier_layer`"):
        find_classification_layer(model, 4)
    assert find_classification_layer(model, 4, "one") == ("one", model.one)


def test_an_unknown_name_lists_the_candidates():
    with pytest.raises(UserError, match="classifier_layer: head.cls` is no 1×1 convolution with 4 "
                                        "outputs of _TwoHeads; there are: one, other"):
        find_classification_layer(_TwoHeads(None), 4, "head.cls")


def test_a_named_layer_that_never_runs_is_refused():
    model = _TwoHeads(None)
    model.forward = lambda x: [model.one(x)]
    with pytest.raises(UserError, match="_TwoHeads never ran its layer other"):
        FeatureExtractor(model, 4, "other")(images())


class _Images(paddle.io.Dataset):
    """Images of different sizes with labels, in PaddleSeg's form."""

    sizes = [(32, 24), (24, 40), (17, 33)]

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = rng.choice([0, 2, 5, 255], self.sizes[index]).astype(np.int64)
        return {"img": rng.normal(size=(3, *self.sizes[index])).astype(np.float32),
                "label": label}


def test_the_bank_holds_the_features_at_the_labelled_cells():
    model, dataset = make_model(), _Images()
    sampler = BottomKSampler(7, 10**6)
    fill(sampler, FeatureExtractor(model, 7), dataset, seed=0)
    bank = sampler.bank()
    expected = {class_id: [] for class_id in range(7)}
    for item in (dataset[index] for index in range(3)):
        features = FeatureExtractor(model, 7)(paddle.to_tensor(item["img"][None]))[0].numpy()
        labels = labels_at(item["label"], features.shape[1:])
        for class_id in range(7):
            expected[class_id].append(features[:, labels == class_id].T)
    for class_id, parts in expected.items():
        rows = np.concatenate(parts)
        assert bank.counts[class_id] == bank.pixel_counts[class_id] == len(rows)
        found = bank.of(class_id)
        assert np.array_equal(found[np.lexsort(found.T)], rows[np.lexsort(rows.T)])


def test_a_bounded_bank_is_the_same_again():
    def make():
        sampler = BottomKSampler(7, 5)
        fill(sampler, FeatureExtractor(make_model(), 7), _Images(), seed=3)
        return sampler.bank()

    first, second = make(), make()
    assert np.array_equal(first.features, second.features)
    assert first.counts.tolist() == [5, 0, 5, 0, 0, 5, 0]


def test_folding_gives_the_logits_of_standardized_features():
    paddle.seed(0)
    rng = np.random.default_rng(0)
    classifier = PixelClassifier(6, 4)
    classifier.conv.bias.set_value(paddle.randn([4]))
    scale = Scale(rng.normal(size=6).astype(np.float32),
                  rng.uniform(0.1, 3, 6).astype(np.float32))
    layer = fold(classifier, scale, np.array([0, 3]), calibration=0.75)
    raw = rng.normal(size=(50, 6))
    weight = classifier.conv.weight.numpy()[:, :, 0, 0].astype(np.float64)
    expected = (raw - scale.mean) / scale.deviation @ weight.T + classifier.conv.bias.numpy()
    expected[:, [0, 3]] -= 0.75
    found = raw @ layer["weight"][:, :, 0, 0].T + layer["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert layer["weight"].dtype == layer["bias"].dtype == np.float32
    assert layer["weight"].shape == (4, 6, 1, 1) and layer["bias"].shape == (4,)


def test_folding_leaves_the_classifier_as_it_is():
    classifier = PixelClassifier(6, 4)
    before = statistics(classifier)
    fold(classifier, Scale(np.ones(6, np.float32), np.full(6, 2, np.float32)),
                np.arange(3), calibration=1.0)
    after = statistics(classifier)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_put_back_changes_the_last_layer_and_nothing_else():
    model = make_model()
    before = statistics(model)
    rng = np.random.default_rng(0)
    new = {"weight": rng.normal(size=model.head.decoder.conv.weight.shape).astype(np.float32),
           "bias": rng.normal(size=7).astype(np.float32)}
    put_back(model.head.decoder.conv, new)
    after = statistics(model)
    assert np.array_equal(after.pop("head.decoder.conv.weight"), new["weight"])
    assert np.array_equal(after.pop("head.decoder.conv.bias"), new["bias"])
    assert all(np.array_equal(before[name], after[name]) for name in after)


def test_the_segmentor_scores_features_as_the_trained_layer_does():
    model, batch = make_model(), images()
    features = FeatureExtractor(model, 7)(batch)
    scale = Scale(features.numpy().mean((0, 2, 3)), features.numpy().std((0, 2, 3)) + 0.1)
    classifier = PixelClassifier(features.shape[1], 7)
    put_back(model.head.decoder.conv, fold(classifier, scale, np.arange(7), 0.0))
    shape = [1, -1, 1, 1]
    standardized = ((features - paddle.to_tensor(scale.mean).reshape(shape))
                    / paddle.to_tensor(scale.deviation).reshape(shape))
    expected = nn.functional.interpolate(classifier(standardized)[0], batch.shape[2:],
                                         mode="bilinear")
    np.testing.assert_allclose(model(batch)[0].numpy(), expected.numpy(), atol=1e-4)


def test_a_layer_without_bias_gets_the_logits_of_the_trained_one_and_the_calibration():
    rng = np.random.default_rng(0)
    raw = [rng.uniform(1, 2, (40, 6)).astype(np.float32) for _ in range(3)]
    raw = [rows / rows[:, :4].sum(1, keepdims=True) for rows in raw]  # (1, 1, 1, 1, 0, 0)·x = 1
    counts = np.array([40, 40, 40, 0])
    bank = FeatureBank(np.concatenate(raw), counts, counts)
    scale = bank.scale()
    layer = nn.Conv2D(6, 4, 1, bias_attr=False)
    classifier = PixelClassifier(6, 4, scale.origin)
    assert classifier.conv.bias is None and list(classifier.state_dict()) == ["conv.weight"]
    standardized = bank.scaled(scale)
    expected = classifier(paddle.to_tensor(standardized.features.T[None, :, :, None]))[0].numpy()
    expected[:, [0, 2]] -= 1.5
    unit = unit_direction(standardized, scale)
    np.testing.assert_allclose(bank.features @ unit, 1, atol=1e-3)
    put_back(layer, fold(classifier, scale, np.array([0, 2]), 1.5, unit))
    found = layer(paddle.to_tensor(bank.features.T[None, :, :, None])).numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_pixel_classifier_maps_every_pixel_alike():
    classifier = PixelClassifier(3, 4)
    features = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    logits, = classifier(paddle.to_tensor(features))
    expected = np.einsum("cd,bdhw->bchw", classifier.conv.weight.numpy()[:, :, 0, 0], features)
    np.testing.assert_allclose(logits.numpy(),
                               expected + classifier.conv.bias.numpy()[:, None, None], atol=1e-5)
