"""ZeroShotDataset: what gets into training, and what must not, under attack."""

import os
import random
import re

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import SegBuilder
from paddleseg.datasets import ADE20K, Dataset, PascalContext, PascalVOC
from paddleseg.transforms import (
    Normalize,
    Padding,
    RandomAffine,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    RandomRotation,
    RandomScaleAspect,
    RandomVerticalFlip,
    ResizeStepScaling,
    ScalePadding,
)
from PIL import Image

from helpers.fabricated import damage, make_context, make_dataset, make_voc, write_label
from paddle_csrl.datasets.zero_shot import ZeroShotDataset
from paddle_csrl.errors import UserError

NAMES = ["background", "cat", "dog", "cow", "car"]
UNSEEN = ["dog", "car"]
UNSEEN_IDS = [2, 4]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return make_dataset(str(tmp_path), NAMES, num_train=6, num_val=4)


def inner(root, mode="train", transforms=(), num_classes=5, **kwargs):
    return Dataset(mode, root, list(transforms), num_classes, train_path=f"{root}/train.txt",
                   val_path=f"{root}/val.txt", **kwargs)


def wrapped(root, policy="drop", mode="train", transforms=(), **kwargs):
    return ZeroShotDataset(inner(root, mode, transforms), UNSEEN, policy, NAMES, **kwargs)


def label_path(root, index, split="train"):
    return f"{root}/labels/{split}_{index:04d}.png"


def raw_label(root, index, split="train"):
    return np.array(Image.open(label_path(root, index, split)))


def samples(dataset, seed=0):
    """All samples under fixed chance, as bytes of image and label."""
    random.seed(seed)
    np.random.seed(seed)
    return [(data["img"].tobytes(), data["label"].astype(np.int32).tobytes())
            for data in (dataset[index] for index in range(len(dataset)))]


def random_transforms():
    return [RandomPaddingCrop(crop_size=(40, 40)), RandomHorizontalFlip(), Normalize()]


class Emitting(paddle.io.Dataset):
    """A data set that emits the labels it is told to, whatever its files hold."""

    mode, num_classes, ignore_index = "train", 5, 255

    def __init__(self, label, histogram=None, **extra):
        self.label, self.extra = label, extra
        if histogram is not None:
            self.label_histogram = lambda: histogram

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"img": np.zeros((3, 4, 4), np.float32), "label": self.label.copy(), **self.extra}


def without_unseen():
    histogram = np.zeros((3, 5), np.int64)
    histogram[:, [0, 1, 3]] = 5
    return histogram


# Which images are used.

def test_drop_leaves_out_exactly_the_images_with_unseen_pixels(root):
    dataset = wrapped(root)
    expected = [index for index in range(6)
                if not np.isin(raw_label(root, index), UNSEEN_IDS).any()]
    assert 0 < len(expected) < 6
    assert [pair[1] for pair in dataset.file_list] == [label_path(root, i) for i in expected]
    assert len(dataset) == len(expected)


def test_one_unseen_pixel_is_enough_to_drop(root):
    used = wrapped(root).file_list
    label = np.array(Image.open(used[0][1]))
    label[-1, -1] = 4
    write_label(used[0][1], label)
    assert wrapped(root).file_list == used[1:]


def test_an_image_is_dropped_for_any_of_its_labels(root):
    """A mask for each object: those of seen ones show the unseen object as background."""
    used = wrapped(root).file_list
    masks = []
    for value in (1, 4):
        masks.append(f"{root}/labels/object_{value}.png")
        label = np.zeros_like(np.array(Image.open(used[0][1])))
        label[value:value + 3, :5] = value
        write_label(masks[-1], label)
    with open(f"{root}/train.txt", "a") as lines:
        lines.writelines(f"{used[0][0]} {mask}\n" for mask in masks[:1])
    assert wrapped(root).file_list == [*used, [used[0][0], masks[0]]]
    with open(f"{root}/train.txt", "a") as lines:
        lines.write(f"{used[0][0]} {masks[1]}\n")
    assert wrapped(root).file_list == used[1:]
    assert wrapped(root).audit()["images_dropped"] == 9 - len(used)


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_the_inner_data_set_is_spared(root, policy):
    data = inner(root, transforms=[Normalize()])
    before = samples(data), list(data.file_list)
    ZeroShotDataset(data, UNSEEN, policy, NAMES)
    assert (samples(data), data.file_list) == before
    assert len(data) == 6 and len(data.transforms.transforms) == 1


def test_two_wrappers_of_one_data_set_do_not_meddle(root):
    data = inner(root, "val")
    hidden = ZeroShotDataset(data, UNSEEN, "ignore", NAMES, hide_unseen=True)
    whole = ZeroShotDataset(data, UNSEEN, "ignore", NAMES)
    assert not np.isin(hidden[0]["label"], UNSEEN_IDS).any()
    np.testing.assert_array_equal(whole[0]["label"][0], raw_label(root, 0, "val"))


def test_ignore_keeps_all_images_and_hides_exactly_the_unseen_labels(root):
    dataset = wrapped(root, "ignore")
    assert len(dataset) == 6
    for index in range(6):
        expected = raw_label(root, index)
        expected[(expected == 2) | (expected == 4)] = 255
        np.testing.assert_array_equal(dataset[index]["label"], expected)


def test_validation_is_untouched(root):
    dataset, plain = wrapped(root, mode="val"), inner(root, "val")
    assert samples(dataset) == samples(plain)
    assert any(np.isin(dataset[i]["label"], UNSEEN_IDS).any() for i in range(len(dataset)))


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_hide_unseen_puts_validation_under_the_policy(root, policy):
    dataset = wrapped(root, policy, "val", hide_unseen=True)
    assert len(dataset) > 0
    for index in range(len(dataset)):
        assert not np.isin(dataset[index]["label"], UNSEEN_IDS).any()


def test_mode_stands_in_for_the_inner_mode(root):
    dataset = wrapped(root, mode="train")
    assert len(ZeroShotDataset(inner(root), UNSEEN, "drop", NAMES, mode="val")) == 6
    as_training = ZeroShotDataset(inner(root, "val"), UNSEEN, "ignore", NAMES, mode="train")
    assert dataset.mode == "train" and not np.isin(as_training[0]["label"], UNSEEN_IDS).any()


@pytest.mark.parametrize("mode", ["train", "trainval", "trainaug", "context", "Anything"])
def test_every_mode_but_val_and_test_is_training(mode):
    dataset = Emitting(np.zeros((4, 4), np.uint8), without_unseen())
    dataset.mode = mode
    dataset.label[1, 1] = 2
    with pytest.raises(RuntimeError, match="must never happen"):
        ZeroShotDataset(dataset, UNSEEN, "drop", NAMES)[0]


def test_nothing_left_suggests_ignore(root):
    with pytest.raises(UserError, match="leaves none of the 6 images.*cat, dog.*policy: ignore"):
        ZeroShotDataset(inner(root), ["cat", "dog", "cow", "car"], "drop", NAMES)


def test_no_seen_pixel_left(tmp_path):
    root = make_dataset(str(tmp_path), NAMES)
    for index in range(6):
        write_label(label_path(root, index), np.full_like(raw_label(root, index), 2))
    with pytest.raises(UserError, match="no pixel of a seen class"):
        wrapped(root, "ignore")


def test_attributes(root):
    dataset = wrapped(root, "ignore")
    assert dataset.unseen_ids.tolist() == UNSEEN_IDS and dataset.seen_ids.tolist() == [0, 1, 3]
    assert (dataset.num_classes, dataset.ignore_index, dataset.img_channels) == (5, 255, 3)
    assert dataset.class_names == NAMES and dataset.transforms is dataset.dataset.transforms


def test_built_from_yaml_with_a_nested_data_set(root):
    cfg = yaml.safe_load(f"""
        type: ZeroShotDataset
        unseen: [dog, car]
        policy: ignore
        class_names: {root}/classes.txt
        dataset:
          type: Dataset
          dataset_root: {root}
          train_path: {root}/train.txt
          num_classes: 5
          mode: train
          transforms: [{{type: Normalize}}]
        """)
    dataset = SegBuilder(config=None).build_component(cfg)
    assert type(dataset) is ZeroShotDataset and isinstance(dataset.transforms.transforms[0],
                                                           Normalize)
    assert samples(dataset) == samples(wrapped(root, "ignore", transforms=[Normalize()]))


# No information about unseen classes gets into training samples.

def test_contents_of_dropped_images_change_nothing(root):
    before = samples(wrapped(root, transforms=random_transforms()))
    dropped = [index for index in range(6) if np.isin(raw_label(root, index), UNSEEN_IDS).any()]
    rng = np.random.default_rng(0)
    for index in dropped:
        shape = raw_label(root, index).shape
        noise = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"{root}/images/train_{index:04d}.jpg")
        write_label(label_path(root, index), rng.integers(1, 5, shape, dtype=np.uint8))
    assert samples(wrapped(root, transforms=random_transforms())) == before


def permute_unseen(root):
    table = np.arange(256, dtype=np.uint8)
    table[[2, 4]] = [4, 2]
    changed = 0
    for index in range(6):
        label = raw_label(root, index)
        changed += (table[label] != label).sum()
        write_label(label_path(root, index), table[label])
    return changed


@pytest.mark.parametrize("make_transforms", [
    random_transforms,
    # This crop tries again until no class is too frequent: it looks at the labels.
    lambda: [RandomPaddingCrop(crop_size=(30, 30), category_max_ratio=0.6)]])
def test_permuting_unseen_labels_changes_nothing_under_ignore(root, make_transforms):
    before = samples(wrapped(root, "ignore", transforms=make_transforms()))
    assert permute_unseen(root) > 100
    assert samples(wrapped(root, "ignore", transforms=make_transforms())) == before


def test_transforms_and_edges_never_see_unseen_labels(root):
    seen = []

    def spy(data):
        seen.append(data["label"].copy())
        return data

    dataset = ZeroShotDataset(inner(root, transforms=[spy], edge=True), UNSEEN, "ignore", NAMES)
    edges = [dataset[index]["edge"] for index in range(6)]
    assert len(seen) == 6 and not any(np.isin(label, UNSEEN_IDS).any() for label in seen)
    permute_unseen(root)
    again = [dataset[index]["edge"] for index in range(6)]
    assert all(np.array_equal(old, new) for old, new in zip(edges, again))


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_random_crops_over_many_epochs(root, policy):
    dataset = wrapped(root, policy, transforms=random_transforms())
    for _ in range(20):
        for index in range(len(dataset)):
            label = dataset[index]["label"]
            assert label.shape == (40, 40) and set(np.unique(label)) <= {0, 1, 3, 255}


def test_samples_do_not_carry_the_marker(root):
    assert set(wrapped(root, "ignore")[0]) == set(inner(root)[0])


# Labels of 16 bits and of one.

def rewrite_labels(root, change):
    for split, number in (("train", 6), ("val", 4)):
        for index in range(number):
            label = change(raw_label(root, index, split))
            Image.fromarray(label).save(label_path(root, index, split),
                                        "TIFF" if label.dtype == np.int32 else "PNG")


def all_transforms():
    """Whatever of PaddleSeg changes a label by OpenCV."""
    return [ResizeStepScaling(), RandomRotation(), RandomScaleAspect(), RandomAffine(),
            RandomVerticalFlip(), *random_transforms()]


@pytest.mark.parametrize("policy", ["drop", "ignore"])
@pytest.mark.parametrize("mode", ["train", "val"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_ids_are_those_of_8_bit_labels(root, policy, mode, dtype):
    def one():
        # Validation takes the label as it is.
        transforms = all_transforms() if mode == "train" else [Normalize()]
        dataset = wrapped(root, policy, mode, transforms)
        assert {dataset[index]["label"].dtype for index in range(len(dataset))} == {
            np.dtype(np.int32)}
        return samples(dataset)

    before = one()
    rewrite_labels(root, lambda label: label.astype(dtype))
    assert raw_label(root, 0).dtype != np.uint8
    assert one() == before


def test_more_classes_than_eight_bits_hold(root):
    names = ["background", *(f"class {index}" for index in range(1, 300))]
    rewrite_labels(root, lambda label: np.where(
        label == 255, 65535, label.astype(np.uint16) * 70).astype(np.uint16))
    data = inner(root, transforms=[RandomPaddingCrop((90, 90), label_padding_value=65535)],
                 num_classes=300, ignore_index=65535)
    dataset = ZeroShotDataset(data, ["class 210"], "ignore", names)
    loader = paddle.io.DataLoader(dataset, batch_size=6)
    [labels] = [batch["label"].numpy() for batch in loader]
    assert set(np.unique(labels)) == {0, 70, 140, 280, 65535}


def test_labels_of_one_bit(root):
    rewrite_labels(root, lambda label: (label == 1) | (label == 2))
    dataset = wrapped(root, "drop", transforms=all_transforms())
    assert raw_label(root, 0).dtype == bool
    for _ in range(5):
        for index in range(len(dataset)):
            assert set(np.unique(dataset[index]["label"])) <= {0, 1, 255}
    validation = wrapped(root, mode="val")
    for index in range(len(validation)):
        np.testing.assert_array_equal(np.squeeze(validation[index]["label"]),
                                      raw_label(root, index, "val").astype(int))
    pixels = sum(raw_label(root, index, "val").size for index in range(4))
    assert validation.labels_drawn() == {"samples": 4, "pixels_seen": pixels,
                                         "pixels_unlabelled": 0, "pixels_unseen": 0}


@pytest.mark.parametrize("value, fits", [(255, True), (3, True), (2, False), (254, False),
                                         ([0, 0], False)])
def test_padding_is_ignored_or_seen(root, value, fits):
    def make():
        return wrapped(root, transforms=[RandomPaddingCrop((90, 90), label_padding_value=value)])

    if fits:
        assert make()[0]["label"][-1, -1] == value
    else:
        with pytest.raises(UserError, match=f"`label_padding_value: {re.escape(str(value))}` of "
                                            f"RandomPaddingCrop.*set it to 255"):
            make()


def test_the_default_padding_may_be_one_of_many_classes(root):
    names = [f"class {index}" for index in range(300)]

    def make(**padding):
        data = inner(root, transforms=[RandomPaddingCrop((90, 90), **padding)], num_classes=300,
                     ignore_index=65535)
        return ZeroShotDataset(data, ["class 4"], "ignore", names)

    with pytest.raises(UserError, match="`label_padding_value: 255` of RandomPaddingCrop is "
                                        "PaddleSeg's own, but one of the classes.*to 65535"):
        make()
    assert make(label_padding_value=65535)[0]["label"][-1, -1] == 65535


def through(transform, label):
    """The ids that a label has after ``transform``."""
    image = np.zeros((*label.shape, 3), np.float32)
    return set(np.unique(transform({"img": image, "label": label, "trans_info": [],
                                    "gt_fields": ["label"]})["label"]))


def test_a_label_that_is_padded_to_a_square_keeps_its_ids(root):
    """PaddleSeg's own ScalePadding blends them; see test_compat.py."""
    checks = np.kron(np.eye(2, dtype=np.uint8) * 4, np.ones((9, 9), np.uint8))
    assert through(ScalePadding((32, 32)), checks) == {0, 4}
    dataset = wrapped(root, "ignore", transforms=[ScalePadding((32, 32))])
    assert set().union(*(np.unique(dataset[index]["label"]) for index in range(6))) == {
        0, 1, 3, 255}


def test_transforms_of_8_bit_labels_are_refused_where_there_are_more(root):
    affine = RandomAffine((32, 32), label_padding_value=65535)
    assert 300 not in through(affine, np.full((32, 32), 300, np.uint16))
    wrapped(root, transforms=[RandomAffine((32, 32))])
    names = [f"class {index}" for index in range(300)]
    with pytest.raises(UserError, match="RandomAffine cuts labels to 8 bits, and 300 classes with "
                                        "`ignore_index: 65535` need"):
        ZeroShotDataset(inner(root, transforms=[affine], num_classes=300, ignore_index=65535),
                        ["class 4"], "ignore", names)


def test_no_class_has_the_label_that_is_ignored(root):
    labels = [f"label {index}" for index in range(300)]
    labels[:5] = NAMES
    wrapped(root, "ignore", label_names=labels)  # label 255 is of no class
    labels[255], labels[3] = labels[3], labels[255]
    with pytest.raises(UserError, match="`ignore_index: 255` of Dataset is the label of cow by "
                                        "`label_names`; set it to .*65535"):
        wrapped(root, "ignore", label_names=labels)


# What is counted on the way out.

@pytest.mark.parametrize("num_workers", [0, 2])
def test_drawn_labels_are_counted(root, num_workers):
    dataset = wrapped(root, "ignore", transforms=random_transforms())
    dataset.drawn.clear()
    loader = paddle.io.DataLoader(dataset, batch_size=3, num_workers=num_workers)
    labels = np.concatenate([batch["label"].numpy() for _ in range(2) for batch in loader])
    expected = [*((labels == class_id).sum() for class_id in range(5)), (labels == 255).sum(), 12]
    assert dataset.drawn.counts().tolist() == expected and expected[2] == expected[4] == 0
    dataset.drawn.clear()
    assert not dataset.drawn.counts().any()


# Transforms that see the labels first.

def interpolate(data):
    """A plain callable: reads the files and turns cars next to the background into dogs."""
    data["img"] = np.zeros((3, 64, 64), np.float32)
    label = np.array(Image.open(data["label"])) if isinstance(data["label"], str) else data["label"]
    data["label"] = np.array(Image.fromarray(label.astype(np.uint8)).resize((64, 64),
                                                                            Image.BILINEAR))
    return data


def test_plain_callable_before_the_policy_is_refused(root):
    data = inner(root)
    data.transforms = interpolate
    with pytest.raises(UserError, match="transforms.*of Dataset.*make them PaddleSeg's Compose"):
        ZeroShotDataset(data, UNSEEN, "ignore", NAMES)


def test_transforms_that_read_the_label_themselves_are_refused(root):
    class Lazy(Dataset):
        def __getitem__(self, index):
            data = dict(zip(("img", "label"), self.file_list[index]))
            for transform in self.transforms.transforms:
                data = transform(data)
            return data

    data = Lazy("train", root, [interpolate], 5, train_path=f"{root}/train.txt")
    with pytest.raises(UserError, match="transforms.*of Lazy"):
        ZeroShotDataset(data, UNSEEN, "ignore", NAMES)[0]


# The guard.

def test_guard_stops_an_inner_data_set_that_lies_under_drop():
    label = np.zeros((4, 4), np.uint8)
    label[3, 3] = 2
    dataset = ZeroShotDataset(Emitting(label, without_unseen()), UNSEEN, "drop", NAMES)
    with pytest.raises(RuntimeError, match="must never happen.*sample 1.*dog"):
        dataset[1]


def test_guard_names_the_file(root):
    class Lying(Dataset):
        def __getitem__(self, index):
            data = super().__getitem__(index)
            data["label"][0, 0] = 4
            return data

        @property
        def class_names(self):
            return NAMES

    def writable(data):
        data["label"] = data["label"].copy()
        return data

    for policy in ("drop", "ignore"):
        lying = Lying("train", root, [writable], 5, train_path=f"{root}/train.txt")
        dataset = ZeroShotDataset(lying, UNSEEN, policy)
        with pytest.raises(RuntimeError, match=f"must never happen.*{dataset.file_list[0][1]}"):
            dataset[0]


def test_guard_stops_a_transform_that_brings_an_unseen_label_back(root):
    def restore(data):
        data["label"] = np.full_like(data["label"], 2)
        return data

    with pytest.raises(RuntimeError, match="unseen class dog .policy: ignore"):
        wrapped(root, "ignore", transforms=[restore])[0]


def test_guard_notices_a_file_changed_after_the_scan(root):
    dataset = wrapped(root)
    write_label(dataset.file_list[0][1], np.full((64, 64), 2, np.uint8))
    with pytest.raises(RuntimeError, match="must never happen"):
        dataset[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_data_sets_without_transforms_are_remapped_afterwards(dtype):
    label = np.array([[0, 1, 2], [3, 4, 255]], dtype)
    dataset = ZeroShotDataset(Emitting(label), UNSEEN, "ignore", NAMES)
    np.testing.assert_array_equal(dataset[0]["label"], [[0, 1, 255], [3, 255, 255]])
    assert dataset[0]["label"].dtype == np.int32


class Pairs(Emitting):
    def __getitem__(self, index):
        return 1, 2


class Negative(Emitting):
    ignore_index = -1


@pytest.mark.parametrize("data, policy, error, match", [
    # Edges that were made before labels are hidden.
    (Emitting(np.zeros((4, 4), np.uint8), edge=np.zeros((4, 4))), "ignore", RuntimeError, "edges"),
    (Emitting(np.zeros((4, 4), np.uint8)), "drop", UserError, "Emitting.*policy: ignore"),
    (Emitting(np.zeros((4, 4)), np.zeros((3, 4))), "drop", UserError,
     r"label_histogram.*\[3, 4\].*3 images by 5 classes"),
    (Pairs(np.zeros(1), np.eye(3, 5)), "ignore", UserError, "Pairs gives samples of type tuple"),
    (Negative(np.zeros((4, 4), np.int64)), "ignore", UserError,
     "`ignore_index` from 0 to 65535, got -1"),
])
def test_data_sets_that_do_not_serve(data, policy, error, match):
    with pytest.raises(error, match=match):
        ZeroShotDataset(data, UNSEEN, policy, NAMES)[0]


def test_label_histogram_of_procedural_data_sets():
    histogram = without_unseen()
    histogram[1, 4] = 1
    data = Emitting(np.zeros((4, 4), np.uint8), histogram)
    dataset = ZeroShotDataset(data, UNSEEN, "drop", NAMES)
    assert len(dataset) == 2 and dataset.audit()["images_dropped"] == 1
    assert dataset.file_list == []


@pytest.mark.parametrize("value, dtype", [(5, np.uint8), (254, np.uint8), (-1, np.int64),
                                          (300, np.int64)])
@pytest.mark.parametrize("mode", ["train", "val"])
def test_label_outside_the_classes(mode, value, dtype):
    label = np.zeros((4, 4), dtype)
    label[0, 0] = value
    data = Emitting(label, without_unseen())
    data.mode = mode
    with pytest.raises(UserError, match=f"sample 2 holds {value}, but with 5 classes.*0 to 4"):
        ZeroShotDataset(data, UNSEEN, "drop", NAMES)[2]


# Arguments.

@pytest.mark.parametrize("arguments, message", [
    (("skip", NAMES), "policy: skip.*drop or ignore"),
    (("drop", NAMES[:4]), "4 names for the 5 classes of Dataset"),
    ((), "type: Dataset"),  # no names are built in
])
def test_bad_arguments(root, arguments, message):
    with pytest.raises(UserError, match=message):
        ZeroShotDataset(inner(root), UNSEEN, *arguments)


def test_class_names_from_the_file_beside_the_data(root):
    dataset = ZeroShotDataset(inner(root), "dog, car", "drop", os.path.join(root, "classes.txt"))
    assert dataset.class_names == NAMES and dataset.unseen_ids.tolist() == UNSEEN_IDS


# The stock data sets.

@pytest.mark.parametrize("mode, number", [("train", 6), ("trainval", 10), ("trainaug", 8)])
def test_pascal_voc(tmp_path, mode, number):
    data = PascalVOC([], make_voc(str(tmp_path)), mode)
    assert len(data) == number
    dataset = ZeroShotDataset(data, ["cow", "motorbike"], "ignore")
    assert dataset.unseen_ids.tolist() == [10, 14] and len(dataset) == number
    histogram = np.zeros(21, int)
    for index in range(number):
        values, counts = np.unique(dataset[index]["label"], return_counts=True)
        assert not np.isin([10, 14], values).any()
        histogram[values[values < 21]] += counts[values < 21]
    assert np.flatnonzero(histogram == 0).tolist() == [10, 14]


def test_pascal_context_drops(tmp_path):
    data = PascalContext([], make_context(str(tmp_path)), "train")
    dataset = ZeroShotDataset(data, ["cow", "motorbike"])
    assert 0 < len(dataset) < len(data)
    assert len(ZeroShotDataset(PascalContext([], data.dataset_root, "val"), ["cow"])) == 4


@pytest.mark.parametrize("policy", ["drop", "ignore"])
@pytest.mark.parametrize("mode, folder", [("train", "training"), ("val", "validation")])
def test_ade20k_counts_from_one_in_the_files(tmp_path, policy, mode, folder):
    for kind in ("images", "annotations"):
        os.makedirs(tmp_path / kind / folder)
    for name, class_id in (("a", 0), ("b", 4), ("c", 20)):
        label = np.zeros((8, 8), np.uint8)
        label[2:] = class_id + 1
        Image.fromarray(label).save(tmp_path / "annotations" / folder / f"{name}.png")
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / folder / f"{name}.jpg")
    dataset = ZeroShotDataset(ADE20K([], str(tmp_path), mode), ["car"], policy, hide_unseen=True)
    found = {os.path.basename(pair[1]): set(np.unique(dataset[index]["label"]).tolist())
             for index, pair in enumerate(dataset.file_list)}
    expected = {"a.png": {0, 255}, "b.png": {4, 255}, "c.png": {255}}
    if policy == "drop":
        del expected["c.png"]
    assert found == expected


# The audit.

def test_audit_against_the_files(root):
    labels = [raw_label(root, index) for index in range(6)]
    pixels = {value: sum(int((label == value).sum()) for label in labels)
              for value in (0, 1, 2, 3, 4, 255)}
    assert wrapped(root, "ignore").audit() == {
        "policy": "ignore", "images_total": 6, "images_used": 6, "images_dropped": 0,
        "pixels_seen": pixels[0] + pixels[1] + pixels[3], "pixels_unlabelled": pixels[255],
        "pixels_ignored_unseen": pixels[2] + pixels[4], "pixels_unseen_used": 0,
        "seen_classes_absent": []}


def test_audit_under_drop_counts_what_is_used(root):
    dataset = wrapped(root)
    used = [np.array(Image.open(pair[1])) for pair in dataset.file_list]
    audit = dataset.audit()
    assert audit["images_used"] + audit["images_dropped"] == audit["images_total"] == 6
    assert audit["pixels_seen"] == sum((label != 255).sum() for label in used)
    assert audit["pixels_ignored_unseen"] == audit["pixels_unseen_used"] == 0
    present = np.unique(np.concatenate([label.ravel() for label in used]))
    assert audit["seen_classes_absent"] == [NAMES[c] for c in (0, 1, 3) if c not in present]


def test_audit_of_validation_admits_unseen_pixels(root):
    audit = wrapped(root, mode="val").audit()
    labels = [raw_label(root, index, "val") for index in range(4)]
    assert audit["policy"] == "none"
    assert audit["pixels_unseen_used"] == sum(np.isin(label, UNSEEN_IDS).sum() for label in labels)


def test_audit_without_a_scan():
    audit = ZeroShotDataset(Emitting(np.zeros((4, 4), np.uint8)), UNSEEN, "ignore", NAMES).audit()
    assert audit == {"policy": "ignore", "images_total": 3, "images_used": 3, "images_dropped": 0}


# Files that break between the scan and the reading, and in validation, which is not scanned.

@pytest.mark.parametrize("mode", ["train", "val"])
@pytest.mark.parametrize("item, content, match", [
    (0, None, "image .*_0001.jpg cannot be read"), (1, None, "label .*_0001.png cannot be read"),
    (0, b"no picture", "_0001.jpg cannot be read")])
def test_reading_names_what_is_broken(root, mode, item, content, match):
    dataset = wrapped(root, "ignore", mode)
    damage(dataset.file_list[1][item], content)
    with pytest.raises(UserError, match=match):
        dataset[1]


def test_transforms_that_fail_on_an_image_are_named_with_it(root):
    dataset = wrapped(root, transforms=[Padding(target_size=[8, 8])])
    with pytest.raises(UserError, match=r"`transforms`: Padding fails on .*\.png \(.*size"):
        dataset[0]


def test_faults_of_transforms_surface_as_they_are(root):
    def faulty(data):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        wrapped(root, transforms=[faulty])[0]


def test_workers_of_a_loader(root):
    dataset = wrapped(root, "ignore", transforms=random_transforms())
    loader = paddle.io.DataLoader(dataset, batch_size=3, num_workers=2)
    labels = np.concatenate([batch["label"].numpy() for batch in loader])
    assert labels.shape == (6, 40, 40) and not np.isin(labels, UNSEEN_IDS).any()
