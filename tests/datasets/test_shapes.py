import glob
import os
import shutil

import numpy as np
import pytest
from paddleseg.cvlibs import SegBuilder, manager
from PIL import Image

from paddle_csrl.datasets.shapes import AttributeShapes
from paddle_csrl.errors import UserError

SMALL = dict(num_train=24, num_val=6, image_size=64)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def train(root):
    return AttributeShapes("train", root, **SMALL)


def contents(folder):
    """Every file below ``folder`` with its bytes."""
    return {os.path.relpath(path, folder): open(path, "rb").read()
            for path in glob.glob(os.path.join(folder, "**"), recursive=True)
            if os.path.isfile(path)}


def labels_of(dataset):
    return np.stack([np.array(Image.open(label)) for _, label in dataset.file_list])


def images_of(dataset):
    return np.stack([np.array(Image.open(image)) for image, _ in dataset.file_list])


def test_same_parameters_give_the_same_bytes(train, tmp_path):
    again = AttributeShapes("val", str(tmp_path), **SMALL)
    assert contents(again.dataset_root) == contents(train.dataset_root)
    assert len(contents(train.dataset_root)) == 2 * (24 + 6) + 4


def test_splits_seeds_and_indices_differ(root, train):
    val = AttributeShapes("val", root, **SMALL)
    other = AttributeShapes("train", root, seed=1, **SMALL)
    pictures = [image.tobytes() for dataset in (train, val, other)
                for image in images_of(dataset)]
    assert len(set(pictures)) == len(pictures) == 24 + 6 + 24


def test_an_image_does_not_depend_on_how_many_there_are(train, tmp_path):
    fewer = AttributeShapes("train", str(tmp_path), num_train=3, num_val=1, image_size=64)
    np.testing.assert_array_equal(images_of(fewer), images_of(train)[:3])
    np.testing.assert_array_equal(labels_of(fewer), labels_of(train)[:3])


def test_labels_hold_every_class_and_nothing_else(train):
    labels = labels_of(train)
    assert labels.shape == (24, 64, 64) and labels.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(labels), np.arange(21))
    per_image = [np.setdiff1d(label, 0).size for label in labels]
    assert min(per_image) >= 1 and max(per_image) <= 4
    assert 0.4 < (labels == 0).mean() < 0.95


def test_label_pictures_carry_the_palette(train):
    picture = Image.open(train.file_list[0][1])
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.array(picture.getpalette()[:63]).reshape(21, 3),
                                  train.palette)


def test_objects_show_the_colour_and_the_pattern_of_their_class(train):
    tones = {"red": (206, 38, 38), "blue": (38, 84, 204), "green": (44, 146, 60),
             "yellow": (242, 190, 12), "purple": (134, 48, 176)}
    images, labels = images_of(train).astype(float), labels_of(train)
    for class_id, name in enumerate(train.class_names[1:], 1):
        color, pattern = name.split()
        pixels = images[labels == class_id]
        ink = pixels.min(1) > 150
        if pattern == "plain":
            assert ink.mean() < 0.02
        else:
            assert 0.1 < ink.mean() < 0.6
        body = np.median(pixels[pixels.min(1) < 90], axis=0)
        nearest = min(tones, key=lambda tone: np.linalg.norm(body - tones[tone]))
        assert nearest == color


def test_class_names_and_attributes_agree(train):
    assert train.num_classes == AttributeShapes.NUM_CLASSES == 21
    assert train.class_names[0] == "background"
    assert train.class_names[11] == "green dotted"
    assert len(set(train.class_names)) == 21
    # columns: background; red, blue, green, yellow, purple; plain, striped, dotted, checkered
    np.testing.assert_array_equal(train.attributes[0], [1] + 9 * [0])
    np.testing.assert_array_equal(train.attributes[11], [0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    columns = ["background", "red", "blue", "green", "yellow", "purple", "plain", "striped",
               "dotted", "checkered"]
    for name, row in zip(train.class_names, train.attributes):
        assert [columns[a] for a in np.flatnonzero(row)] == name.split()


def test_written_names_and_attributes_are_the_class_s_own(train, tmp_path):
    train.write_attributes(str(tmp_path / "attributes.npz"))
    for path in (tmp_path / "attributes.npz", os.path.join(train.dataset_root, "attributes.npz")):
        with np.load(path, allow_pickle=False) as file:
            assert file["names"].tolist() == train.class_names
            assert file["vectors"].dtype == np.float32
            np.testing.assert_array_equal(file["vectors"], train.attributes)
    with open(os.path.join(train.dataset_root, "classes.txt")) as file:
        assert file.read().splitlines() == train.class_names


def test_up_to_eighty_classes(tmp_path):
    dataset = AttributeShapes("train", str(tmp_path), num_colors=10, num_patterns=8,
                              num_train=80, num_val=1, image_size=48)
    assert dataset.num_classes == len(set(dataset.class_names)) == 81
    assert dataset.attributes.shape == (81, 19)
    assert len(np.unique(dataset.palette, axis=0)) == 81
    np.testing.assert_array_equal(np.unique(labels_of(dataset)), np.arange(81))


def test_palette_tells_the_classes_apart(train):
    colors = train.palette.astype(int)
    apart = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(21)
    assert apart.min() >= 60


def test_about_half_the_images_survive_dropping_five_of_twenty_classes(tmp_path):
    dataset = AttributeShapes("train", str(tmp_path), num_train=200, num_val=1, image_size=48)
    unseen = [3, 8, 9, 14, 20]
    kept = [not np.isin(label, unseen).any() for label in labels_of(dataset)]
    assert 0.38 < np.mean(kept) < 0.58


def test_second_use_leaves_the_files_alone(root, train):
    path = train.file_list[0][0]
    before = os.stat(path)
    AttributeShapes("val", root, **SMALL)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert os.stat(path).st_ino == before.st_ino


@pytest.mark.parametrize("lost", ["train.txt", "attributes.npz", "labels/val_00003.png"])
def test_half_made_folder_is_made_anew(tmp_path, lost):
    small = dict(num_train=4, num_val=4, image_size=48)
    first = AttributeShapes("train", str(tmp_path), **small)
    whole = contents(first.dataset_root)
    os.remove(os.path.join(first.dataset_root, lost))
    second = AttributeShapes("train", str(tmp_path), **small)
    assert contents(second.dataset_root) == whole
    assert len(os.listdir(tmp_path)) == 1


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    draw = AttributeShapes._draw

    def stop(self, split, index):
        if index == 2:
            raise KeyboardInterrupt
        return draw(self, split, index)

    monkeypatch.setattr(AttributeShapes, "_draw", stop)
    with pytest.raises(KeyboardInterrupt):
        AttributeShapes("train", str(tmp_path), **SMALL)
    assert os.listdir(tmp_path) == []


def test_the_faster_of_two_processes_wins(tmp_path, monkeypatch):
    write = AttributeShapes._write

    def lose(self, aside):
        write(self, aside)
        folder = os.path.basename(aside).split(".", 2)[2]
        shutil.copytree(aside, tmp_path / folder)
        (tmp_path / folder / "winner").touch()

    monkeypatch.setattr(AttributeShapes, "_write", lose)
    dataset = AttributeShapes("train", str(tmp_path), **SMALL)
    assert os.path.exists(os.path.join(dataset.dataset_root, "winner"))
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("change", [dict(num_train=25), dict(num_val=7), dict(image_size=65),
                                    dict(seed=5), dict(num_colors=4), dict(num_patterns=3)])
def test_changed_parameters_get_files_of_their_own(root, train, change):
    before = contents(train.dataset_root)
    changed = AttributeShapes("train", root, **{**SMALL, **change})
    assert changed.dataset_root != train.dataset_root
    assert contents(train.dataset_root) == before
    assert contents(changed.dataset_root) != before


def test_default_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = AttributeShapes("val", num_train=1, num_val=2, image_size=48)
    assert os.listdir(tmp_path / "data" / "attribute_shapes") == [
        os.path.basename(dataset.dataset_root)]
    assert len(dataset) == 2


def test_builds_from_a_config_by_name(root, train):
    assert manager.DATASETS["AttributeShapes"] is AttributeShapes
    cfg = dict(type="AttributeShapes", dataset_root=root, mode="train",
               transforms=[dict(type="Normalize")], **SMALL)
    built = SegBuilder(None).build_component(cfg)
    assert len(built) == 24
    sample = built[3]
    assert sample["img"].shape == (3, 64, 64) and sample["img"].dtype == np.float32
    expected = images_of(train)[3].transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(sample["img"], expected, atol=0.1)
    np.testing.assert_array_equal(sample["label"], labels_of(train)[3])


def test_val_samples_are_in_paddleseg_s_form(root):
    sample = AttributeShapes("val", root, transforms=[], **SMALL)[0]
    assert sample["img"].shape == (3, 64, 64)
    assert sample["label"].shape == (1, 64, 64)


@pytest.mark.parametrize("arguments, message", [
    *(({name: value}, f"`{name}: {value}` must be a whole number from") for name, value in (
        ("num_colors", 0), ("num_colors", 11), ("num_patterns", 9), ("num_train", 0),
        ("num_val", 0), ("image_size", 32), ("image_size", 96.0), ("seed", -1), ("seed", True))),
    ({"first_color": 8}, "`num_colors: 5` must be a whole number from 1 to 2"),  # fewer are left
    ({"mode": "test"}, "`mode: test`; use train or val")])
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        AttributeShapes(dataset_root=str(tmp_path), **arguments)
    assert os.listdir(tmp_path) == []


def test_data_sets_of_other_colours_and_patterns_share_no_class(tmp_path):
    small = dict(dataset_root=str(tmp_path), num_train=2, num_val=1, image_size=48)
    first = AttributeShapes(num_colors=2, num_patterns=2, **small)
    other = AttributeShapes(num_colors=2, num_patterns=2, first_color=5, first_pattern=4, **small)
    assert other.class_names == ["background", "orange wavy", "orange ringed", "turquoise wavy",
                                 "turquoise ringed"]
    assert set(first.class_names) & set(other.class_names) == {"background"}
    assert first.file_list[0][0] != other.file_list[0][0]
    np.testing.assert_array_equal(first.attributes, other.attributes)
