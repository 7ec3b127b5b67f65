"""A backbone whose weights do not know such images, or that stays random, is warned of."""

import pytest
from paddleseg.cvlibs import manager

from helpers import tiny_runs
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.preflight import backbone_warnings

IMAGENET = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def config():
    """``config(**transforms)``: csrl_custom.yml with other transforms of a data set."""
    def make(*opts, **transforms):
        return ZeroShotConfig(tiny_runs.config_path("csrl_custom"), opts=opts, overrides={
            f"{name}.transforms": steps for name, steps in transforms.items()})

    return make


def test_the_shipped_config_normalises_as_its_backbone_needs(config):
    assert config().model_cfg["backbone"]["pretrained"] == "efficientnet_lite0"
    assert backbone_warnings(config()) == []


@pytest.mark.parametrize("steps", [
    [IMAGENET], [{**IMAGENET, "mean": [0.498]}], [{"type": "RandomHorizontalFlip"}]],
    ids=["both", "deviation", "none"])
@pytest.mark.parametrize("name", ["train_dataset", "val_dataset", "zero_shot.features"])
def test_another_normalisation_is_told_with_its_place_and_what_to_write(config, name, steps):
    [(text, advice)] = backbone_warnings(config(**{name: steps}))
    assert text.startswith(f"`{name}.transforms` normalise images otherwise")
    assert "`pretrained: efficientnet_lite0`" in text
    assert advice == ("write {type: Normalize, mean: [0.498, 0.498, 0.498], "
                      "std: [0.502, 0.502, 0.502]} there")


@pytest.mark.parametrize("step", [{"type": "Normalize"}, {"type": "Normalize", "mean": [0.5] * 3},
                                  {"type": "Normalize", "std": [0.502]}])
def test_a_grey_level_is_no_difference(config, step):
    assert backbone_warnings(config(train_dataset=[step], val_dataset=[step])) == []


def test_images_with_another_channel_are_compared_with_nothing(config):
    steps = [{"type": "Normalize", "mean": [0.4] * 4, "std": [0.2] * 4}]
    channels = [f"{name}_dataset.img_channels=4" for name in ("train", "val")]
    assert backbone_warnings(config(*channels, train_dataset=steps, val_dataset=steps)) == []


@pytest.mark.parametrize("opts", [
    ["model.backbone.pretrained=null"],
    ["model.backbone={'type': 'CSRLResNet50', 'pretrained': 'x'}"]], ids=["none", "others"])
def test_nothing_is_said_of_images_for_other_weights(config, opts):
    assert backbone_warnings(config(*opts, val_dataset=[IMAGENET])) == []


def test_a_backbone_of_ones_own_can_say_what_it_needs(config, monkeypatch):
    class Own(manager.BACKBONES["CSRLTinyNet"]):
        input_mean, input_std = IMAGENET["mean"], IMAGENET["std"]

        def __init__(self, pretrained=None):
            super().__init__()

    monkeypatch.setitem(manager.BACKBONES.components_dict, "Own", Own)
    own = "model.backbone={'type': 'Own', 'pretrained': 'own.pdparams'}"
    assert [text.split("`")[1] for text, _ in backbone_warnings(config(own))] == [
        "train_dataset.transforms", "val_dataset.transforms"]
    fitting = config(own, train_dataset=[IMAGENET], val_dataset=[IMAGENET])
    assert backbone_warnings(fitting) == []


def test_a_frozen_backbone_without_weights_is_told(config):
    random, frozen = "model.backbone.pretrained=null", "model.backbone.relative_lr=0"
    assert backbone_warnings(config(random)) == []
    [(text, advice)] = backbone_warnings(config(random, frozen))
    assert "`model.backbone.relative_lr: 0` freezes a backbone that is random" in text
    assert "relative_lr=1.0" in advice
    for opt in ("model.backbone.relative_lr=1.0", "model.pretrained=whole.pdparams",
                "segmentor_weights=whole.pdparams"):
        assert backbone_warnings(config(random, frozen, opt)) == []
