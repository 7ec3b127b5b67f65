"""Files as people have them: what training does with them, through the command line."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.fabricated import read_label
from helpers.tiny_config import tiny_content, write_config
from helpers.tiny_runs import differing, undrawn, weights
from paddle_csrl.cli import train, val
from paddle_csrl.errors import UserError, user_message
from paddle_csrl.utils import read_json


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
        with undrawn():
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


def test_a_loss_for_each_output(run, content, tmp_path):
    content["loss"]["coef"] = [1.0, 0.4]
    with pytest.raises(UserError, match=r"`loss.coef` has 2 numbers, and DeepLabV3P has 1 outputs"):
        run()
    assert not (tmp_path / "output").exists()


def test_a_crop_that_the_network_does_not_halve_evenly(run, content, tmp_path):
    content["model"] = {"type": "ESPNetV2"}  # halves five times, and adds up what it doubles again
    content["loss"]["coef"] = [1.0, 0.4]
    content["train_dataset"]["transforms"][0]["crop_size"] = [50, 40]
    with pytest.raises(UserError, match=r"ESPNetV2 does not run on .* 40 x 50 pixels.*`crop_size`"):
        run()
    assert not (tmp_path / "output").exists()


def test_validation_images_that_the_network_does_not_halve_evenly(run, content, tmp_path):
    content["model"] = {"type": "ESPNetV2"}
    content["loss"]["coef"] = [1.0, 0.4]
    with pytest.raises(UserError, match=r"ESPNetV2 does not run on an image of \d+ x \d+ pixels.*"
                                        r"`val_dataset.transforms`"):
        run()
    assert not (tmp_path / "output").exists()
    content["val_dataset"]["transforms"].insert(0, {"type": "Padding", "target_size": [96, 96]})
    run("padded", "--stage", "segmentor")


def test_whole_images_that_the_network_does_not_halve_evenly(run, content, tmp_path):
    """Scores are taken by windows, features are not."""
    content["model"] = {"type": "ESPNetV2"}
    content["loss"]["coef"] = [1.0, 0.4]
    content["train_dataset"]["transforms"][0]["crop_size"] = [32, 32]
    content["test_config"] = {"is_slide": True, "crop_size": [32, 32], "stride": [16, 16]}
    with pytest.raises(UserError, match=r"ESPNetV2 does not run on an image of \d+ x \d+ pixels.*"
                                        r"whole images.*`zero_shot.features.transforms`"):
        run()
    assert not (tmp_path / "output").exists()
    content["zero_shot"]["features"]["transforms"] = [
        {"type": "Padding", "target_size": [96, 96]}, *content["val_dataset"]["transforms"]]
    run("padded", "--stage", "segmentor")


@pytest.mark.parametrize("key, transform, message", [
    ("val_dataset", {"type": "Padding", "target_size": [60, 60]}, "Padding fails on .*train_0000"),
    ("zero_shot.features", {"type": "RandomPaddingCrop", "crop_size": [64, 64],
                            "label_padding_value": 7}, "`label_padding_value: 7` of"),
])
def test_transforms_of_later_stages_are_tried_before_training(run, content, tmp_path, key,
                                                              transform, message):
    section = content
    for name in key.split("."):
        section = section[name]
    section["transforms"] = [transform, {"type": "Normalize"}]
    with pytest.raises(UserError, match=f"`{key}.transforms`, by which features .*{message}"):
        run()
    assert not (tmp_path / "output").exists()


def test_a_class_with_a_comma_in_its_name_is_unseen_by_a_list(run, content):
    names = pathlib.Path(content["zero_shot"]["class_names"])
    names.write_text(names.read_text().replace("cow", "cow, brown"))
    content["zero_shot"]["unseen"] = ["cow, brown"]
    told = r"""holds cow, which .*unseen="\['cow, brown'\]"$"""
    with pytest.raises(UserError, match=told):
        run("text", "--opts", "zero_shot.unseen=cow, brown")
    classes = read_json(os.path.join(run(), "metrics.json"))["classes"]
    assert [item["name"] for item in classes if not item["seen"]] == ["cow, brown"]
    run("opts", "--stage", "segmentor", "--opts", "zero_shot.unseen=['cow, brown']")


def void_as_4(label):
    """Three classes, 0 to 2, and 4 for pixels without one."""
    return np.where(label == 255, 4, label % 3).astype(np.uint8)


def test_another_ignore_index_and_a_whole_number_of_scales(run, content, tmp_path):
    classes = tmp_path / "three.txt"
    classes.write_text("background\ncar\ncow\n")
    content["zero_shot"]["class_names"] = str(classes)
    for key in ("train_dataset", "val_dataset", "model"):
        content[key]["num_classes"] = 3
    for key, split in (("train_dataset", "train"), ("val_dataset", "val")):
        content[key]["ignore_index"] = 4
        rewrite_labels(content, void_as_4, split)
    content["train_dataset"]["transforms"][0]["label_padding_value"] = 4
    content["test_config"] = {"aug_eval": True, "scales": 1}
    folder = run()
    assert sorted(os.listdir(os.path.join(folder, "predictions")))[0] == "00.png"


def test_what_labels_and_schedules_make_of_no_use_is_said_before_training(run, content, capsys):
    """Masks of 0 and 255; validation with a pair twice and no dog and cow (2, 3); a warm-up."""
    rewrite_labels(content, lambda label: np.where(label > 0, 255, 0).astype(np.uint8))
    rewrite_labels(content, lambda label: np.where(np.isin(label, [2, 3]), 0, label), "val")
    pairs = pathlib.Path(content["val_dataset"]["val_path"])
    pairs.write_text(pairs.read_text() + pairs.read_text().splitlines()[1] + "\n")
    content["lr_scheduler"].update(warmup_iters=2, warmup_start_lr=1e-5)
    folder = run("output", "--stage", "segmentor")
    lines = capsys.readouterr().out.splitlines()
    start = next(index for index, line in enumerate(lines) if "[TRAIN]" in line)
    warnings = "\n".join(line for line in lines[:start] if "WARNING" in line)
    root = content["train_dataset"]["dataset_root"]
    labels = [np.array(Image.open(os.path.join(root, "labels", f"train_{index:04d}.png")))
              for index in range(6)]
    void = sum((label == 255).sum() for label in labels) / sum(label.size for label in labels)
    assert f"no training pixel of cat, dog, car, and {void:.0%} of all pixels are 255" in warnings
    assert "no validation pixel of dog, cow; an IoU of 0 is no measurement of them" in warnings
    assert f"1 of 4 validation images are listed more than once, such as {root}/images/val_0001" \
        in warnings
    assert "stage segmentor ends after `iters: 2`, within the warm-up of `warmup_iters: 2`" \
        in warnings
    assert "stage generator" not in warnings
    val.main(["-c", f"{folder}.yml", "--model_path", f"{folder}/segmentor/model.pdparams",
              "--device", "cpu"])
    assert "no validation pixel of dog, cow; " in capsys.readouterr().out


def test_validation_images_that_are_trained_on_are_told(run, content, capsys):
    content["zero_shot"]["policy"] = "ignore"
    root = content["train_dataset"]["dataset_root"]
    with open(content["val_dataset"]["val_path"]) as lines:
        image, label = next(lines).split()
    for path in (image, label):
        shutil.copy(os.path.join(root, path), os.path.join(root, path.replace("val_", "copy_")))
    with open(content["train_dataset"]["train_path"], "a") as lines:
        lines.write(f"{image} {label}\n".replace("val_", "copy_"))
    run("output", "--stage", "segmentor")
    assert f"1 of 4 validation images are training images, too, such as {root}/{image}; " \
        in capsys.readouterr().out


def test_an_image_of_one_row(run, content):
    """As a scan line is; its label has one row, too."""
    root = pathlib.Path(content["train_dataset"]["dataset_root"])
    for name in ("train_0001", "val_0001"):
        label = read_label(root / "labels" / f"{name}.png")
        Image.fromarray(np.resize(label[label != 255], (1, 90))).save(
            root / "labels" / f"{name}.png")
        Image.open(root / "images" / f"{name}.jpg").resize((90, 1)).save(
            root / "images" / f"{name}.jpg")
    folder = run()
    assert len(os.listdir(os.path.join(folder, "predictions"))) == 4


def test_masks_of_single_objects_are_told(run, content, capsys):
    """An image with two labels; one that is listed twice with its own has no more weight."""
    path = pathlib.Path(content["train_dataset"]["train_path"])
    pairs = [line.split() for line in path.read_text().splitlines()]
    shutil.copy(os.path.join(path.parent, pairs[0][1]), os.path.join(path.parent, "second.png"))
    pairs += [[pairs[0][0], "second.png"], pairs[1]]
    path.write_text("".join(f"{image} {label}\n" for image, label in pairs))
    run("output", "--stage", "segmentor")
    assert f"1 of 6 training images have several labels, such as {path.parent}/{pairs[0][0]}; " \
        in capsys.readouterr().out


@pytest.mark.parametrize("between", ["\t", "  "])
def test_a_list_with_another_separator_is_shown_as_it_is(run, content, between):
    path = content["train_dataset"]["train_path"]
    text = open(path).read().replace(" ", between)
    open(path, "w").write(text)
    with pytest.raises(UserError) as error:
        run()
    assert repr(text.splitlines()[0]) in user_message(error.value)
    assert "`separator`" in str(error.value)
