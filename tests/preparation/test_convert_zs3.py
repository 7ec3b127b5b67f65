"""ZS3Net's weights under Paddle's names, without PyTorch; `make test-torch` runs the rest."""

import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from helpers import zs3_weights
from paddle_csrl.cli import convert_zs3
from paddle_csrl.datasets import CLASS_NAMES
from paddle_csrl.errors import UserError
from paddle_csrl.models import CSRLResNet101, DeepLabV3PPlain
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, labels_of
from paddle_csrl.preparation.convert_zs3 import Converted, convert, trained_labels
from paddle_csrl.utils.weights import load_weights, save_state

BACKBONE = 520  # tensors of the ResNet-101: 104 convolutions, each with a batch norm of four
DEEPLAB = 567


@pytest.fixture(scope="module")
def tensors():
    """The weights that the fixture's logits were made with, by PyTorch's names."""
    return zs3_weights.random_state(zs3_weights.fixture_shapes())


def blank(shapes):
    """Arrays of the given shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.fixture
def shapes():
    return zs3_weights.fixture_shapes()


def test_the_weights_are_those_that_the_fixture_was_made_with(tensors):
    sums = [values.astype(np.float64).sum() for values in tensors.values()]
    assert len(sums) == DEEPLAB
    np.testing.assert_allclose(sums, zs3_weights.fixture()["sums"], rtol=1e-6, atol=1e-4)


def test_a_converted_deeplab_computes_what_pytorch_computes(tensors, tmp_path):
    path = str(tmp_path / "deeplab.pdparams")
    counters = {"backbone.bn1.num_batches_tracked": np.array(7)}
    prefixed = {f"module.{name}": value for name, value in {**tensors, **counters}.items()}
    converted = convert(prefixed)
    assert converted.kind == "deeplab" and converted.num_classes == 21
    assert converted.left_out == list(counters) and len(converted.state) == DEEPLAB
    save_state(converted.state, path)
    model = DeepLabV3PPlain(21, CSRLResNet101(), pretrained=path)
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(zs3_weights.image()))[0].numpy()[0]
    expected = zs3_weights.fixture()["logits"]
    assert logits.shape == (21, *zs3_weights.SIZE) and expected.std() > 1
    np.testing.assert_allclose(logits[:, ::4, ::4], expected, atol=1e-4)
    load_weights(model, path)  # as stage 1's result
    old_names = {"_mean": "running_mean", "_variance": "running_var"}
    for name, value in converted.state.items():
        parent, _, last = name.rpartition(".")
        assert np.array_equal(value, tensors[f"{parent}.{old_names.get(last, last)}"]), name


@pytest.mark.parametrize("kind", ["auto", "backbone"])
def test_a_backbone_alone(shapes, kind):
    inside = {name.replace("backbone.", "module."): shape for name, shape in shapes.items()
              if name.startswith("backbone.")}
    with_classifier = {**inside, "module.fc.weight": (970, 2048), "module.fc.bias": (970,)}
    converted = convert(blank(with_classifier), kind)
    assert converted.kind == "backbone" and converted.num_classes is None
    assert len(converted.state) == BACKBONE and converted.left_out == ["fc.weight", "fc.bias"]


def test_the_backbone_of_a_deeplab_loads_into_the_backbone(tensors, tmp_path):
    converted = convert(tensors, "backbone")
    assert len(converted.left_out) == DEEPLAB - BACKBONE
    path = str(tmp_path / "resnet.pdparams")
    save_state(converted.state, path)
    model = CSRLResNet101(pretrained=path)
    assert np.array_equal(model.layer4[2].conv2.weight.numpy(),
                          tensors["backbone.layer4.2.conv2.weight"])
    assert np.array_equal(model.bn1._variance.numpy(), tensors["backbone.bn1.running_var"])


def test_classes_of_context_are_put_into_paddlesegs_order(shapes):
    tensors = blank({**shapes, "decoder.pred_conv.weight": (60, 256, 1, 1)})
    tensors["decoder.pred_conv.bias"] = np.arange(60, dtype=np.float32)
    tensors["decoder.pred_conv.weight"] = np.tile(
        np.arange(60, dtype=np.float32)[:, None, None, None], (1, 256, 1, 1))
    state = convert(tensors, num_classes=60).state
    # ZS3Net's ids of the classes it takes for unseen, from its lists of splits.
    for name, old in {"cow": 10, "motorbike": 14, "sofa": 18, "cat": 8, "boat": 4, "fence": 32,
                      "bird": 3, "tvmonitor": 20, "keyboard": 38, "aeroplane": 1,
                      "background": 0, "wood": 59, "table": 11}.items():
        row = CLASS_NAMES["context"].index(name)
        assert state["decoder.pred_conv.bias"][row] == old
        assert (state["decoder.pred_conv.weight"][row] == old).all()


def test_classes_of_voc_keep_their_order(shapes):
    tensors = {**blank(shapes), "decoder.pred_conv.bias": np.arange(21, dtype=np.float32)}
    assert convert(tensors).state["decoder.pred_conv.bias"].tolist() == list(range(21))


@pytest.mark.parametrize("change, message", [
    ({"aspp.conv1.weight": None, "decoder.bn1.bias": None},
     "lacks 2 of the 567 tensors of DeepLabV3.*, first aspp.conv1.weight"),
    ({"backbone.bn1.running_var": None},
     "lacks 1 of the 567 tensors of DeepLabV3.*, first backbone.bn1._variance"),
    ({"aspp.extra.weight": (3,), "aspp.extra.bias": (3,)},
     "holds 2 tensors that DeepLabV3.* has no place for, first aspp.extra.weight"),
    ({"aspp.conv1.weight": (256, 1024, 1, 1), "decoder.bn1.bias": (47,)},
     r"has 2 tensors in another shape .* first aspp.conv1.weight \[256, 1024, 1, 1\] for "
     r"\[256, 1280, 1, 1\]"),
    ({"module.backbone.conv1.weight": (64, 3, 7, 7)}, "both with `module.` in front"),
])
def test_what_does_not_fit_is_refused(shapes, change, message):
    changed = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    with pytest.raises(UserError, match=message):
        convert(blank(changed))


def test_another_depth_and_another_number_of_classes_are_refused(shapes):
    short = {name.replace("backbone.", ""): shape for name, shape in shapes.items()
             if name.startswith("backbone.") and not name.startswith("backbone.layer3.22.")}
    with pytest.raises(UserError, match="lacks 15 of the 520 tensors of ResNet-101, first "
                                        "layer3.22.conv1.weight"):
        convert(blank(short))
    with pytest.raises(UserError, match="no classification layer .* try --kind backbone"):
        convert(blank(short), "deeplab")
    with pytest.raises(UserError, match="--num_classes 60: the checkpoint has 21 classes"):
        convert(blank(shapes), num_classes=60)


def test_what_zs3net_left_out_is_recorded_as_it_is_said(shapes):
    backbone, network = (Converted(kind, {}, number, []) for kind, number in (
        ("backbone", None), ("deeplab", 21)))
    assert trained_labels(backbone, ["context"]) == [LabelSet(IMAGENET, ("context",))]
    assert trained_labels(network, ["Cow", "motorcycle"]) == [
        LabelSet(IMAGENET, ("voc",)), LabelSet("voc", ("cow", "motorbike"))]
    whole = trained_labels(network._replace(num_classes=60), ["tvmonitor"])
    assert whole[1] == LabelSet("context", ("tvmonitor",))
    for converted, name, message in (
            (backbone, "cow", "--without cow: .* without the classes of voc or context"),
            (network, "voc", "--without holds voc, which is no class of voc"),
            (network._replace(num_classes=5), "cow", "--without: a network of 5 classes")):
        with pytest.raises(UserError, match=message):
            trained_labels(converted, [name])


@pytest.mark.parametrize("flags, labels", [
    (["--without", "voc"], ["ImageNet-1k without voc"]), ([], ["unknown"])])
def test_the_tool_leaves_a_record_beside_the_weights(shapes, monkeypatch, tmp_path, flags, labels):
    tensors = {name.replace("backbone.", ""): np.zeros(shape, np.float32)
               for name, shape in shapes.items() if name.startswith("backbone.")}
    monkeypatch.setattr(convert_zs3, "read_torch", lambda path: tensors)
    out = str(tmp_path / "resnet101.pdparams")
    result = convert_zs3.main(["--model_path", "x.pth.tar", "--out", out, *flags])
    assert result["labels"] == labels
    assert labels_of(out) == ((LabelSet(IMAGENET, ("voc",)),) if flags else None)
    assert len(list(tmp_path.iterdir())) == 1 + bool(flags)


@pytest.mark.parametrize("version, message", [
    (None, "PyTorch, which is not installed: pip install"),
    ("2.5.1+cu121", "may run code"), ("1.13.1", "may run code"),
    ("2.6.0", "no file at --model_path x.pth.tar"),
    ("2.13.0+cpu", "no file at --model_path x.pth.tar")])
def test_a_pytorch_that_is_missing_or_may_run_code_is_refused(monkeypatch, tmp_path, version,
                                                              message):
    monkeypatch.setitem(sys.modules, "torch", version and SimpleNamespace(__version__=version))
    with pytest.raises(UserError, match=message):
        convert_zs3.main(["--model_path", "x.pth.tar", "--out", str(tmp_path / "x.pdparams")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out, message", [
    ("resnet.pth", "--out resnet.pth must end in .pdparams"),
    (f"{__file__}/x.pdparams", "`--out: .*py` is no folder")])
def test_the_result_must_be_writable_and_named_as_paddles_weights(out, message):
    with pytest.raises(UserError, match=message):
        convert_zs3.main(["--model_path", "x.pth.tar", "--out", out])
