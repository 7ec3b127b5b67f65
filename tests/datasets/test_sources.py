"""What PaddleSeg makes of the folders of a data set."""

import os

import numpy as np
import pytest
from paddleseg.datasets import CocoStuff

from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import sources
from paddle_csrl.datasets.sources import crossed_pairs, require_data, require_pairs
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


FORMS = [("images/{}.jpg", "labels/{}_mask.png"), ("train/{}_sat.jpg", "train/{}_mask.png"),
         ("/data/frame_{:06d}.jpg", "/masks/frame_{:06d}.png"),
         ("a/{0:x}/{0}.jpg", "b/{0:x}/{0}.png"), ("1/{}/x.jpg", "2/{}/x.png"),
         ("seq{0}/rgb/frame_{0}.png", "all/seq{0}/seg/mask_{0}.png")]


@pytest.mark.parametrize("image, label", FORMS)
@pytest.mark.parametrize("numbers", [range(12), [10, 20, 30], [7]])
def test_pairs_of_one_name_are_not_crossed(image, label, numbers):
    assert crossed_pairs([(image.format(number), label.format(number)) for number in numbers]) == []


@pytest.mark.parametrize("image, label", FORMS)
def test_a_missing_file_crosses_those_of_which_both_are_there(image, label):
    """The image of 3 and the label of 11 are missing; 4 stands with 3, whose image is not there."""
    rows = [0, 1, 2, *range(4, 12)], range(11)
    pairs = [(image.format(own), label.format(other)) for own, other in zip(*rows)]
    assert crossed_pairs(pairs) == pairs[4:10]


def test_lists_that_are_sorted_apart_cross():
    """`1.jpg` comes before `10.jpg`, and `1_mask.png` after `10_mask.png`."""
    images, labels = (sorted(name.format(number) for number in range(12)) for name in FORMS[0])
    number = [[int("".join(filter(str.isdigit, path))) for path in paths]
              for paths in (images, labels)]
    crossed = [pair for pair, own, other in zip(zip(images, labels), *number) if own != other]
    assert crossed_pairs(list(zip(images, labels))) == crossed
    assert crossed == [("images/1.jpg", "labels/10_mask.png"),
                       ("images/10.jpg", "labels/11_mask.png"),
                       ("images/11.jpg", "labels/1_mask.png")]


@pytest.mark.parametrize("shift", [(0, 1), (1, 0)])
def test_frames_of_sequences_cross_within_and_between_them(shift):
    """Labels of the next frame of a sequence, or of the same frame of the next sequence."""
    frames = [(sequence, frame) for sequence in range(3) for frame in range(4)]
    image, label = "seq{}/Images/{:06d}.png", "seq{}/Labels/{:06d}.png"
    assert crossed_pairs([(image.format(*own), label.format(*own)) for own in frames]) == []
    pairs = [(image.format(*own), label.format(*np.add(own, shift))) for own in frames]
    inside = [pair for pair, own in zip(pairs, frames) if tuple(np.add(own, shift)) in frames]
    # Those whose label's own image is in the list, and whose image's own label is.
    both = [pair for pair, own in zip(pairs, frames) if pair in inside
            and tuple(np.subtract(own, shift)) in frames]
    assert crossed_pairs(pairs) == both and both


def test_names_that_share_nothing_tell_nothing():
    assert crossed_pairs([("photo1.jpg", "a.png"), ("photo2.jpg", "b.png")]) == []
    assert crossed_pairs([("1.jpg", "a.png"), ("1.jpg", "b.png")]) == []
    assert crossed_pairs([]) == []


@pytest.mark.parametrize("encoding, name, fits", [
    ("cp936", "\u725b", False), ("ISO-8859-1", "\xe9t\xe9", False), ("cp936", "cow", True),
    ("UTF8", "\u725b", True), ("utf-8", "\xe9t\xe9", True)])
def test_lists_that_paddleseg_reads_otherwise_are_refused(tmp_path, monkeypatch, encoding, name,
                                                          fits):
    monkeypatch.setattr(sources.locale, "getpreferredencoding", lambda *_: encoding)
    path = tmp_path / "train.txt"
    path.write_text(f"a.jpg a.png\n{name}.jpg {name}.png\n", "utf-8")
    cfg = {"type": "Dataset", "mode": "train", "dataset_root": str(tmp_path),
           "train_path": str(path)}
    if fits:
        require_data(cfg)
        return
    with pytest.raises(UserError, match=f"{path} holds letters that PaddleSeg would read as "
                                        f"{encoding}.*set PYTHONUTF8=1"):
        require_data(cfg)
