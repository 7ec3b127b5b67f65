"""What PaddleSeg makes of the folders of a data set."""

import os

import pytest
from paddleseg.datasets import CocoStuff

from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.sources import require_pairs
from paddle_csrl.errors import UserError


def make(root, *paths):
    """Write empty files; images are looked for by name alone."""
    for path in paths:
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        open(os.path.join(root, path), "w").close()


def test_a_missing_label_of_cityscapes_does_not_shift_the_others(tmp_path):
    frames = [f"{town}/{town}_00000{number}_000019" for town in ("aachen", "bonn")
              for number in range(2)]
    make(tmp_path, *(f"leftImg8bit/train/{frame}_leftImg8bit.png" for frame in frames),
         *(f"gtFine/train/{frame}_gtFine_labelTrainIds.png" for frame in frames))
    content = tiny_content(str(tmp_path))
    content["train_dataset"].update(type="Cityscapes", dataset_root=str(tmp_path))
    for key in ("train_path", "num_classes"):
        content["train_dataset"].pop(key, None)
    builder = ZeroShotBuilder(ZeroShotConfig(write_config(str(tmp_path / "c.yml"), content)))
    assert len(builder._build_dataset(builder.config.train_dataset_cfg)) == 4
    os.remove(tmp_path / f"gtFine/train/{frames[1]}_gtFine_labelTrainIds.png")
    with pytest.raises(UserError, match=f"image .*{frames[1]}_left.* with label .*{frames[2]}"):
        builder._build_dataset(builder.config.train_dataset_cfg)


def test_a_missing_image_of_coco_stuff_does_not_shift_the_others(tmp_path):
    make(tmp_path, "images/train2017/000000000001.jpg", "images/train2017/000000000003.jpg",
         *(f"annotations/train2017/00000000000{number}.png" for number in (1, 2, 3)))
    dataset = CocoStuff([], str(tmp_path), mode="train")
    with pytest.raises(UserError, match="000000000003.jpg with label .*000000000002.png"):
        require_pairs("CocoStuff", dataset.file_list)
    require_pairs("Dataset", [["a.jpg", "b.png"]])
