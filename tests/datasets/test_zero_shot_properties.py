"""ZeroShotDataset against a loop over the pixels, on whatever labels Hypothesis thinks of."""

import os

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from paddleseg.datasets import ADE20K, Dataset
from PIL import Image

from helpers.fabricated import make_dataset, read_label, write_label
from paddle_csrl.datasets.zero_shot import DrawnLabels, ZeroShotDataset, class_of_labels
from paddle_csrl.errors import UserError

CLASSES = ["sky", "cat", "dog", "tree"]
#: Names by label id: of the classes, in any order, and of what is no class.
label_tables = st.permutations([*CLASSES, "road", "Cat fish"]).flatmap(
    lambda names: st.integers(1, 6).map(lambda number: names[:number]))


class Arrays(paddle.io.Dataset):
    """Labels from memory, with or without a count of their ids."""

    ignore_index = 255

    def __init__(self, labels, num_labels, mode="train", counted=True):
        self.labels, self.num_classes, self.mode = labels, len(CLASSES), mode
        if counted:
            self.label_histogram = lambda: [[(label == label_id).sum() for label_id in
                                             range(num_labels)] for label in labels]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"img": np.full((3, 2, 3), index, np.float32), "label": self.labels[index].copy()}


@st.composite
def situations(draw):
    """Labels [2, 3] each, names of their ids (or none), unseen classes."""
    names = draw(st.none() | label_tables)
    ids = st.sampled_from([*range(len(names or CLASSES)), 255])
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
    labels = [draw(arrays(dtype, (2, 3), elements=ids)) for _ in range(draw(st.integers(1, 4)))]
    unseen = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
    return labels, names, unseen


def as_classes(labels, names):
    """Each label as names of classes, None where there is none."""
    names = names or CLASSES
    return [[[names[label_id] if label_id != 255 and names[label_id] in CLASSES else None
              for label_id in row] for row in label.tolist()] for label in labels]


def pixels(images, names):
    return sum(pixel in names for image in images for row in image for pixel in row)


@pytest.mark.parametrize("policy", ["drop", "ignore"])
@pytest.mark.parametrize("mode, hide", [("train", False), ("val", True), ("val", False)])
@given(situation=situations())
def test_samples_and_counts_against_a_loop(policy, mode, hide, situation):
    labels, names, unseen = situation
    seen = [name for name in CLASSES if name not in unseen]
    whole = as_classes(labels, names)
    under_policy = mode == "train" or hide
    used = [index for index, image in enumerate(whole)
            if not under_policy or policy == "ignore" or not pixels([image], unseen)]
    images = [whole[index] for index in used]

    def make():
        return ZeroShotDataset(Arrays(labels, len(names or CLASSES), mode), unseen, policy,
                               CLASSES, names, hide_unseen=hide)

    if under_policy and (not used or not pixels(images, seen)):
        with pytest.raises(UserError, match="leaves none|hold no pixel of a seen class"):
            make()
        return
    dataset = make()
    assert len(dataset) == len(used)
    hidden = under_policy and policy == "ignore"

    def given_out(pixel):
        return 255 if pixel is None or hidden and pixel in unseen else CLASSES.index(pixel)

    expected = [[[given_out(pixel) for pixel in row] for row in image] for image in images]
    for sample, (index, label) in enumerate(zip(used, expected)):
        data = dataset[sample]
        assert data["img"].max() == index and data["label"].dtype == np.int32
        assert data["label"].tolist() == label if under_policy or names else True
    audit = dataset.audit()
    assert audit == {
        "policy": policy if under_policy else "none", "images_total": len(labels),
        "images_used": len(used), "images_dropped": len(labels) - len(used),
        "pixels_seen": pixels(images, seen),
        # Such data sets tell of classes alone.
        "pixels_unlabelled": pixels(images, [None]) - sum(
            int((labels[index] == 255).sum()) for index in used),
        "pixels_ignored_unseen": pixels(images, unseen) if hidden else 0,
        "pixels_unseen_used": 0 if hidden else pixels(images, unseen),
        "seen_classes_absent": [name for name in seen if not pixels(images, [name])]}
    assert dataset.class_pixels().tolist() == [[pixels([image], [name]) for name in CLASSES]
                                               for image in images]
    assert dataset.leaked_label_counts().tolist() == [
        [pixels([image], [name]) for name in CLASSES] for image in whole]
    given = np.array([dataset[index]["label"] for index in range(len(dataset))])
    assert dataset.drawn.counts().tolist() == [
        *(2 * (given == class_id).sum() for class_id in range(4)), 2 * (given == 255).sum(),
        2 * len(dataset)]


@given(situations())
def test_what_cannot_be_counted_is_ignored_all_the_same(situation):
    labels, names, unseen = situation
    data = Arrays(labels, 0, counted=False)
    with pytest.raises(UserError, match="cannot tell which images.*Arrays"):
        ZeroShotDataset(data, unseen, "drop", CLASSES, names)
    dataset = ZeroShotDataset(data, unseen, "ignore", CLASSES, names)
    for sample, image in enumerate(as_classes(labels, names)):
        assert dataset[sample]["label"].tolist() == [
            [255 if pixel is None or pixel in unseen else CLASSES.index(pixel) for pixel in row]
            for row in image]
    assert len(dataset) == len(labels) and dataset.class_pixels() is None
    with pytest.raises(UserError, match="legacy.*Arrays"):
        dataset.leaked_label_counts()


@pytest.mark.parametrize("label_id", [5, -1, 300])
def test_labels_without_a_name_are_refused_where_they_cannot_be_counted(label_id):
    labels = [np.array([[0, label_id]])]
    dataset = ZeroShotDataset(Arrays(labels, 0, counted=False), ["dog"], "ignore", CLASSES,
                              ["sky", "cat", "dog", "tree", "road"])
    with pytest.raises(UserError, match=f"sample 0 holds {label_id}, but with 5 classes"):
        dataset[0]


def test_unlabelled_is_255_where_a_data_set_does_not_say(monkeypatch):
    monkeypatch.delattr(Arrays, "ignore_index")
    dataset = ZeroShotDataset(Arrays([np.array([[0, 255, 2]])], 4), ["dog"], "ignore", CLASSES)
    assert dataset.ignore_index == 255 and dataset[0]["label"].tolist() == [[0, 255, 255]]


@given(label_tables, st.sampled_from([255, 65535]))
def test_labels_mean_the_class_of_their_name(names, ignore_index):
    spelled = [name.upper().replace(" ", "_") for name in names]
    table = class_of_labels(CLASSES, spelled, ignore_index)
    assert table.dtype == np.int64
    assert table.tolist() == [CLASSES.index(name) if name in CLASSES else ignore_index
                              for name in names]
    assert class_of_labels(CLASSES, None, ignore_index) is None


@given(st.lists(st.lists(st.integers(-2, 7), unique=True, max_size=6), max_size=4))
def test_drawn_labels_add_up(batches):
    drawn = DrawnLabels(5)
    for values in batches:
        drawn.add(np.array(values, int), np.arange(1, len(values) + 1))
    pairs = [(value, place) for values in batches for place, value in enumerate(values, 1)]
    expected = [sum(count for value, count in pairs if value == class_id) for class_id in range(5)]
    rest = sum(count for value, count in pairs if not 0 <= value < 5)
    assert drawn.counts().tolist() == [*expected, rest, len(batches)]
    drawn.clear()
    assert not drawn.counts().any() and len(drawn.counts()) == 7


# The same from files.

NAMES = ["background", "cat", "dog", "cow", "car"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    return make_dataset(str(tmp_path), NAMES)


def wrapped(root, policy, mode="train", **options):
    data = Dataset(mode, root, [], 5, train_path=f"{root}/train.txt", val_path=f"{root}/val.txt")
    return ZeroShotDataset(data, ["cow"], policy, **options)


def labels_of(root, split="train", number=6):
    return [read_label(f"{root}/labels/{split}_{index:04d}.png") for index in range(number)]


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_label_files_under_other_ids(root, policy):
    classes = ["cow", "background", "dog", "moon"]
    dataset = wrapped(root, policy, class_names=classes, label_names=f"{root}/classes.txt")
    files = labels_of(root)
    table = np.array([1, 255, 2, 0, 255])  # background, cat, dog, cow, car; the moon has no label
    made = [np.where(label == 255, 255, table[label % 255]) for label in files]
    used = [index for index, label in enumerate(made) if policy == "ignore" or 0 not in label]
    assert 0 < len(used) and len(dataset) == len(used)
    assert dataset.file_list == [dataset.dataset.file_list[index] for index in used]
    for sample, index in enumerate(used):
        expected = np.where(made[index] == 0, 255, made[index])
        np.testing.assert_array_equal(dataset[sample]["label"], expected)
    audit = dataset.audit()
    kept = [made[index] for index in used]
    assert audit["pixels_seen"] == sum(np.isin(label, [1, 2, 3]).sum() for label in kept)
    assert audit["pixels_unlabelled"] == sum((label == 255).sum() for label in kept)
    assert audit["pixels_ignored_unseen"] == sum((label == 0).sum() for label in kept)
    assert audit["seen_classes_absent"] == ["moon"]


def test_labels_that_have_no_name_are_refused(root):
    label = labels_of(root)[2]
    label[0, 0] = 5
    write_label(f"{root}/labels/train_0002.png", label)
    with pytest.raises(UserError, match="train_0002.png holds 5, but with 5 classes"):
        wrapped(root, "ignore", class_names=NAMES[:4], label_names=NAMES)


@pytest.mark.parametrize("policy", ["drop", "ignore"])
def test_unlabelled_images_are_those_with_something_hidden(root, policy):
    files = labels_of(root)
    for index in (0, 1):  # one whole, one with a pixel that has no class
        label = np.where(np.isin(files[index], [3, 255]), 1, files[index])
        label[0, 0] = 1 if index == 0 else 255
        write_label(f"{root}/labels/train_{index:04d}.png", label)
    files = labels_of(root)
    hides = [(label == 3).any() or policy == "ignore" and (label == 255).any() for label in files]
    assert not hides[0] and hides[1] == (policy == "ignore") and any(hides)
    dataset = wrapped(root, policy, class_names=NAMES)
    assert dataset.unlabelled_images == [f"{root}/images/train_{index:04d}.jpg"
                                         for index in range(6) if hides[index]]


def test_nothing_hidden_is_nothing_to_learn_from(root):
    for index, label in enumerate(labels_of(root)):
        write_label(f"{root}/labels/train_{index:04d}.png", np.where(label == 3, 1, label % 255))
    dataset = wrapped(root, "drop", class_names=NAMES)
    with pytest.raises(UserError, match="no training image shows an unseen class"):
        dataset.unlabelled_images


def test_ade20k_counts_unlabelled_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    for kind in ("images", "annotations"):
        os.makedirs(tmp_path / kind / "training")
    label = np.zeros((6, 8), np.uint8)
    label[1:3], label[3:4] = 1, 150  # the first class, and the last
    Image.fromarray(label).save(tmp_path / "annotations" / "training" / "a.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "training" / "a.jpg")
    dataset = ZeroShotDataset(ADE20K([], str(tmp_path), "train"), ["car"], "ignore")
    counts = dataset.class_pixels()
    assert counts.shape == (1, 150) and counts[0, 0] == 16 and counts[0, 149] == 8
    assert counts.sum() == 24 and dataset.audit()["pixels_unlabelled"] == 24


@pytest.mark.parametrize("ignore_index", [0, 4, 5, 254])
def test_ignore_index_is_no_class(root, ignore_index):
    data = Dataset("train", root, [], 5, train_path=f"{root}/train.txt",
                   ignore_index=ignore_index)
    for index, label in enumerate(labels_of(root)):
        write_label(f"{root}/labels/train_{index:04d}.png",
                    np.where(label == 255, ignore_index, label))
    if ignore_index < 5:
        with pytest.raises(UserError, match=f"`ignore_index: {ignore_index}` of Dataset is one of "
                                            "its 5 classes"):
            ZeroShotDataset(data, ["cow"], "ignore", NAMES)
        return
    dataset = ZeroShotDataset(data, ["cow"], "ignore", NAMES)
    label = labels_of(root)[0]
    np.testing.assert_array_equal(dataset[0]["label"], np.where(label == 3, ignore_index, label))
