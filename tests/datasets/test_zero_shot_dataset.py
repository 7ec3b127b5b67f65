"""ZeroShotDataset: what gets into training, and what must not, under attack."""

import os
import random

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import SegBuilder
from paddleseg.datasets import ADE20K, Dataset, PascalContext, PascalVOC
from paddleseg.transforms import Normalize, RandomHorizontalFlip, RandomPaddingCrop
from PIL import Image

from helpers.fabricated import make_context, make_dataset, make_voc, write_label
from paddle_csrl.datasets import label_scan
from paddle_csrl.datasets.label_scan import fingerprint, scan_labels
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
    return [(data["img"].tobytes(), data["label"].tobytes())
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


def test_dropping_spares_the_inner_data_set(root):
    data = inner(root)
    before = list(data.file_list)
    ZeroShotDataset(data, UNSEEN, "drop", NAMES)
    assert data.file_list == before and len(data) == 6


def test_ignoring_spares_the_inner_data_set(root):
    data = inner(root, transforms=[Normalize()])
    before = samples(data)
    ZeroShotDataset(data, UNSEEN, "ignore", NAMES)
    assert samples(data) == before and len(data.transforms.transforms) == 1


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_data_sets_without_transforms_are_remapped_afterwards(dtype):
    label = np.array([[0, 1, 2], [3, 4, 255]], dtype)
    dataset = ZeroShotDataset(Emitting(label), UNSEEN, "ignore", NAMES)
    np.testing.assert_array_equal(dataset[0]["label"], [[0, 1, 255], [3, 255, 255]])
    assert dataset[0]["label"].dtype == dtype


def test_edges_that_were_made_before_the_remap_are_refused():
    data = Emitting(np.zeros((4, 4), np.uint8), edge=np.zeros((4, 4)))
    with pytest.raises(RuntimeError, match="edges"):
        ZeroShotDataset(data, UNSEEN, "ignore", NAMES)[0]


def test_drop_needs_to_know_the_labels():
    with pytest.raises(UserError, match="Emitting.*policy: ignore"):
        ZeroShotDataset(Emitting(np.zeros((4, 4), np.uint8)), UNSEEN, "drop", NAMES)


def test_label_histogram_of_procedural_data_sets():
    histogram = without_unseen()
    histogram[1, 4] = 1
    data = Emitting(np.zeros((4, 4), np.uint8), histogram)
    dataset = ZeroShotDataset(data, UNSEEN, "drop", NAMES)
    assert len(dataset) == 2 and dataset.audit()["images_dropped"] == 1
    assert dataset.file_list == []


def test_label_histogram_of_the_wrong_shape():
    with pytest.raises(UserError, match=r"label_histogram.*\[3, 4\].*3 images by 5 classes"):
        ZeroShotDataset(Emitting(np.zeros((4, 4)), np.zeros((3, 4))), UNSEEN, "drop", NAMES)


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


def test_samples_that_are_no_dicts():
    class Pairs(Emitting):
        def __getitem__(self, index):
            return 1, 2

    with pytest.raises(UserError, match="Pairs gives samples of type tuple"):
        ZeroShotDataset(Pairs(np.zeros(1), without_unseen()), UNSEEN, "drop", NAMES)[0]


# Arguments.

def test_unknown_policy(root):
    with pytest.raises(UserError, match="policy: skip.*drop or ignore"):
        wrapped(root, "skip")


def test_number_of_class_names(root):
    with pytest.raises(UserError, match="4 names for the 5 classes of Dataset"):
        ZeroShotDataset(inner(root), UNSEEN, "drop", NAMES[:4])


def test_class_names_from_the_file_beside_the_data(root):
    dataset = ZeroShotDataset(inner(root), "dog, car", "drop", os.path.join(root, "classes.txt"))
    assert dataset.class_names == NAMES and dataset.unseen_ids.tolist() == UNSEEN_IDS


def test_data_set_type_without_built_in_names(root):
    with pytest.raises(UserError, match="type: Dataset"):
        ZeroShotDataset(inner(root), UNSEEN)


def test_ignore_index_that_no_label_file_can_hold():
    data = Emitting(np.zeros((4, 4), np.int64))
    data.ignore_index = -1
    with pytest.raises(UserError, match="`ignore_index` from 0 to 255, got -1"):
        ZeroShotDataset(data, UNSEEN, "ignore", NAMES)


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


# The label scan.

@pytest.fixture
def decodes(monkeypatch):
    """The paths of the labels decoded, as they are."""
    paths, read = [], label_scan.read_label

    def counting(path, *args):
        paths.append(path)
        return read(path, *args)

    monkeypatch.setattr(label_scan, "read_label", counting)
    return paths


def test_scan_against_numpy(root):
    files = inner(root).file_list
    scan = scan_labels(files, 5)
    counts = scan.counts.toarray()
    for index, (_, path) in enumerate(files):
        label = np.array(Image.open(path))
        assert counts[index].tolist() == [(label == value).sum() for value in range(5)]
        assert scan.unlabelled[index] == (label == 255).sum()
    assert scan.counts.dtype == np.int64 and scan.counts.shape == (6, 5)


def test_second_scan_decodes_nothing(root, decodes):
    files = inner(root).file_list
    first = scan_labels(files, 5)
    assert sorted(decodes) == sorted(path for _, path in files)
    second = scan_labels(files, 5)
    assert len(decodes) == 6
    np.testing.assert_array_equal(first.counts.toarray(), second.counts.toarray())
    np.testing.assert_array_equal(first.unlabelled, second.unlabelled)


def test_scan_is_done_again_when_a_file_changes(root, decodes):
    files = inner(root).file_list
    scan_labels(files, 5)
    label = np.array(Image.open(files[2][1]))
    label[5, 5] = 255 if label[5, 5] != 255 else 0
    write_label(files[2][1], label)
    assert scan_labels(files, 5).unlabelled[2] == (label == 255).sum()
    assert len(decodes) == 12


def test_scans_with_other_options_are_kept_apart(root, decodes):
    files = inner(root).file_list
    scan_labels(files, 5)
    with pytest.raises(UserError, match="holds 255, but with 5 classes"):
        scan_labels(files, 5, ignore_index=254)
    assert scan_labels(files, 6).counts.shape == (6, 6)
    decodes.clear()
    assert scan_labels(files, 5).counts.shape == (6, 5) and decodes == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_cache_is_done_again(root, tmp_path, decodes, damage):
    files = inner(root).file_list
    first = scan_labels(files, 5)
    [path] = (tmp_path / "cache").glob("labels_*.npz")
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2] if damage is None else damage)
    again = scan_labels(files, 5).counts
    np.testing.assert_array_equal(again.toarray(), first.counts.toarray())
    assert len(decodes) == 12
    scan_labels(files, 5)
    assert len(decodes) == 12


def test_cache_that_cannot_be_written_is_no_obstacle(root, tmp_path):
    (tmp_path / "file").write_text("")
    scan = scan_labels(inner(root).file_list, 5, cache_dir=str(tmp_path / "file" / "below"))
    assert scan.counts.sum() > 0


def test_cache_dir_goes_before_the_environment(root, tmp_path):
    scan_labels(inner(root).file_list, 5, cache_dir=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine").glob("*.npz"))) == 1 and not (tmp_path / "cache").exists()


def test_default_cache_is_below_the_current_folder(root, tmp_path, monkeypatch):
    monkeypatch.delenv("PADDLE_CSRL_CACHE")
    monkeypatch.chdir(tmp_path)
    scan_labels(inner(root).file_list, 5)
    assert len(list((tmp_path / ".cache" / "paddle_csrl").glob("*.npz"))) == 1


def test_fingerprint(root, tmp_path):
    files = inner(root).file_list
    first = fingerprint(files)
    assert first == fingerprint(files) and len(first) == 64
    assert fingerprint(files[1:]) != first and fingerprint(files[::-1]) != first
    moved = str(tmp_path / "moved")
    os.rename(root, moved)
    files = [[path.replace(root, moved) for path in pair] for pair in files]
    assert fingerprint(files) == first
    status = os.stat(files[0][0])
    os.utime(files[0][0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint(files) != first
    assert fingerprint([]) == fingerprint([])


def cut(path, share=0.6):
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.truncate(int(size * share))


def one_line(error):
    return "\n" not in str(error.value)


def test_scan_names_a_missing_image(root):
    os.remove(f"{root}/images/train_0001.jpg")
    with pytest.raises(UserError, match="no image at .*train_0001.jpg.*dataset_root") as error:
        wrapped(root)
    assert one_line(error)


def test_scan_names_a_missing_label(root):
    os.remove(label_path(root, 1))
    with pytest.raises(UserError, match="no label at .*train_0001.png"):
        wrapped(root, "ignore")


def test_scan_names_a_cut_jpeg(root):
    cut(f"{root}/images/train_0003.jpg")
    with pytest.raises(UserError, match="image .*train_0003.jpg cannot be read.*truncated"):
        wrapped(root)


def test_scan_names_a_cut_png(root):
    cut(label_path(root, 4))
    with pytest.raises(UserError, match="label .*train_0004.png cannot be read") as error:
        wrapped(root)
    assert one_line(error)


def test_jpeg_with_a_long_appendix_is_whole(root):
    with open(f"{root}/images/train_0000.jpg", "ab") as file:
        file.write(b"\0" * 10000)
    assert len(wrapped(root, "ignore")) == 6


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_scan_names_a_file_that_is_no_picture(root, content):
    with open(f"{root}/images/train_0002.jpg", "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="image .*train_0002.jpg cannot be read"):
        wrapped(root)


def test_scan_names_a_label_outside_the_classes(root):
    label = raw_label(root, 2)
    label[9, 9] = 17
    write_label(label_path(root, 2), label)
    with pytest.raises(UserError, match="train_0002.png holds 17, but with 5 classes.*`num_class"):
        wrapped(root)


def test_scan_takes_16_bit_labels(root):
    label = raw_label(root, 2).astype(np.uint16)
    cv2.imwrite(label_path(root, 2), label)
    assert scan_labels(inner(root).file_list, 5).counts[2, 0] == (label == 0).sum()
    label[9, 9] = 1000
    cv2.imwrite(label_path(root, 2), label)
    with pytest.raises(UserError, match="train_0002.png holds 1000"):
        wrapped(root)


def test_scan_refuses_coloured_labels(root):
    Image.new("RGB", (9, 9)).save(label_path(root, 0))
    with pytest.raises(UserError, match=r"train_0000.png is uint8 \[9, 9, 3\].*single-channel"):
        wrapped(root)


def test_scan_refuses_labels_of_another_size(root):
    height, width = raw_label(root, 0).shape
    write_label(label_path(root, 0), np.zeros((height, width + 1), np.uint8))
    with pytest.raises(UserError, match=f"train_0000.png is {height} x {width + 1}.*"
                                        f"train_0000.jpg is {height} x {width}"):
        wrapped(root)


def test_size_counts_after_the_exif_orientation(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, as OpenCV does
    Image.new("RGB", (30, 20)).save(f"{root}/images/train_0000.jpg", exif=exif)
    write_label(label_path(root, 0), np.zeros((30, 20), np.uint8))
    assert scan_labels(inner(root).file_list, 5).counts.toarray()[0].tolist() == [600, 0, 0, 0, 0]


# Files that break between the scan and the reading, and in validation, which is not scanned.

@pytest.mark.parametrize("mode", ["train", "val"])
def test_reading_names_a_cut_image(root, mode):
    dataset = wrapped(root, "ignore", mode)
    cut(dataset.file_list[1][0])
    with pytest.raises(UserError, match=f"image .*{mode}_0001.jpg cannot be read"):
        dataset[1]


@pytest.mark.parametrize("mode", ["train", "val"])
def test_reading_names_a_cut_label(root, mode):
    dataset = wrapped(root, "ignore", mode)
    cut(dataset.file_list[1][1])
    with pytest.raises(UserError, match=f"label .*{mode}_0001.png cannot be read"):
        dataset[1]


def test_reading_names_an_image_that_opencv_cannot_read(root):
    dataset = wrapped(root, mode="val")
    with open(dataset.file_list[0][0], "wb") as file:
        file.write(b"no picture")
    with pytest.raises(UserError, match="val_0000.jpg cannot be read"):
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


# The fabricated data sets themselves.

def test_fabricated_data_hold_every_class_in_every_split(tmp_path):
    voc = make_voc(str(tmp_path))
    for mode in ("train", "val"):
        counts = scan_labels(PascalVOC([], voc, mode).file_list, 21).counts.toarray()
        assert (counts.sum(0) > 0).all()
    context = make_context(str(tmp_path))
    for mode in ("train", "val"):
        counts = scan_labels(PascalContext([], context, mode).file_list, 60).counts.toarray()
        assert (counts.sum(0) > 0).all()


def test_fabricated_data_are_a_function_of_the_seed(tmp_path):
    def contents(name, seed):
        root = make_dataset(str(tmp_path / name), NAMES, seed=seed)
        return samples(inner(root))

    first = contents("a", 0)
    assert contents("b", 0) == first and contents("c", 1) != first
