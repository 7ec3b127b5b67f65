"""ZS3Net's protocol: the configs, and that scores are taken at the resized resolution."""

import glob
import os

import numpy as np
import paddle
import pytest
from PIL import Image

from helpers import tiny_runs
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.utils.weights import load_weights

FOLDER = os.path.join(tiny_runs.ROOT, "configs", "zs3_protocol")
CONFIGS = sorted(glob.glob(os.path.join(FOLDER, "*.yml")))
SIDE = 40
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def load(path):
    return ZeroShotConfig(path).dic


def test_there_is_one_for_every_split():
    plain = glob.glob(os.path.join(tiny_runs.ROOT, "configs", "csrl_[vc]o[cn]*.yml"))
    assert [os.path.basename(path) for path in CONFIGS] == sorted(map(os.path.basename, plain))
    assert len(CONFIGS) == 10


@pytest.mark.parametrize("path", CONFIGS, ids=os.path.basename)
def test_it_differs_from_the_plain_config_in_the_protocol_alone(path):
    protocol = load(path)
    plain = load(os.path.join(tiny_runs.ROOT, "configs", os.path.basename(path)))
    assert protocol["zero_shot"]["unseen"] == plain["zero_shot"]["unseen"]
    assert protocol["generator"] == plain["generator"]
    assert protocol["classifier"] == plain["classifier"]
    for split in ("train_dataset", "val_dataset"):
        for key in ("type", "dataset_root", "mode"):
            assert protocol[split][key] == plain[split][key]
    assert protocol["save_dir"] == f"output/zs3_protocol/{os.path.basename(path)[:-4]}"


@pytest.mark.parametrize("path", CONFIGS, ids=os.path.basename)
def test_its_values_are_zs3nets(path):
    dic = load(path)
    batch = 16 if "voc" in path else 10
    assert dic["batch_size"] == batch and dic["loss"]["coef"] == [1 / batch]
    assert dic["lr_scheduler"] == {"type": "PolynomialDecay", "learning_rate": 0.007,
                                   "end_lr": 0.0, "power": 0.9}
    assert (dic["optimizer"]["momentum"], dic["optimizer"]["weight_decay"]) == (0.9, 5e-4)
    assert dic["model"] == {"type": "DeepLabV3PPlain", "backbone": {
        "type": "CSRLResNet101", "output_stride": 16, "multi_grid": [1, 2, 4],
        "pretrained": None}}
    transforms = {item["type"]: item for item in dic["train_dataset"]["transforms"]}
    assert transforms["ResizeShortSide"]["short_side"] == [156, 624]  # 0.5 to 2 times 312
    assert transforms["RandomPaddingCrop"]["crop_size"] == [312, 312]
    assert dic["val_dataset"]["transforms"][0] == {"type": "ResizeShortSide", "short_side": 513}
    assert dic["zero_shot"]["features"]["transforms"][0]["short_side"] == 312
    for transform in (transforms["Normalize"], dic["val_dataset"]["transforms"][1]):
        assert np.allclose(transform["mean"], MEAN) and np.allclose(transform["std"], STD)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the protocol on fabricated VOC data, at a small scale."""
    base = tmp_path_factory.mktemp("zs3")
    recipe = tiny_runs.voc(str(base / "data"), str(base / "cache"),
                           "zs3_protocol/csrl_voc_unseen2")
    normalize = {"type": "Normalize", "mean": MEAN.tolist(), "std": STD.tolist()}
    small = {
        "train_dataset.transforms": [
            {"type": "RandomHorizontalFlip"}, {"type": "ResizeShortSide", "short_side": [16, 64]},
            {"type": "RandomPaddingCrop", "crop_size": [32, 32], "im_padding_value": 0},
            {"type": "RandomGaussianBlur", "prob": 0.5}, normalize],
        "val_dataset.transforms": [{"type": "ResizeShortSide", "short_side": SIDE}, normalize],
        "zero_shot.features.transforms": [{"type": "ResizeShortSide", "short_side": 32},
                                          normalize]}
    recipe = recipe._replace(opts=(*recipe.opts, *(f"{key}={value}"
                                                   for key, value in small.items())))
    return tiny_runs.run_all(recipe, base / "run")


def test_all_stages_run_on_the_plain_deeplab(run):
    builder = run.builder()
    load_weights(builder.model, run.path("model.pdparams"))
    assert type(builder.model).__name__ == "DeepLabV3PPlain"
    assert 0 <= run.metrics["hiou"] <= 1 and len(os.listdir(run.path("predictions"))) > 0


def test_scores_are_taken_at_the_resized_resolution(run):
    """Against Pillow, a plain forward pass and a confusion matrix counted by hand."""
    builder = run.builder()
    model = builder.model
    load_weights(model, run.path("model.pdparams"))
    model.eval()
    confusion = np.zeros((21, 21), np.int64)
    for image_path, label_path in builder.val_dataset.file_list:
        image, label = Image.open(image_path).convert("RGB"), Image.open(label_path)
        width, height = image.size
        size = (SIDE, SIDE * height // width) if height > width else (SIDE * width // height, SIDE)
        label = np.asarray(label.resize(size, Image.NEAREST)).astype(np.int64)
        planes = [Image.fromarray(plane.astype(np.float32)).resize(size, Image.BILINEAR)
                  for plane in np.asarray(image).transpose(2, 0, 1)]
        pixels = (np.stack([np.asarray(plane) for plane in planes]) / 255
                  - MEAN[:, None, None]) / STD[:, None, None]
        with paddle.no_grad():
            logit = model(paddle.to_tensor(pixels[None].astype(np.float32)))[0].numpy()[0]
        keep = label != 255
        np.add.at(confusion, (label[keep], logit.argmax(0)[keep]), 1)
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), 0.0)  # absent: 0
    unseen = np.isin(np.arange(21), (10, 14))
    assert run.metrics["seen_miou"] == pytest.approx(iou[~unseen].mean(), abs=2e-4)
    assert run.metrics["unseen_miou"] == pytest.approx(iou[unseen].mean(), abs=2e-4)
    assert [item["iou"] for item in run.metrics["classes"]] == pytest.approx(list(iou), abs=2e-3)


def test_another_resolution_gives_other_pixels(run):
    """`--opts` chooses the resolution of ZS3Net's validation during training."""
    dataset = run.builder("val_dataset.transforms=[{'type': 'ResizeShortSide', 'short_side': 20}, "
                          "{'type': 'Normalize'}]").val_dataset
    for item in (dataset[0], dataset[1]):
        assert item["label"].shape[1:] == item["img"].shape[1:]
        assert min(item["label"].shape[1:]) == 20
    assert run.val()["images"] == len(dataset)


def test_the_learning_rate_is_tenfold_outside_the_backbone(run):
    """One step of SGD by hand, where every gradient is 1."""
    builder = run.builder()
    optimizer = builder.optimizer
    learnt = {name: value for name, value in builder.model.named_parameters()
              if not value.stop_gradient}
    before = {name: value.numpy().astype(np.float64) for name, value in learnt.items()}
    sum(value.sum() for value in learnt.values()).backward()
    optimizer.step()
    for name, value in learnt.items():
        rate = 0.007 if name.startswith("backbone.") else 0.07
        step = rate * (1 + 5e-4 * before[name])
        np.testing.assert_allclose(before[name] - value.numpy(), step, rtol=1e-4, atol=1e-6,
                                   err_msg=name)
