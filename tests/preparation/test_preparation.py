"""Preparing VOC with SBD and Pascal-Context from archives in the official layout."""

import errno
import hashlib
import json
import os
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from helpers import fabricated_archives as fake
from helpers import tiny_runs
from helpers.fabricated_archives import AUG, CONTEXT_TRAIN, CONTEXT_VAL, VOC_TRAIN, VOC_VAL
from paddle_csrl import cli, preparation, visualize
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import prepare_context, prepare_voc
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.errors import UserError
from paddle_csrl.preparation import label_files, matlab
from paddle_csrl.preparation import voc as voc_module
from paddle_csrl.preparation.archives import walk
from paddle_csrl.preparation.context import class_table, read_label_names
from paddle_csrl.preparation.rle import decode_mask

NAMES = CLASS_NAMES["context"]


def pixels(path):
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.array(picture)


def lines(path):
    return path.read_text().split()


class Voc:
    """VOC's and SBD's archives and what becomes of them, in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.voc = fake.write_tar(folder / "voc.tar", fake.voc_files())
        self.sbd = fake.write_tar(folder / "sbd.tgz", fake.sbd_files())
        self.root = folder / "out"
        self.base = self.root / "VOC2012"

    def prepare(self, *flags, **inputs):
        inputs = {"voc": self.voc, "sbd": self.sbd, **inputs}
        argv = [item for key, path in inputs.items() for item in (f"--{key}", str(path))]
        return prepare_voc.main([*argv, "--dataset_root", str(self.root), "--no_checksum", *flags])

    def has_no_list(self):
        """It comes last; nothing half written is left either."""
        assert not (self.base / "ImageSets" / "Segmentation" / "aug.txt").exists()
        assert not list(self.root.rglob(".*"))


class Context:
    """The same for Pascal-Context."""

    def __init__(self, folder):
        self.folder = folder
        names = CONTEXT_TRAIN + CONTEXT_VAL
        self.voc = fake.write_tar(folder / "voc.tar", fake.voc_files(
            "VOC2010", names, CONTEXT_TRAIN, CONTEXT_VAL))
        self.labels = fake.write_tar(folder / "trainval.tar.gz", fake.context_files(NAMES))
        self.root = folder / "VOC2010"

    def prepare(self, *flags, labels=None):
        return prepare_context.main(["--voc", self.voc, "--labels", str(labels or self.labels),
                                     "--dataset_root", str(self.root), "--no_checksum", *flags])

    def prepare_json(self, content):
        (self.folder / "trainval_merged.json").write_bytes(content)
        return self.prepare(labels=self.folder / "trainval_merged.json")

    def check(self):
        """Every label against the map it was made from."""
        for name in CONTEXT_TRAIN + CONTEXT_VAL:
            np.testing.assert_array_equal(pixels(self.root / "Context" / f"{name}.png"),
                                          fake.class_map(name, 60))


@pytest.fixture
def voc(tmp_path):
    return Voc(tmp_path)


@pytest.fixture
def context(tmp_path):
    return Context(tmp_path)


# --- VOC and SBD -----------------------------------------------------------------------------

def test_voc_layout_lists_and_labels(voc):
    result = voc.prepare()
    assert {key: result[key] for key in ("train", "val", "aug", "trainaug", "converted")} == {
        "train": 3, "val": 2, "aug": 4, "trainaug": 7, "converted": 4}
    lists = voc.base / "ImageSets" / "Segmentation"
    assert lines(lists / "train.txt") == VOC_TRAIN and lines(lists / "val.txt") == VOC_VAL
    assert lines(lists / "aug.txt") == AUG
    assert sorted(os.listdir(voc.base / "SegmentationClassAug")) == [f"{n}.png" for n in AUG]
    for name in AUG:
        np.testing.assert_array_equal(pixels(voc.base / "SegmentationClassAug" / f"{name}.png"),
                                      fake.class_map(name, 21))
    for name, content in fake.voc_files().items():
        written = voc.root / name.replace("VOCdevkit/", "")
        if "JPEGImages" in name or "SegmentationClass" in name:
            assert written.read_bytes() == content
        elif "Segmentation/" not in name:
            assert not written.exists()
    assert not list(voc.root.rglob(".*")) and sorted(os.listdir(voc.root)) == ["VOC2012"]


def test_void_of_sbd_stays_and_the_palette_is_vocs(voc):
    label = fake.class_map(AUG[0], 21)
    label[:, 0] = 255
    files = fake.sbd_files()
    files[f"benchmark_RELEASE/dataset/cls/{AUG[0]}.mat"] = fake.sbd_mat(label)
    voc.prepare(sbd=fake.write_tar(voc.folder / "void.tgz", files))
    path = voc.base / "SegmentationClassAug" / f"{AUG[0]}.png"
    np.testing.assert_array_equal(pixels(path), label)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.array(picture.convert("RGB")),
                                      visualize.palette(256, "voc")[label])


def test_the_count_says_why_it_is_not_that_of_the_literature(voc, monkeypatch):
    differences = " ".join(voc.prepare()["differences"])
    assert "VOC train lists 3 images instead of 1464" in differences
    assert "SBD val lists 2 images instead of 2857" in differences

    monkeypatch.setattr(voc_module, "_EXPECTED", {"VOC train": 3, "VOC val": 2, "SBD train": 4,
                                                  "SBD val": 2})
    monkeypatch.setattr(voc_module, "_EXPECTED_TOTAL", 7)
    assert voc.prepare()["differences"] == []
    files = fake.sbd_files()
    del files[f"benchmark_RELEASE/dataset/cls/{AUG[1]}.mat"]
    (voc.base / "SegmentationClassAug" / f"{AUG[1]}.png").unlink()
    result = voc.prepare(sbd=fake.write_tar(voc.folder / "less.tgz", files))
    assert result["differences"] == [
        f"left out for want of a label: 1 of SBD's images, such as {AUG[1]}"]
    assert result["trainaug"] == 6
    assert AUG[1] not in lines(voc.base / "ImageSets" / "Segmentation" / "aug.txt")


def test_official_numbers_make_the_published_list():
    # The expected parts and their sum, from the papers.
    assert voc_module._EXPECTED_TOTAL == 10582
    assert voc_module._EXPECTED == {"VOC train": 1464, "VOC val": 1449, "SBD train": 8498,
                                    "SBD val": 2857}


@pytest.mark.parametrize("form", ["folder", "zip", "devkit", "inner"])
def test_folders_and_other_archives_give_the_same(voc, form):
    voc.prepare()
    expected = {name: (voc.root / name).read_bytes() for name in tiny_runs.files(str(voc.root))}
    voc.root = voc.folder / "again"
    voc.base = voc.root / "VOC2012"
    if form == "zip":
        inputs = {"voc": fake.write_zip(voc.folder / "v.zip", fake.voc_files()),
                  "sbd": fake.write_zip(voc.folder / "s.zip", fake.sbd_files())}
    else:
        top_voc = fake.write_folder(voc.folder / "unpacked", fake.voc_files())
        top_sbd = fake.write_folder(voc.folder / "sbd", fake.sbd_files())
        inside = {"folder": ("", ""), "devkit": ("VOCdevkit", "benchmark_RELEASE"),
                  "inner": ("VOCdevkit/VOC2012", "benchmark_RELEASE/dataset")}[form]
        inputs = {"voc": os.path.join(top_voc, inside[0]), "sbd": os.path.join(top_sbd, inside[1])}
    voc.prepare(**inputs)
    assert {name: (voc.root / name).read_bytes()
            for name in tiny_runs.files(str(voc.root))} == expected


def test_another_year_in_the_folder_is_left_alone(voc):
    other = fake.voc_files("VOC2007", ["2007_999999"], ["2007_999999"], ["2007_999999"])
    top = fake.write_folder(voc.folder / "both", {**fake.voc_files(), **other})
    voc.prepare(voc=top)
    assert not list(voc.root.rglob("*999999*"))
    assert lines(voc.base / "ImageSets" / "Segmentation" / "train.txt") == VOC_TRAIN


def test_voc_that_is_already_in_place(voc):
    fake.write_folder(voc.folder, {name.replace("VOCdevkit/", "out/"): content
                                   for name, content in fake.voc_files().items()})
    before = tiny_runs.times(str(voc.base / "JPEGImages"))
    assert voc.prepare(voc=voc.root)["trainaug"] == 7
    assert tiny_runs.times(str(voc.base / "JPEGImages")) == before


def test_a_second_run_writes_only_what_is_missing_or_broken(voc):
    voc.prepare()
    before = tiny_runs.times(str(voc.root))
    torn = voc.base / "SegmentationClassAug" / f"{AUG[0]}.png"
    lost = voc.base / "JPEGImages" / f"{VOC_TRAIN[0]}.jpg"
    content = torn.read_bytes()
    torn.write_bytes(content[:len(content) // 2])
    lost.unlink()
    assert voc.prepare()["converted"] == 1
    assert torn.read_bytes() == content
    after = tiny_runs.times(str(voc.root))
    assert set(after) == set(before)
    changed = {name for name in after if after[name] != before[name]
               and not name.endswith(".txt")}
    assert changed == {os.path.relpath(path, voc.root) for path in (torn, lost)}
    assert voc.prepare("--overwrite")["converted"] == 4


def test_a_full_disk_is_one_line_and_leaves_whole_files_and_no_list(voc, monkeypatch, capfd):
    written, real = [], label_files.write_label

    def full(path, label):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        written.append(path)
        real(path, label)

    monkeypatch.setattr(label_files, "write_label", full)
    with pytest.raises(SystemExit) as stopped:
        cli.run(voc.prepare)
    assert stopped.value.code == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: cannot write ")
    assert ".png: No space left on device; free some space and run the same command" in line
    voc.has_no_list()
    monkeypatch.undo()
    assert voc.prepare()["converted"] == 2


@pytest.mark.parametrize("flag, match", [
    ("voc", "VOCtrainval_11-May-2012.tar.*http://"), ("sbd", "benchmark.tgz.*https://")])
def test_a_missing_input_says_what_to_download(voc, flag, match):
    with pytest.raises(UserError, match=f"--{flag} .*absent.*{match}"):
        voc.prepare(**{flag: voc.folder / "absent"})
    assert not voc.root.exists()


def test_checksums_are_looked_at_before_anything_is_written(voc, monkeypatch):
    wrong = hashlib.md5(open(voc.voc, "rb").read()).hexdigest()
    official = "6cd6e144f989b92b3379bac3b3de84fd"
    with pytest.raises(UserError, match=f"{wrong}.*{official}.*no_checksum"):
        preparation.prepare_voc(voc.voc, voc.sbd, str(voc.root))
    monkeypatch.setattr(voc_module, "_VOC_MD5", wrong)
    with pytest.raises(UserError, match="sbd.tgz has the MD5 checksum"):
        preparation.prepare_voc(voc.voc, voc.sbd, str(voc.root))
    assert not voc.root.exists()
    monkeypatch.setattr(voc_module, "_SBD_MD5",
                        hashlib.md5(open(voc.sbd, "rb").read()).hexdigest())
    assert preparation.prepare_voc(voc.voc, voc.sbd, str(voc.root))["trainaug"] == 7


@pytest.mark.parametrize("below", ["", "data"])
def test_a_dataset_root_that_is_no_folder(voc, context, below):
    for tool in (voc, context):
        tool.root = tool.folder / "file"
        tool.root.write_text("")
        tool.root /= below
        with pytest.raises(UserError, match="`--dataset_root: .*file.*` is no folder"):
            tool.prepare()


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("which", ["voc", "sbd"])
def test_a_torn_archive_is_named(voc, which, part):
    path = getattr(voc, which)
    with open(path, "rb+") as file:
        file.truncate(int(os.path.getsize(path) * part))
    with pytest.raises(UserError, match=os.path.basename(path)):
        voc.prepare()
    voc.has_no_list()


def test_bytes_that_are_no_archive(voc):
    path = voc.folder / "voc.html"
    path.write_text("<html>moved</html>")
    with pytest.raises(UserError, match="voc.html is not a whole archive"):
        voc.prepare(voc=path)


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "VOCdevkit/../../evil.jpg",
                                  "C:/evil.jpg", "..\\evil.jpg"])
@pytest.mark.parametrize("write", [fake.write_tar, fake.write_zip])
def test_names_that_point_outside_are_refused(voc, name, write):
    files = {**fake.voc_files(), name: b"evil"}
    path = write(voc.folder / ("bad.tar" if write is fake.write_tar else "bad.zip"), files)
    with pytest.raises(UserError, match="points outside"):
        voc.prepare(voc=path)
    assert not list(voc.folder.rglob("evil*")) and not list(voc.folder.parent.glob("evil*"))


def test_links_are_never_written_or_followed(voc):
    outside = voc.folder / "outside"
    outside.mkdir()
    base = "VOCdevkit/VOC2012"
    files = fake.voc_files()
    links = [(f"{base}/JPEGImages", str(outside)),
             (f"{base}/SegmentationClass/{AUG[0]}.png", str(voc.sbd))]
    voc.prepare(voc=fake.write_tar(voc.folder / "links.tar", files, links))
    assert os.listdir(outside) == []
    assert (voc.base / "JPEGImages").is_dir() and not (voc.base / "JPEGImages").is_symlink()
    assert not (voc.base / "SegmentationClass" / f"{AUG[0]}.png").exists()


def test_a_member_of_absurd_size_is_refused(voc, monkeypatch):
    monkeypatch.setattr("paddle_csrl.preparation.archives._MOST_BYTES", 100)
    with pytest.raises(UserError, match="bytes, which is no image, label or list"):
        voc.prepare()


@pytest.mark.parametrize("content, match", [
    (b"", "no MATLAB file with GTcls.Segmentation"),
    (b"MATLAB 5.0 MAT-file" + bytes(200), "no MATLAB file with GTcls.Segmentation"),
    (fake.sbd_mat(fake.class_map(AUG[0], 21))[:300], "no MATLAB file with GTcls.Segmentation"),
    (fake.mat(GTinst=1), "no MATLAB file with GTcls.Segmentation"),
    (fake.mat(GTcls={"Boundaries": 1}), "no MATLAB file with GTcls.Segmentation"),
    (fake.mat(GTcls={"Segmentation": np.zeros((2, 3, 4))}), r"is .* \[2, 3, 4\], not a 2-D"),
    (fake.mat(GTcls={"Segmentation": np.full((4, 4), 0.5)}), "not a 2-D image of class ids"),
    (fake.mat(GTcls={"Segmentation": np.full((4, 4), 21)}), "the class 21; SBD has 0 to 20"),
])
def test_a_broken_mat_file_is_named(voc, content, match):
    name = f"benchmark_RELEASE/dataset/cls/{AUG[2]}.mat"
    path = fake.write_tar(voc.folder / "broken.tgz", {**fake.sbd_files(), name: content})
    with pytest.raises(UserError, match=f"{AUG[2]}.mat.*{match}"):
        voc.prepare(sbd=path)


@pytest.mark.parametrize("which, gone, match", [
    ("voc", "ImageSets/Segmentation/val.txt", "no VOC2012/ImageSets/Segmentation/val.txt"),
    ("voc", f"JPEGImages/{VOC_VAL[0]}.jpg", f"lacks the image or label of 1 .*{VOC_VAL[0]}"),
    ("voc", f"SegmentationClass/{VOC_TRAIN[1]}.png",
     f"lacks the image or label of 1 .*{VOC_TRAIN[1]}"),
    ("sbd", "val.txt", "no dataset/val.txt"),
])
def test_an_incomplete_archive_is_named(voc, which, gone, match):
    files, base = {"voc": (fake.voc_files(), "VOCdevkit/VOC2012"),
                   "sbd": (fake.sbd_files(), "benchmark_RELEASE/dataset")}[which]
    del files[f"{base}/{gone}"]
    with pytest.raises(UserError, match=match):
        voc.prepare(**{which: fake.write_tar(voc.folder / "less.tar", files)})
    assert (voc.base / "ImageSets").exists() == (which == "sbd")


@pytest.mark.parametrize("content", [b"", b"../../etc/passwd\n", b"a/b\n"])
def test_a_list_holds_names_of_images(content):
    with pytest.raises(UserError, match="list.txt lists"):
        label_files.parse_list(content, "list.txt")


def test_prepared_voc_serves_the_configs(voc):
    voc.prepare()
    config = ZeroShotConfig(tiny_runs.config_path("csrl_voc_unseen4"), [
        f"train_dataset.dataset_root={voc.root}", f"val_dataset.dataset_root={voc.root}",
        f"zero_shot.cache_dir={voc.folder}/cache"])
    builder = ZeroShotBuilder(config)
    names = [os.path.basename(path)[:-4] for _, path in builder.train_dataset.file_list]
    seen_only = [name for name in VOC_TRAIN + AUG
                 if not np.isin(fake.class_map(name, 21), builder.classes.unseen_ids).any()]
    assert 0 < len(seen_only) < 7
    assert names == seen_only
    sample = builder.train_dataset[0]
    assert sample["img"].shape == (3, 512, 512) and sample["label"].shape == (512, 512)
    assert [os.path.basename(path)[:-4] for _, path in builder.val_dataset.file_list] == VOC_VAL
    np.testing.assert_array_equal(np.squeeze(builder.val_dataset[0]["label"])[1:],
                                  fake.class_map(VOC_VAL[0], 21)[1:])


# --- Pascal-Context --------------------------------------------------------------------------

def test_context_from_mat_files(context):
    result = context.prepare()
    assert (result["train"], result["val"], result["converted"]) == (3, 2, 5)
    assert any("train lists 3 images instead of 4998" in line for line in result["differences"])
    context.check()
    lists = context.root / "ImageSets" / "Segmentation"
    assert lines(lists / "train_context.txt") == CONTEXT_TRAIN
    assert lines(lists / "val_context.txt") == CONTEXT_VAL
    assert lines(lists / "trainval_context.txt") == CONTEXT_TRAIN + CONTEXT_VAL
    assert sorted(os.listdir(context.root)) == ["Context", "ImageSets", "JPEGImages"]
    assert context.prepare()["converted"] == 0


def test_context_from_json_is_the_same(context):
    result = context.prepare_json(fake.context_json(NAMES))
    assert (result["train"], result["val"], result["converted"]) == (3, 2, 5)
    context.check()
    assert context.prepare()["converted"] == 0
    assert not list(context.root.rglob("*000301*"))


def test_later_masks_of_the_json_lie_over_earlier_ones(context):
    content = json.loads(fake.context_json(NAMES))
    name = CONTEXT_TRAIN[0]
    content["annos_segmentation"].append({
        "id": 999, "image_id": int(name.replace("_", "")), "category_id": 445,
        "segmentation": {"size": list(fake.SIZE), "counts": [0, fake.SIZE[0] * fake.SIZE[1]]}})
    context.prepare_json(json.dumps(content).encode())
    label = pixels(context.root / "Context" / f"{name}.png")
    assert (label == NAMES.index("water")).all()


def test_context_lists_of_the_user(context):
    train, val = context.folder / "train.txt", context.folder / "val.txt"
    train.write_text(f"{CONTEXT_VAL[0]}\n{CONTEXT_TRAIN[0]}\n")
    val.write_text(f"{CONTEXT_VAL[1]}\n2008_999999\n")
    result = context.prepare("--train_list", str(train), "--val_list", str(val))
    assert (result["train"], result["val"]) == (2, 1)
    assert any("want of a label: 1 of the val images, such as 2008_999999" in line
               for line in result["differences"])
    assert lines(context.root / "ImageSets" / "Segmentation" / "train_context.txt") == [
        CONTEXT_VAL[0], CONTEXT_TRAIN[0]]


def test_labels_txt_beside_the_archive_or_named(context):
    files = fake.context_files(NAMES)
    names = files.pop("labels.txt")
    bare = context.folder / "bare"
    bare.mkdir()
    labels = fake.write_tar(bare / "trainval.tar.gz", files)
    with pytest.raises(UserError, match="no labels.txt in or beside .*--label_names"):
        context.prepare(labels=labels)
    (context.folder / "names.txt").write_bytes(names)
    context.prepare("--label_names", str(context.folder / "names.txt"), labels=labels)
    context.check()
    (bare / "labels.txt").write_bytes(names)
    assert read_label_names(labels)[397] == "table"


def test_classes_are_found_by_name_in_any_order():
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 60))
    table = class_table({int(number): name for number, name in zip(shuffled, NAMES[1:])})
    np.testing.assert_array_equal(table[shuffled], np.arange(1, 60))


def test_names_of_the_benchmarks_own_list_are_known():
    names = fake.context_names(NAMES)
    for number, other in ((397, "diningtable"), (19, "bedcloth"), (80, "clothes"),
                          (308, "potted plant")):
        names[number] = other
    np.testing.assert_array_equal(class_table(names)[list(fake.CONTEXT_IDS)], np.arange(1, 60))
    names[1] = "table"  # the name itself goes before the other one
    table = class_table(names)
    assert (table[1], table[397]) == (NAMES.index("table"), 0)


def test_a_missing_class_is_named():
    names = fake.context_names(NAMES)
    names[454], names[2] = "?", "!"
    with pytest.raises(UserError, match="lack aeroplane, window"):
        class_table(names)


@pytest.mark.parametrize("content, match", [
    (b"1: accordion\n2 aeroplane\n", "line 2: `2 aeroplane`"),
    (b"1: accordion\n1: aeroplane\n", "line 2: `1: aeroplane`"),
    (b"\n", "names no class"),
])
def test_a_broken_labels_txt_is_named(tmp_path, content, match):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_label_names(str(tmp_path), str(path))


def test_an_id_beyond_the_names_is_named(context):
    files = fake.context_files(NAMES)
    label = np.full(fake.SIZE, 460, np.uint16)
    files[f"trainval/{CONTEXT_VAL[0]}.mat"] = fake.mat(LabelMap=label)
    path = fake.write_tar(context.folder / "bad.tar.gz", files)
    with pytest.raises(UserError, match=f"{CONTEXT_VAL[0]}.mat holds the class 460"):
        context.prepare(labels=path)


@pytest.mark.parametrize("change, match", [
    (lambda content: content[:500], "not a whole trainval_merged.json"),
    (lambda content: b"[]", "not a whole trainval_merged.json"),
    (lambda content: b"[" * 200000, "not a whole trainval_merged.json"),
    (lambda content: content.replace(b'"images"', b'"pictures"'), "KeyError: 'images'"),
    (lambda content: content.replace(b'"name": "cow"', b'"name": "ox"'), "lack cow"),
    (lambda content: content.replace(b"2008_000101.jpg", b"../../evil.jpg"), "no name of an image"),
    (lambda content: content.replace(b'"height": 40', b'"height": 41'), "in an image of"),
    (lambda content: content.replace(b'"size": [40, 48]', b'"size": [40, 49]'), r"\[40, 49\] pix"),
    (lambda content: content.replace(b'"category_id": 2,', b'"category_id": -2,'), "out of range"),
    (lambda content: content.replace(b'"counts"', b'"count"'), "no run-length encoded mask"),
])
def test_a_broken_json_is_named(context, change, match):
    with pytest.raises(UserError, match=match):
        context.prepare_json(change(fake.context_json(NAMES)))
    assert not (context.root / "ImageSets").exists()
    assert not list(context.folder.parent.rglob("evil*"))


@pytest.mark.parametrize("argv, match", [
    (["--voc", "absent"], "--voc absent.*VOCtrainval_03-May-2010.tar.*http://"),
    (["--labels", "absent"], "--labels absent.*trainval.tar.gz.*https://"),
    (["--label_names", "absent", "--no_checksum"], "--label_names absent.*labels.txt"),
    (["--train_list", "absent"], "--train_list absent.*one image name a line"),
    ([], "da459979d0c395079b5c75ee67908abb"),  # the official checksum
])
def test_missing_context_inputs(context, argv, match):
    with pytest.raises(UserError, match=match):
        prepare_context.main(["--voc", context.voc, "--labels", context.labels,
                              "--dataset_root", str(context.root), *argv])
    assert not context.root.exists() or "--label_names" in argv


def test_given_lists_are_read_first_and_must_not_overlap(context):
    own = context.folder / "list.txt"
    own.write_text("../up\n")
    with pytest.raises(UserError, match="list.txt lists '../up'"):
        context.prepare("--train_list", str(own))
    assert not context.root.exists()
    own.write_text("\n".join([CONTEXT_TRAIN[0], *CONTEXT_VAL]))
    with pytest.raises(UserError, match=f"2 images are listed both .* such as {CONTEXT_VAL[0]}"):
        context.prepare("--train_list", str(own))
    assert not (context.root / "ImageSets").exists()


def test_a_folder_in_the_place_of_a_list_is_one_line(context, capfd):
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: context.prepare("--train_list", str(context.folder)))
    assert stopped.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1] == f"error: Is a directory: {context.folder}"


def test_images_of_other_data_are_no_context(context):
    context.voc = fake.write_tar(context.folder / "other.tar",
                                 fake.voc_files("VOC2010", VOC_TRAIN))
    with pytest.raises(UserError, match="none of the 3 train images"):
        context.prepare()


def test_prepared_context_serves_the_configs(context):
    context.prepare()
    config = ZeroShotConfig(tiny_runs.config_path("csrl_context_unseen2"), [
        f"train_dataset.dataset_root={context.root}", f"val_dataset.dataset_root={context.root}",
        f"zero_shot.cache_dir={context.folder}/cache", "zero_shot.policy=ignore"])
    builder = ZeroShotBuilder(config)
    assert len(builder.train_dataset) == 3 and len(builder.val_dataset) == 2
    assert builder.train_dataset[1]["img"].shape == (3, 512, 512)
    np.testing.assert_array_equal(np.squeeze(builder.val_dataset[1]["label"]),
                                  fake.class_map(CONTEXT_VAL[1], 60))
    present = {NAMES[number] for name in CONTEXT_TRAIN
               for number in np.unique(fake.class_map(name, 60))}
    assert set(builder.train_dataset.audit()["seen_classes_absent"]) == {
        name for name in NAMES if name not in present and name not in ("cow", "motorbike")}


# --- Parts -----------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_masks_decode_to_what_cocos_own_library_encoded(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 70, 2)) < rng.choice([0.02, 0.5, 0.98])
    for counts in (fake.run_lengths(mask), plain_runs(mask)):
        decoded = decode_mask({"size": list(mask.shape), "counts": counts}, mask.shape, "here")
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)


def plain_runs(mask):
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    places = np.flatnonzero(np.diff(np.append(flat, ~flat[-1])))
    return np.diff(np.append(0, places)).tolist()


@pytest.mark.parametrize("size, counts", [
    *(([3, 4], text) for text in ("", "é", "0P", "`", "zzz", "1", "P" * 10**6 + "0")),
    *(([3, 4], runs) for runs in ([1, 2], [-1, 13], [2**62] * 4 + [12],
                                  [2**63 - 1, 2**63 - 1, 14], [2**32 + 12], 5, None)),
    ([10**9, 10**9], [10**18]), ([2**32 + 3, 4], [12]), ([-3, -4], [12]), ([3], [12]),
    (None, [12])])
def test_broken_masks_are_named(size, counts):
    with pytest.raises(UserError, match="^here.*get it again$"):
        decode_mask({"size": size, "counts": counts}, (3, 4), "here")


def test_float_labels_that_are_whole_numbers_are_read():
    label = np.float64([[0, 3], [459, 1]])
    read = matlab.read_mat_labels(fake.mat(LabelMap=label), "x", "LabelMap")
    np.testing.assert_array_equal(read, label)


def test_linked_folders_are_followed_once(tmp_path):
    fake.write_folder(tmp_path, {"a/real/x.txt": b"x"})
    os.symlink(tmp_path / "a", tmp_path / "a" / "real" / "loop")
    os.symlink(tmp_path / "a" / "real", tmp_path / "link")
    assert [member.name for member in walk(str(tmp_path / "link"), "t")] == ["link/x.txt"]


@pytest.mark.parametrize("tool, says", [("prepare_voc", "VOCtrainval_11-May-2012.tar"),
                                        ("prepare_context", "VOCtrainval_03-May-2010.tar")])
def test_the_tools_as_programs(tmp_path, monkeypatch, capsys, tool, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [tool])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(os.path.join(tiny_runs.ROOT, "tools", f"{tool}.py"), run_name="__main__")
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.count("\n") == 1 and says in message
    assert os.listdir(tmp_path) == []
