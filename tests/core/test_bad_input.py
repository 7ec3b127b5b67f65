"""What users get wrong: one line that names the value and its place, status 2, nothing written."""

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import CrossEntropyLoss
from PIL import Image

from helpers import hostile_images
from helpers.fabricated import read_label, write_label
from helpers.tiny_runs import ROOT, Recipe, config_path, custom, shapes, times
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import run, train, val
from paddle_csrl.core import preflight

CE = "loss={'types': [{%s}], 'coef': [1.0]}"
LOSS = ("generator.loss={'types': [{'type': 'MMDLoss'}, {'type': 'PairwiseRelationLoss', "
        "'gamma': %s}], 'coef': [1.0, 1.0]}")


@pytest.fixture
def own(finished, tmp_path) -> SimpleNamespace:
    """A copy of a finished run, its recipe as ``made``, and a data set of its own to break."""
    recipe = custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    run = finished("custom").copy(tmp_path / "run")
    return SimpleNamespace(run=run, made=run.recipe, recipe=recipe,
                           data=tmp_path / "data" / "custom", tmp=tmp_path)


def error_of(capsys, main: Callable, argv: list[str]) -> str:
    """The one line that ``main(argv)`` ends with, run as a program is."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(lambda: main(argv))
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


def check(capsys, own, says: list[str], *opts: str, main: Callable = train.main,
          recipe: Any = None, **flags: Any) -> str:
    """The error says all of ``says``, and the finished run it would have replaced is whole."""
    if main is train.main:
        flags.setdefault("save_dir", own.run.folder)
    else:
        flags.setdefault("model_path", own.run.path("model.pdparams"))
    before = files_of(own)
    said = error_of(capsys, main, (recipe or own.recipe).argv(*opts, **flags))
    for part in says:
        assert str(part) in said, (part, said)
    assert files_of(own) == before
    return said


def files_of(own) -> dict[str, int]:
    """Times of all files but the caches."""
    return {name: time for name, time in times(str(own.tmp)).items()
            if not name.startswith("cache")}


# Values in the config; tests/config/ has those that reading it refuses one by one.

VALUES = {
    "class name": (["unseen", "cwo", "did you mean cow"], "zero_shot.unseen=cwo,car"),
    "class name of another data set": (["unseen", "sofa"], "zero_shot.unseen=sofa"),
    "background": (["unseen", "background", "always a seen"], "zero_shot.unseen=background"),
    "unseen twice": (["cow", "twice"], "zero_shot.unseen=cow,Cow"),
    "no unseen": (["unseen", "no class"], "zero_shot.unseen=[]"),
    "all unseen": (["background"], "zero_shot.unseen=background,cat,dog,cow,car"),
    "class names": (["class_names", "/nowhere/names.txt"],
                    "zero_shot.class_names=/nowhere/names.txt"),
    "number of names": (["class_names", "21 names", "5 classes"], "zero_shot.class_names=voc"),
    "embedding file": (["/nowhere/glove.txt"], "zero_shot.embeddings.path=/nowhere/glove.txt"),
    "second embedding file": (["no word-vector file at /nowhere/b.npz"],
                              "zero_shot.embeddings.path=['glove100', '/nowhere/b.npz']"),
    "embedding files that are none": (["embeddings.path: []", "list of paths"],
                                      "zero_shot.embeddings.path=[]"),
    "attributes of data without": (["attributes", "Dataset"],
                                   "zero_shot.embeddings.path=attributes"),
    "word for no class": (["words", "'horse'"], "zero_shot.embeddings.words={'horse': 'pony'}"),
    "gamma": (["gamma", "0"], LOSS % 0),
    "gamma text": (["gamma"], LOSS % "'a'"),
    "batch_size above the data": (["batch_size: 1000", "12"], "batch_size=1000"),
    "model": (["model.type", "DeepLabV3PP", "DeepLabV3P?"], "model.type=DeepLabV3PP"),
    "backbone": (["model.backbone.type", "ResNet52_vd"],
                 "model.backbone={'type': 'ResNet52_vd'}"),
    "optimizer of a stage": (["classifier.optimizer.type", "Adum"],
                             "classifier.optimizer.type=Adum"),
    "schedule of a stage": (["lr_scheduler", "PolyDecay"],
                            "classifier.lr_scheduler.type=PolyDecay"),
    "schedule's argument": (["lr_scheduler", "powr"], "generator.lr_scheduler.powr=2"),
    "exponent": (["lr_scheduler.learning_rate", "1e-3", "1.0e-4"],
                 "lr_scheduler={'type': 'PolynomialDecay', 'learning_rate': '1e-3'}"),
    "pretrained": (["/nowhere/w.pdparams"], "model.pretrained=/nowhere/w.pdparams"),
    "weights that are a number": (["`model.pretrained: 5`", "a path", "or null"],
                                    "model.pretrained=5"),
    "weights that are a list": (["`model.pretrained: ['w.pdparams']`", "a path", "or null"],
                                  "model.pretrained=['w.pdparams']"),
    "data set root": (["dataset_root", "/nowhere"], "train_dataset.dataset_root=/nowhere"),
    "list file": (["train_path", "/nowhere/train.txt"],
                  "train_dataset.train_path=/nowhere/train.txt"),
    "list file of validation": (["val_path", "/nowhere/val.txt"],
                                "val_dataset.val_path=/nowhere/val.txt"),
    "classes of train and val": (["num_classes"], "train_dataset.num_classes=7"),
    "switch": (["do_eval: perhaps", "true or false"], "do_eval=perhaps"),
    "switch of the test": (["test_config.is_slide: 1", "true or false"], "test_config.is_slide=1"),
    "switch of the embeddings": (["embeddings.normalize: no way", "true or false"],
                                 "zero_shot.embeddings.normalize=no way"),
    "precision": (["precision: fp17", "'fp32' or 'fp16'"], "precision=fp17"),
    "level of precision": (["amp_level: O3", "'O1' or 'O2'"], "amp_level=O3"),
    "folder that is a number": (["cache_dir: 7", "path"], "zero_shot.cache_dir=7"),
    "embedding file that is a section": (["embeddings.path", "path"],
                                         "zero_shot.embeddings.path.file=glove.txt"),
    "seed too large": (["seed: 99999999999", "4294967295"], "seed=99999999999"),
    "calibration without end": (["classifier.calibration: inf", "number"],
                                "classifier.calibration=1e999"),
    "learning rate": (["lr_scheduler.learning_rate: -1", "above 0"],
                      "lr_scheduler.learning_rate=-1"),
    "argument of a schedule": (["generator: ", "lr_scheduler", "'str'"],
                               "generator.lr_scheduler.power=abc"),
    "argument of an optimizer": (["classifier: ", "optimizer", "beta1"],
                                 "classifier.optimizer.beta1=7"),
    "crop without a pixel": (["train_dataset.transforms[0]", "without a pixel"],
                             "train_dataset.transforms=[{'type': 'RandomPaddingCrop', "
                             "'crop_size': [0, 0]}]"),
    "mode": (["mode: trian", "train, val, test"], "train_dataset.mode=trian"),
    "channels": (["img_channels: 1", "3"], "val_dataset.img_channels=1",
                 "val_dataset.transforms=[]"),
    "index of a feature map": (["`model`", "backbone_indices: [0, 99]", "2 feature maps"],
                               "model.backbone_indices=[0, 99]"),
    "kind of index": (["`model`", "backbone_indices: [0, 'low']"],
                      "model.backbone_indices=[0, 'low']"),
    "argument that the optimizer looks at late": (["generator: `optimizer`", "must be bool"],
                                                  "generator.optimizer.lazy_mode=often"),
    "epsilon": (["`optimizer`", "epsilon"], "optimizer.epsilon=0"),
    "groups of parameters": (["classifier: ", "custom_cfg"], "classifier.optimizer.custom_cfg=5"),
    "group of no parameter": (["could not make `optimizer`"],
                              "optimizer.custom_cfg=[{'name': 'nothing', 'lr_mult': 2.0}]"),
    "loss that fails": (["`loss` (MSELoss)", "a training image"], CE % "'type': 'MSELoss'"),
    "loss of two outputs": (["`loss` (KLLoss)"], CE % "'type': 'KLLoss'"),
    "argument of a loss": (["`loss` (CrossEntropyLoss)", "topk"],
                           CE % "'type': 'CrossEntropyLoss', 'top_k_percent_pixels': 0"),
    "loss that ignores another value": (["`loss` (CrossEntropyLoss)", "without a labelled pixel"],
                                        CE % "'type': 'CrossEntropyLoss', 'ignore_index': -1"),
    "type of ignored value": (["`loss` (CrossEntropyLoss)"],
                              CE % "'type': 'CrossEntropyLoss', 'ignore_index': 'abc'"),
    "loss that is no number": (["`loss` (CrossEntropyLoss)", "is inf"],
                               "loss={'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1e39]}"),
    "loss of the classifier": (["classifier: `loss` (MSELoss)", "a batch for trial"],
                               "classifier." + CE % "'type': 'MSELoss'"),
}


@pytest.mark.parametrize("says, opts", [(says, opts) for says, *opts in VALUES.values()],
                         ids=VALUES)
def test_value(capsys, own, says, opts):
    check(capsys, own, says, *opts)


def test_a_loss_of_several_numbers_is_refused(capsys, own, monkeypatch):
    monkeypatch.setattr(CrossEntropyLoss, "forward", lambda self, logit, label: logit.sum(1))
    check(capsys, own, ["classifier: `loss` (CrossEntropyLoss)", "[1, 5, 1]", "one number"],
          "classifier.iters=3")


def test_a_full_disk(capsys, tmp_path):
    def main(argv):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    assert "No space left on device" in error_of(capsys, main, [])


def test_a_folder_for_a_file(capsys, tmp_path):
    assert f"Is a directory: {tmp_path}" in error_of(capsys, lambda argv: open(argv[0]),
                                                     [str(tmp_path)])


def test_policy_that_leaves_no_image(capsys, own):
    check(capsys, own, ["policy: drop", "leaves none of the 12 images"], "zero_shot.policy=drop",
          "zero_shot.unseen=cat,dog,cow,car")


# Config files.

def test_config_that_is_not_there(capsys, own):
    check(capsys, own, ["no config at /nowhere.yml"], recipe=Recipe("/nowhere.yml", ()))


@pytest.mark.parametrize("name, content, says", [
    ("a.yml", b"iters: [1, 2\nbatch_size: 3\n", ["a.yml", "not well-formed YAML", "line 2"]),
    ("a.yml", b"\x00\xff\xfe", ["a.yml"]),
    ("a.yml", b"iters: 1\n", ["a.yml", "is missing"]),
    ("a.yml", b"seed: 1\niters: 1\nseed: 2\n", ["a.yml", "`seed` stands twice", "line 3"]),
    ("a.yml", b"iters: !!python/object/apply:os.system [true]\n", ["a.yml", "YAML"]),
])
def test_config_that_cannot_be_read(capsys, own, name, content, says):
    path = own.tmp / name
    path.write_bytes(content)
    check(capsys, own, says, recipe=Recipe(str(path), ()))


# Data.

@pytest.mark.parametrize("name, says", [
    ("csrl_voc_unseen4", ["PascalVOC", "VOCtrainval_11-May-2012.tar", "host.robots.ox.ac.uk"]),
    ("csrl_context_unseen2", ["PascalContext", "VOCtrainval_03-May-2010.tar", "prepare_context"]),
])
def test_data_set_that_has_to_be_downloaded(capsys, own, name, says):
    root = str(own.tmp / "nothing")
    recipe = Recipe(config_path(name), (f"train_dataset.dataset_root={root}",
                                        f"val_dataset.dataset_root={root}"))
    check(capsys, own, [*says, root], recipe=recipe, save_dir=str(own.tmp / "new"))


def relabel(change):
    """Pass a label through ``change``."""
    def apply(data):
        path = data / "labels" / "train_0003.png"
        Image.fromarray(change(read_label(path))).save(path)
    return apply


def outside(label):
    label[5, 5] = 77
    return label


def cut(name):
    return lambda data: os.truncate(data / name, 200)


def without(name):
    return lambda data: os.remove(data / name)


def gigapixels(name):
    return lambda data: hostile_images.write(data / name, hostile_images.png(15000, 10000))


def text(name, content=None, encoding="utf-8"):
    """Write other ``content``, or the same in another encoding."""
    return lambda data: (data / name).write_text(
        (data / name).read_text() if content is None else content, encoding)


DATA = {
    "label outside the classes": (relabel(outside), ["train_0003.png", "77", "5 classes"]),
    "label cut": (cut("labels/train_0003.png"), ["train_0003.png", "cannot be read"]),
    "label of another size": (relabel(lambda label: label[:-1]),
                              ["train_0003.png", "train_0003.jpg", "agree"]),
    "label in colour": (relabel(lambda label: np.zeros((48, 56, 3), np.uint8)),
                        ["train_0003.png", "single-channel"]),
    "label missing": (without("labels/train_0003.png"), ["no label at", "train_0003.png"]),
    "image cut": (cut("images/train_0003.jpg"), ["train_0003.jpg", "cannot be read"]),
    "image empty": (text("images/train_0003.jpg", ""), ["train_0003.jpg", "cannot be read"]),
    "image of gigapixels": (gigapixels("images/train_0003.jpg"),
                            ["train_0003.jpg", "15000 x 10000 pixels"]),
    "label of gigapixels": (gigapixels("labels/val_0001.png"),
                            ["val_0001.png", "15000 x 10000 pixels"]),
    "image missing": (without("images/train_0003.jpg"), ["no image at", "train_0003.jpg"]),
    "image of validation missing": (without("images/val_0001.jpg"),
                                    ["no image at", "val_0001.jpg"]),
    "image of validation cut": (cut("images/val_0001.jpg"), ["val_0001.jpg", "cannot be read"]),
    "list missing": (without("train.txt"), ["train_path", "train.txt"]),
    "list empty": (text("train.txt", ""), ["train.txt", "lists no image"]),
    "zero byte in a list": (text("train.txt", "images/a\0.jpg labels/a.png\n"),
                            ["no image at", r"a\x00.jpg"]),
    "tabs in a list": (text("train.txt", "a.jpg\ta.png\n"), [r"'a.jpg\ta.png'", "separator"]),
    "label of validation of another size": (lambda data: write_label(
        str(data / "labels" / "val_0001.png"), np.zeros((5, 5), np.uint8)),
        ["val_0001.png", "val_0001.jpg", "agree"]),
    "label for an image": (text("train.txt", "labels/train_0003.png labels/train_0003.png\n"),
                           ["train.txt, line 1", "labels/train_0003.png is image and label"]),
    "list of other things": (text("train.txt", "a b c\n"), ["train.txt, line 1", "'a b c'"]),
    "list in another encoding": (text("train.txt", "images/tr\xe9.jpg a.png\n", "latin1"),
                                 ["train.txt", "not UTF-8"]),
    "list with a byte order mark": (text("train.txt", encoding="utf-8-sig"),
                                    ["train.txt", "byte order mark"]),
    "names missing": (without("classes.txt"), ["class_names", "classes.txt"]),
    "name too few": (text("classes.txt", "background\ncow\ncar\n"), ["3 names", "5 classes"]),
}


@pytest.mark.parametrize("change, says", DATA.values(), ids=DATA)
def test_data(capsys, own, change, says):
    change(own.data)
    check(capsys, own, says)


def test_images_of_several_sizes_are_no_batch(capsys, own):
    sizes = {Image.open(path).size[::-1] for path in (own.data / "images").glob("train_*")}
    assert len(sizes) > 1
    check(capsys, own, ["train_dataset.transforms", min(sizes), max(sizes), "RandomPaddingCrop"],
          "train_dataset.transforms=[{'type': 'Normalize'}]", "batch_size=12")


# Components of PaddleSeg that a config may put in.

CROP = "{'type': 'RandomPaddingCrop', 'crop_size': [32, 32]}"
COMPONENTS = {
    "samples of several sizes": (
        ["train_dataset.transforms", "no batch", "crop before the rest"],
        f"train_dataset.transforms=[{{'type': 'GenerateInstanceTargets', 'num_classes': 5}}, "
        f"{CROP}]"),
    "optimizer of another backbone": (
        ["optimizer", "no_weight_decay"], "optimizer={'type': 'AdamWDL_CAE'}"),
    "data set that changes its labels": (
        ["type: EG1800", "type: Dataset"],
        "train_dataset={'type': 'EG1800', 'common_transforms': [], "
        "'transforms1': [], 'transforms2': []}"),
}


@pytest.mark.parametrize("says, opts", [(says, opts) for says, *opts in COMPONENTS.values()],
                         ids=COMPONENTS)
def test_components_are_refused_before_anything_trains(capsys, own, says, opts):
    check(capsys, own, says, *opts)


def test_an_image_that_need_not_be_padded_goes_into_no_batch_with_others(capsys, own):
    """It has a note less of what was done to it."""
    Image.new("RGB", (40, 40)).save(own.data / "images" / "train_0002.jpg")
    write_label(str(own.data / "labels" / "train_0002.png"), np.ones((40, 40), np.uint8))
    check(capsys, own, ["train_dataset.transforms", "no batch", "fields number"],
          f"train_dataset.transforms=[{{'type': 'PaddingByAspectRatio'}}, {CROP}]",
          "batch_size=12")


def test_a_data_set_that_fails_by_its_arguments(capsys, own):
    """PaddleSeg's ADE20K with ``edge`` names a variable that it has not."""
    for split in ("training", "validation"):
        for folder in ("images", "annotations"):
            (own.data / folder / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(own.data / "images" / split / "a.jpg")
        Image.new("L", (40, 40), 1).save(own.data / "annotations" / split / "a.png")
    ade = f"{{'type': 'ADE20K', 'dataset_root': '{own.data}', 'transforms': []"
    check(capsys, own, ["ADE20K fails on", "a.png", "label"],
          f"train_dataset={ade}, 'edge': True}}", f"val_dataset={ade}, 'mode': 'val'}}",
          "zero_shot.unseen=sky", "zero_shot.class_names=ade20k", "batch_size=1",
          "model.num_classes=150", save_dir=str(own.tmp / "new"))


def test_a_look_at_the_images_leaves_the_random_numbers_alone(finished):
    run = finished("custom").open()
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    preflight.examine(run, run.stages)
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize("key, says", [
    ("segmentor_weights", ["segmentor_weights: ", "is no file"]),
    ("model.pretrained", ["no weights at"]),
])
def test_weights_that_are_not_there(capsys, own, key, says):
    said = check(capsys, own, says, f"{key}={own.tmp}/nowhere.pdparams",
                 save_dir=str(own.tmp / "new"))
    assert "feature maps" not in said


@pytest.mark.parametrize("key", ["segmentor_weights", "model.pretrained"])
@pytest.mark.parametrize("content, says", [
    ({"a": np.ones(2, np.float32)}, ["first "]),
    (None, ["is not a whole"]),
    (np.nan, ["not finite"]),
], ids=["misfit", "torn", "not finite"])
def test_weights_that_are_of_no_use(capsys, own, key, content, says):
    path = str(own.tmp / "w.pdparams")
    state = content if isinstance(content, dict) else {
        name: value * (np.nan if content and value.dtype == np.float32 else 1)
        for name, value in own.run.weights("segmentor").items()}
    paddle.save({name: paddle.to_tensor(value) for name, value in state.items()}, path)
    if content is None:
        os.truncate(path, 3000)
    check(capsys, own, ["w.pdparams", *says], f"{key}={path}", save_dir=str(own.tmp / "new"))


# Embeddings.

def vectors(words=("background", "cat", "dog", "cow", "car"), size=3) -> str:
    return "".join(f"{word} {' '.join(str(0.1 * (n + i)) for i in range(size))}\n"
                   for n, word in enumerate(words, 1))


@pytest.mark.parametrize("name, content, says", [
    ("vectors.txt", vectors(("background", "cat")) + "dog 0.1 0.2\n" + vectors(("cow", "car")),
     ["vectors.txt, line 3", "dimension is 3"]),
    ("vectors.txt", "bird 0.1 0.2\n" + vectors(), ["vectors.txt, line 2", "dimension is 2"]),
    ("vectors.txt", vectors(("background", "cat", "dog", "cowl", "car")),
     ["vectors.txt", "'cow'", "cowl"]),
    ("vectors.txt", vectors().replace("0.5", "x"), ["vectors.txt", "`x` is no number"]),
    ("vectors.txt", vectors(("background", "cat", "dog", "cow")) + "car 0 5e-30 0\n",
     ["'car'", "the length 5e-30"]),
    ("vectors.txt", vectors(("background", "cat", "dog", "cow")) + "car 0 5e18 0\n",
     ["'car'", "the length 5e+18"]),
    ("vectors.txt", "", ["vectors.txt", "empty"]),
    ("vectors.txt.gz", gzip.compress(vectors(size=300).encode())[:-100],
     ["vectors.txt.gz", "cut gzip"]),
], ids=["dimension", "header", "missing", "no number", "tiny", "huge", "empty", "cut"])
def test_embedding_file(capsys, own, name, content, says):
    (own.tmp / name).write_bytes(content.encode() if isinstance(content, str) else content)
    check(capsys, own, says, f"zero_shot.embeddings.path={own.tmp / name}")


# The bank.

@pytest.mark.parametrize("change, says", [
    (os.remove, ["bank.npz is missing", "run --stage features first"]),
    (lambda path: os.truncate(path, 500), ["bank.npz", "not a whole feature bank", "--restart"]),
    (lambda path: os.truncate(path, 0), ["bank.npz", "not a whole feature bank", "--restart"]),
    (lambda path: FeatureBank(np.zeros((0, 256), np.float32), np.zeros(5, np.int64),
                              np.zeros(5, np.int64)).save(path), ["bank.npz", "empty"]),
], ids=["missing", "torn", "empty file", "empty bank"])
def test_bank(capsys, own, change, says):
    change(own.run.without_checksums().path("features", "bank.npz"))
    check(capsys, own, says, stage="generator", recipe=own.made)


def test_data_without_seen_pixels(capsys, own):
    for path in (own.data / "labels").iterdir():
        write_label(str(path), np.full_like(read_label(path), 255))
    check(capsys, own, ["no pixel of a seen class"])


# Weights.

def test_val_without_weights(capsys, own):
    check(capsys, own, ["no weights at", "nowhere.pdparams"], main=val.main,
          model_path=str(own.tmp / "nowhere.pdparams"))


def test_weights_are_looked_for_before_data_are_drawn(capsys, tmp_path):
    recipe = shapes(str(tmp_path / "data"), str(tmp_path / "cache"))
    said = error_of(capsys, val.main, recipe.argv(model_path=str(tmp_path / "nowhere.pdparams")))
    assert "no weights at" in said and os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_val_of_torn_weights(capsys, own, size):
    os.truncate(own.run.path("model.pdparams"), size)
    check(capsys, own, ["model.pdparams has ", "bytes instead of ", "makes it anew"], main=val.main,
          out=str(own.tmp / "scores.json"))


@pytest.mark.parametrize("name, says", [
    ("model.pdparams", ["does not fit", "head.decoder.conv"]),
    ("generator/model.pdparams", ["does not fit", "entries differ"]),
    ("metrics.json", ["metrics.json", "not a whole .pdparams"]),
])
def test_val_of_other_weights(capsys, own, finished, name, says):
    check(capsys, own, says, main=val.main, model_path=finished("shapes").path(name),
          out=str(own.tmp / "scores.json"))


@pytest.mark.parametrize("opt, says", [
    ("zero_shot.unseen=cat", ["classes cow, car, but `zero_shot.unseen` is cat; score it with "
                              "--opts \"zero_shot.unseen=['cow', 'car']\""]),
    ("zero_shot.class_names=['background', 'dog', 'cat', 'cow', 'car']",
     ["classes.json beside ", "class 1 cat, but `zero_shot.class_names` dog"]),
])
def test_val_of_other_classes_than_those_of_training(capsys, own, opt, says):
    check(capsys, own, says, opt, main=val.main)


@pytest.mark.parametrize("stage", ["segmentor", "generator"])
def test_torn_weights_of_a_stage(capsys, own, stage):
    """A stage that reads a torn file says so; the later stages' results stay."""
    os.truncate(own.run.without_checksums().path(stage, "model.pdparams"), 3000)
    check(capsys, own, [f"{stage}/model.pdparams", "not a whole .pdparams", "--restart"],
          recipe=own.made)


# Flags.

@pytest.mark.parametrize("flags, says", [
    ({"is_slide": True}, ["--is_slide", "--crop_size"]),
    ({"is_slide": True, "crop_size": [32, 32]}, ["--is_slide", "--stride"]),
    ({"is_slide": True, "crop_size": [0, 32], "stride": [8, 8]}, ["crop_size", "0"]),
    ({"is_slide": True, "crop_size": [32, 32], "stride": [0, 8]}, ["stride", "0"]),
    ({"aug_eval": True, "scales": [0]}, ["scales", "0"]),
    ({"aug_eval": True, "scales": ["nan"]}, ["scales", "nan"]),
])
def test_test_time_flags(capsys, own, flags, says):
    check(capsys, own, says, main=val.main, out=str(own.tmp / "scores.json"), **flags)


def test_flags_of_a_stage_that_has_none(capsys, own):
    check(capsys, own, ["--stage features", "--iters"], stage="features", iters=4)


@pytest.mark.parametrize("name, says, flags", [
    ("segmentor/iter_9", ["--resume_model", "segmentor/iter_9"], {}),
    ("segmentor/iter_4", ["--resume_model", "iter_4", "iters"], {}),
    ("generator/iter_4", ["--resume_model", "iter_4", "iters"], {}),
    ("segmentor/iter_2", ["--resume_model", "segmentor/iter_2", "--stage generator"],
     {"stage": "generator"}),
])
def test_resume(capsys, own, name, says, flags):
    check(capsys, own, says, resume_model=own.run.path(name), recipe=own.made, **flags)


@pytest.mark.parametrize("cut_file", ["model.pdparams", "model.pdopt"])
def test_resume_of_a_torn_checkpoint(capsys, own, cut_file):
    os.truncate(own.run.path("segmentor", "iter_2", cut_file), 3000)
    check(capsys, own, [f"segmentor/iter_2/{cut_file}", "not a whole"],
          resume_model=own.run.path("segmentor/iter_2"), recipe=own.made)


def test_resume_without_the_schedule(capsys, own):
    path = own.run.path("segmentor", "iter_2", "model.pdopt")
    state = paddle.load(path)
    del state["LR_Scheduler"]
    paddle.save(state, path)
    os.remove(own.run.path("segmentor", "iter_2", "checkpoint.json"))  # as if it were of 0.1.0
    check(capsys, own, ["segmentor/iter_2", "no LR_Scheduler"],
          resume_model=own.run.path("segmentor/iter_2"), recipe=own.made)


# Folders.

@pytest.mark.parametrize("stage", ["segmentor", "features", "generator", "classifier"])
def test_foreign_files_in_the_way(capsys, own, stage):
    folder = own.tmp / "new" / stage
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    check(capsys, own, [str(folder), "something else", "--save_dir"],
          save_dir=str(own.tmp / "new"))


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_save_dir_that_can_be_no_folder(capsys, own, name):
    (own.tmp / "file").write_text("")
    check(capsys, own, ["save_dir", own.tmp / name], save_dir=str(own.tmp / name))


def test_a_folder_where_val_is_to_write_a_file(capsys, own):
    check(capsys, own, [f"--out: {own.tmp}", "name a file"], main=val.main, out=str(own.tmp))


@pytest.mark.parametrize("flag", ["out", "picture_dir"])
def test_output_of_val_below_a_file(capsys, own, flag):
    (own.tmp / "file").write_text("")
    path = own.tmp / "file" / "below" / "x"
    check(capsys, own, [f"--{flag}", path.parent], main=val.main, **{flag: str(path)})


# As programs.

@pytest.mark.parametrize("tool, flags, part", [
    ("train.py", {"num_workers": 2}, "train_0003.jpg"),
    ("val.py", {"model_path": "/nowhere.pdparams"}, "/nowhere.pdparams"),
], ids=["broken data", "weights"])
def test_program(own, tool, flags, part):
    if "num_workers" in flags:
        cut("images/train_0003.jpg")(own.data)
    if tool == "train.py":
        flags = {**flags, "save_dir": str(own.tmp / "new")}
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", tool),
                           *own.recipe.argv(**flags)], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0] and done.stderr.endswith(f"{errors[0]}\n")
    assert not (own.tmp / "new").exists()
