"""A backbone that does not know such images, or stays random, and transforms out of order."""

import pathlib
import shutil

import numpy as np
import pytest
from paddleseg.cvlibs import manager
from PIL import Image

from helpers import tiny_runs
from helpers.fabricated import read_label
from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.preflight import (
    backbone_warnings,
    class_warnings,
    data_warnings,
    schedule_warnings,
    transform_warnings,
)
from paddle_csrl.run import Run

IMAGENET = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def config():
    """``config(**transforms)``: csrl_custom.yml with other transforms of a data set."""
    def make(*opts, name="csrl_custom", **transforms):
        return ZeroShotConfig(tiny_runs.config_path(name), opts=opts, overrides={
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


@pytest.mark.parametrize("steps", [
    [], [IMAGENET], [{"type": "Normalize", "std": [1.0]}]], ids=["none", "both", "deviation"])
@pytest.mark.parametrize("name", ["val_dataset", "zero_shot.features"])
def test_images_that_training_has_not_been_like_are_told(config, name, steps):
    """Of no transforms the features are not told: those of validation stand for them."""
    other = {name: steps, "train_dataset": [{"type": "Normalize"}]}
    found = [text for text, _ in transform_warnings(config(**other))]
    assert found == [f"`{name}.transforms` normalise images otherwise than "
                     f"`train_dataset.transforms`"] * (bool(steps) or name == "val_dataset")


def test_images_that_are_alike_are_passed_over(config):
    one, three = {"type": "Normalize"}, {"type": "Normalize", "mean": [0.5], "std": [0.5] * 3}
    assert transform_warnings(config()) == []
    assert transform_warnings(config(train_dataset=[one], val_dataset=[three])) == []
    assert transform_warnings(config(train_dataset=[], val_dataset=[])) == []


def test_chance_in_validation_is_told(config):
    steps = [{"type": "RandomDistort"}, {"type": "Resize"}, {"type": "Normalize"}]
    assert transform_warnings(config(train_dataset=steps, val_dataset=steps[1:])) == []
    [(text, advice)] = transform_warnings(config(train_dataset=steps, val_dataset=steps))
    assert text.startswith("`val_dataset.transforms` draw at random (RandomDistort), so")


CROP = {"type": "RandomPaddingCrop", "crop_size": [32, 32]}


@pytest.mark.parametrize("late, told", [
    ([{"type": "RandomDistort"}, {"type": "RandomHorizontalFlip"}], "RandomDistort"),
    ([{"type": "Normalize"}], "Normalize"),
    ([{"type": "RandomBlur"}, {"type": "RandomNoise"}], "RandomBlur, RandomNoise"),
    ([CROP], "RandomPaddingCrop"),
    ([{**CROP, "im_padding_value": 0}], None),
    ([{"type": "RandomHorizontalFlip"}], None)])
def test_what_takes_normalised_images_for_colours_is_told(config, late, told):
    early = [{"type": "RandomDistort"}, CROP]
    normal = {"type": "Normalize"}
    found = transform_warnings(config(train_dataset=[*early, normal, *late], val_dataset=[normal]))
    assert [text for text, _ in found] == [
        f"in `train_dataset.transforms` {told} comes after Normalize, but is for colours from 0 to "
        f"255"] * bool(told)


POLYNOMIAL = {"type": "PolynomialDecay", "learning_rate": 0.1, "end_lr": 0.0}


@pytest.mark.parametrize("schedule, iters, learned", [
    ({**POLYNOMIAL, "decay_steps": 20}, 60, 20),
    ({**POLYNOMIAL, "decay_steps": 20, "end_lr": 0.01}, 60, None),
    (POLYNOMIAL, 60, None),  # over all iterations
    ({"type": "PiecewiseDecay", "boundaries": [10, 30], "values": [0.0, 0.1, 0.0]}, 60, 30),
    ({"type": "CosineAnnealingDecay", "learning_rate": 0.1, "T_max": 59}, 60, None),  # 0 at the end
    ({"type": "ReduceOnPlateau", "learning_rate": 0.1}, 60, None)])
@pytest.mark.parametrize("stage, key", [("segmentor", ""), ("generator", "generator.")])
def test_a_schedule_that_ends_long_before_the_training_is_told(config, schedule, iters, learned,
                                                               stage, key):
    loaded = config(f"{key}iters={iters}", f"{key}lr_scheduler={schedule}",
                    name="ablation/csrl_hull_custom")
    assert [text for text, _ in schedule_warnings(Run(loaded))] == [
        f"stage {stage} learns nothing after {learned} of `iters: {iters}`, for its learning rate "
        f"is 0 then"] * bool(learned)


@pytest.fixture
def content(tmp_path):
    return tiny_content(str(tmp_path))


@pytest.fixture
def warned(tmp_path, content):
    """``warned(check)``: what it finds with ``content``, each in one text."""
    def make(check):
        builder = ZeroShotBuilder(ZeroShotConfig(write_config(str(tmp_path / "c.yml"), content)))
        return ["; ".join(warning) for warning in check(builder)]

    return make


@pytest.mark.parametrize("split, kind", [("train", "training"), ("val", "validation")])
def test_labels_of_other_images_are_told(content, warned, split, kind):
    path = pathlib.Path(content[f"{split}_dataset"][f"{split}_path"])
    pairs = [line.split() for line in path.read_text().splitlines()]
    total = len(pairs)
    for name in sum(pairs, []):  # of one size, so that any label fits
        with Image.open(path.parent / name) as image:
            image.crop((0, 0, 40, 40)).save(path.parent / name)

    def write(labels):
        path.write_text("".join(f"{pair[0]} {label}\n" for pair, label in zip(pairs, labels)))
        return [line for line in warned(data_warnings) if f"{kind} images" in line
                or f"{kind} labels" in line]

    own = [label for _, label in pairs]
    assert write(own) == []
    [line] = write([own[1], own[0], *own[2:]])
    assert line.startswith(f"2 of {total} {kind} images have, by the names, the label of another "
                           f"one, such as {path.parent}/{pairs[0][0]} with {path.parent}/{own[1]};")
    [line] = write([own[0], own[0], *own[2:]])
    assert line.startswith(f"1 of {total - 1} {kind} labels are those of several images, such as "
                           f"{path.parent}/{own[0]}; give each image its own")


@pytest.mark.parametrize("name, is_none", [
    ("__ignore__", True), ("Unlabeled", True), ("no-data", True), ("void", True),
    ("background", False), ("avoid", False)])
def test_classes_that_mean_none_are_told(content, warned, name, is_none):
    content["zero_shot"]["class_names"] = [name, "cat", "dog", "cow", "car"]
    found = warned(class_warnings)
    assert [line.split(",")[0] for line in found] == [
        f"`class_names` has {name} as class 0"] * is_none
    if is_none:
        assert "take it out; where labels have 0 for it and not 255" in found[0]


@pytest.mark.parametrize("names, first", [
    (["arm", "Left-arm", "Right-arm"], "Left-arm"), (["arm", "right_eye", "left_eye"], "left_eye"),
    (["leftovers", "left arm", "arm"], None), (["cleft", "creft", "right"], None)])
def test_sides_that_a_flip_exchanges_are_told(content, warned, names, first):
    content["zero_shot"].update(class_names=["background", *names, "cow"], unseen=["cow"])
    content["train_dataset"]["transforms"].insert(0, {"type": "RandomHorizontalFlip"})
    assert [f"makes {first} look like" in line for line in warned(class_warnings)] == [True] * (
        first is not None)
    content["train_dataset"]["transforms"].pop(0)
    assert warned(class_warnings) == []


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_copies_of_dropped_images_are_told(content, warned, policy):
    """A dropped image under another name, with a label that lacks what is unseen."""
    content["zero_shot"]["policy"] = policy
    path = pathlib.Path(content["train_dataset"]["train_path"])
    pairs = [line.split() for line in path.read_text().splitlines()]
    unseen = next(pair for pair in pairs if (read_label(path.parent / pair[1]) == 3).any())
    shutil.copy(path.parent / unseen[0], path.parent / "copy.jpg")
    Image.fromarray(np.ones_like(read_label(path.parent / unseen[1]))).save(
        path.parent / "copy.png")
    assert not any("are copies of" in line for line in warned(data_warnings))
    path.write_text(path.read_text() + "copy.jpg copy.png\n")
    found = [line for line in warned(data_warnings) if "are copies of" in line]
    assert len(found) == (policy == "drop")
    assert all(f"images are copies of images that show unseen classes, such as "
               f"{path.parent}/copy.jpg; " in line and line.startswith("1 of ") for line in found)


@pytest.mark.parametrize("sections, told", [
    ({}, False), ({"self_training": {}}, True), ({"classifier": {"mode": "legacy"}}, True)])
def test_dropped_images_in_validation_are_told_where_training_has_them_back(content, warned,
                                                                           sections, told):
    """Under another name; without these sections no stage reads a dropped image."""
    content["zero_shot"]["policy"] = "drop"
    for name, keys in sections.items():
        content.setdefault(name, {}).update(keys)
    root = pathlib.Path(content["train_dataset"]["dataset_root"])
    pairs = [line.split() for line in (root / "train.txt").read_text().splitlines()]
    image, label = next(pair for pair in pairs if (read_label(root / pair[1]) == 3).any())
    shutil.copy(root / image, root / "copy.jpg")
    with (root / "val.txt").open("a") as file:
        file.write(f"copy.jpg {label}\n")
    found = [line for line in warned(data_warnings) if "are training images, too" in line]
    assert len(found) == told
    assert all(line.startswith("1 of 5 validation images") and f"{root}/copy.jpg; " in line
               for line in found)


def test_other_colours_in_validation_are_told(content, warned):
    """Ids 1 and 2 are exchanged where validation was exported by itself; 4 is in neither."""
    root = pathlib.Path(content["train_dataset"]["dataset_root"])
    own = np.arange(768, dtype=np.uint8).reshape(256, 3)
    others = {"train": own, "val": own[[0, 2, 1, 3, 5, *range(5, 256)]]}
    for path in sorted((root / "labels").iterdir()):
        label = read_label(path)
        picture = Image.fromarray(np.where(label == 4, 0, label))
        picture.putpalette(others[path.name.split("_")[0]].tobytes())
        picture.save(path)
    [line] = [line for line in warned(data_warnings) if "palettes" in line]
    assert line.startswith("2 label ids, such as 1, have one colour in the palettes of training "
                           "and another in those of validation; ")


@pytest.mark.parametrize("unseen, told", [(["cat", "dog", "cow", "car"], True),
                                          (["cat", "dog", "cow"], False)])
def test_a_single_seen_class_is_told(content, warned, unseen, told):
    content["zero_shot"]["unseen"] = unseen
    lines = [line for line in warned(data_warnings) if "is the only seen class" in line]
    assert len(lines) == told and all(line.startswith("background is") for line in lines)
