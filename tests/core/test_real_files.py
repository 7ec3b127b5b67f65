"""Files as people have them: what training does with them, through the command line."""

import os

import numpy as np
import pytest
from PIL import Image

from helpers.fabricated import read_label
from helpers.tiny_config import tiny_content, write_config
from helpers.tiny_runs import differing, weights
from paddle_csrl.cli import train
from paddle_csrl.errors import UserError


@pytest.fixture
def content(tmp_path):
    """A config whose training images make batches, with one iteration of each stage."""
    content = tiny_content(str(tmp_path))
    content["train_dataset"]["transforms"].insert(
        0, {"type": "RandomPaddingCrop", "crop_size": [64, 64]})
    return content


@pytest.fixture
def run(tmp_path, content):
    """Train with ``content`` into a folder of a given name; returns the folder."""
    def run(name="output", *argv):
        config = write_config(str(tmp_path / f"{name}.yml"), content)
        train.main(["-c", config, "--save_dir", str(tmp_path / name), "--device", "cpu", *argv])
        return str(tmp_path / name)

    return run


def rewrite_labels(content, change, split="train"):
    folder = os.path.join(content["train_dataset"]["dataset_root"], "labels")
    for name in sorted(os.listdir(folder)):
        if name.startswith(split):
            path = os.path.join(folder, name)
            Image.fromarray(change(read_label(path))).save(path)


def test_16_bit_labels_train_the_same_segmentor(run, content):
    content["iters"] = 6
    eight = run("eight", "--stage", "segmentor")
    for split in ("train", "val"):
        rewrite_labels(content, lambda label: label.astype(np.uint16), split)
    folders = eight, run("sixteen", "--stage", "segmentor")
    assert not differing(*(weights(f"{folder}/segmentor/model.pdparams") for folder in folders))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_audit_counts_the_labels_of_training_itself(run, content, capsys, num_workers):
    content["num_workers"] = num_workers
    run("output", "--stage", "segmentor")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "audit:" in line]
    drawn, pixels = line.split("labels drawn in stage 1: ")[1].split(" (", 1)
    seen, unlabelled, unseen = (int(part.split()[0]) for part in pixels.split(", "))
    # Two iterations of two images, and what the loader has read ahead.
    assert 4 <= int(drawn) <= 6 * 2 and unseen == 0
    assert seen + unlabelled == int(drawn) * 64 * 64


@pytest.mark.parametrize("mode", ["test", "val"])
def test_modes_that_no_policy_covers_are_no_training(run, content, tmp_path, mode):
    section = content["train_dataset"]
    section.update({"mode": mode, f"{mode}_path": section.pop("train_path")})
    with pytest.raises(UserError, match=f"`train_dataset.mode: {mode}`.*set a mode of training"):
        run()
    assert not (tmp_path / "output").exists()


def test_validation_does_not_crop(run, content, tmp_path):
    content["val_dataset"]["transforms"].insert(
        0, {"type": "RandomPaddingCrop", "crop_size": [40, 40]})
    with pytest.raises(UserError, match=r"`val_dataset.transforms` must not crop"):
        run()
    assert not (tmp_path / "output").exists()
