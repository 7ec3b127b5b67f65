"""More classes than 8-bit labels hold: 16-bit labels from training to scores."""

import os

import cv2
import numpy as np
import paddle
import pytest

from helpers import tiny_runs
from paddle_csrl.cli import predict
from paddle_csrl.errors import UserError
from paddle_csrl.reports.run_report import write_page

CLASSES = 300
NAMES = [f"class{index}" for index in range(CLASSES)]
IGNORE = ("train_dataset.ignore_index=65535", "val_dataset.ignore_index=65535")
# PaddleSeg hands the data sets' to the loss of stage 1, and to no other.
LOSS = "classifier.loss.types=[{'type': 'CrossEntropyLoss', 'ignore_index': 65535}]"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 2)):
        with open(root / f"{split}.txt", "w", encoding="utf-8") as file:
            for index in range(number):
                name = f"{split}{index}"
                label = rng.integers(CLASSES if split == "val" else CLASSES - 10, size=(6, 7))
                label = label.repeat(8, 0).repeat(8, 1).astype(np.uint16)
                label[:4] = 65535
                image = rng.integers(255, size=(*label.shape, 3)).astype(np.uint8)
                cv2.imwrite(str(root / f"{name}.png"), label)
                cv2.imwrite(str(root / f"{name}.jpg"), image)
                file.write(f"{name}.jpg {name}.png\n")
    (root / "classes.txt").write_text("\n".join(NAMES))
    np.savez(root / "vectors.npz", names=np.array(NAMES),
             vectors=rng.normal(size=(CLASSES, 8)).astype(np.float32))
    crop = ("train_dataset.transforms=[{'type': 'RandomPaddingCrop', 'crop_size': [32, 32], "
            "'label_padding_value': 65535}, {'type': 'Normalize'}]")
    opts = (*tiny_runs.SHRUNK, tiny_runs.TINY_NETWORK, crop, f"zero_shot.cache_dir={root}/cache",
            "zero_shot.policy=drop", "zero_shot.unseen=" + ",".join(NAMES[-10:]), "iters=2",
            "generator.iters=2",
            f"zero_shot.class_names={root}/classes.txt",
            f"zero_shot.embeddings.path={root}/vectors.npz",
            *(f"{split}_dataset.{key}" for split in ("train", "val") for key in (
                f"dataset_root={root}", f"num_classes={CLASSES}",
                f"{split}_path={root}/{split}.txt")))
    return tiny_runs.Recipe(tiny_runs.config_path("_base_/custom"), opts)


def test_all_stages_and_scores(recipe, tmp_path, capsys):
    run = tiny_runs.run_all(recipe, tmp_path / "run", *IGNORE, LOSS)
    assert len(run.metrics["classes"]) == CLASSES
    assert paddle.load(run.path("classifier", "model.pdparams"))["conv.weight"].shape[0] == CLASSES
    assert not os.path.exists(run.path("predictions")) or not os.listdir(run.path("predictions"))
    with pytest.raises(UserError, match="8-bit labels of at most 255 classes.* has 300"):
        predict.main(["--run", run.folder, "--device", "cpu", "--save_dir", str(tmp_path / "out"),
                      "--image_path", os.path.dirname(run.recipe.opts[-1].split("=")[1])])
    assert write_page(run.folder) == run.path("report.html")
    capsys.readouterr()
    assert run.again(*IGNORE, LOSS) == run.metrics  # though no picture says that it was scored
    assert "scores: up to date" in capsys.readouterr().out


def test_an_ignored_class_is_refused_before_training(recipe, tmp_path):
    with pytest.raises(UserError, match="`ignore_index: 255` of Dataset is one of its 300"):
        tiny_runs.run_all(recipe, tmp_path / "run")
    with pytest.raises(UserError, match="CrossEntropyLoss ignores 255, one of the 300 classes"):
        tiny_runs.run_all(recipe, tmp_path / "run", *IGNORE)
