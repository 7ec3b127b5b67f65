"""Sources of the data sets: the advice to give where one is not there."""

import codecs
import itertools
import locale
import os
import string
from collections.abc import Sequence
from typing import Any

from paddle_csrl.datasets.fingerprint import FileList
from paddle_csrl.errors import UserError

# Official downloads, by what to say of them.
VOC2012 = ("VOCtrainval_11-May-2012.tar (2 GB) from "
           "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar")
SBD = ("benchmark.tgz (1.4 GB) from https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/"
       "grouping/semantic_contours/benchmark.tgz")
VOC2010 = ("VOCtrainval_03-May-2010.tar (1.3 GB) from "
           "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar")
CONTEXT = "trainval.tar.gz and labels.txt from https://cs.stanford.edu/~roozbeh/pascal-context/"

# Data set type -> (path below dataset_root that must exist, what to do if it does not).
_SOURCES = {
    "PascalVOC": (
        os.path.join("VOC2012", "ImageSets", "Segmentation", "val.txt"),
        f"download {VOC2012} and {SBD}, then run tools/prepare_voc.py --voc FILE --sbd FILE "
        "--dataset_root {root}"),
    "PascalContext": (
        os.path.join("ImageSets", "Segmentation", "val_context.txt"),
        f"download {VOC2010} and {CONTEXT}, then run tools/prepare_context.py --voc FILE "
        "--labels FILE --dataset_root {root}"),
    "Cityscapes": (
        "leftImg8bit",
        "download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
        "https://www.cityscapes-dataset.com and unpack both into {root}"),
}

# How names of images end that PaddleSeg pairs with labels by their places in two sorted lists.
_PAIRED_BY_PLACE = {"Cityscapes": "_leftImg8bit.png", "CocoStuff": ".jpg"}

# Of PaddleSeg's: they make labels anew after their transforms, so that no policy can hide a class,
# and leave out of validation what lays predictions back over the image.
_UNFIT = ("EG1800", "SUPERVISELY")

_MODES = ("train", "val", "test")  # of the generic Dataset

_AUGMENTED = (os.path.join("VOC2012", "ImageSets", "Segmentation", "aug.txt"),
              f"add the SBD masks: download {SBD} and run tools/prepare_voc.py "
              "--voc {root} --sbd FILE --dataset_root {root}, or set train_dataset.mode=train")


def require_data(cfg: dict[str, Any]) -> None:
    """Check that the data set of a PaddleSeg ``cfg`` is on disk, before anything downloads it.

    Raises:
        UserError: it is not; the one line says what to download and where to put it.
    """
    kind, root = cfg["type"], cfg.get("dataset_root")
    if kind in _UNFIT:
        raise UserError(f"`type: {kind}` changes labels after its transforms, where an unseen "
                        f"class can no more be hidden; write its files into the lists of a "
                        f"`type: Dataset`")
    if kind == "Dataset":
        _require_lists(cfg)
    checks = [_SOURCES[kind]] if kind in _SOURCES else []
    if kind == "PascalVOC" and cfg.get("mode") == "trainaug":
        checks.append(_AUGMENTED)
    for marker, advice in checks:
        if root is None or not os.path.exists(os.path.join(root, marker)):
            root = root or "data"
            raise UserError(f"{kind} is not in `dataset_root: {root}` (no {marker}): "
                            f"{advice.format(root=root)}")


def require_training_mode(mode: Any) -> None:
    """Check the ``mode`` of a training set, given or its own.

    Raises:
        UserError: it is one of validation, whose samples no policy covers.
    """
    if str(mode).lower() in ("val", "test"):
        raise UserError(f"`train_dataset.mode: {mode}` is one of validation, which "
                        f"`zero_shot.policy` does not cover; set a mode of training, such as train")


def require_pairs(kind: str, file_list: FileList) -> None:
    """Check that labels belong to their images, where one missing file shifts all that follow.

    Raises:
        UserError: a label's name does not begin like its image's.
    """
    if kind not in _PAIRED_BY_PLACE:
        return
    for image, label in file_list:
        name = os.path.basename(image).removesuffix(_PAIRED_BY_PLACE[kind])
        if not os.path.basename(label).startswith(name):
            raise UserError(f"{kind} pairs image {image} with label {label}: by their names a "
                            f"file before them is missing; add it, or take its other half away")


def crossed_pairs(file_list: FileList) -> list[Sequence[str]]:
    """Find the pairs of which either file goes, by the names, with another one of the list.

    Names count without what begins or ends all of them, such as ``_mask``, and without folders that
    are the same in all, as ``Images`` of ``seq1/Images/000000.png``.
    """
    images, labels = (_own_names([pair[place] for pair in file_list]) for place in (0, 1))
    partners = {*images} & {*labels}
    return [pair for pair, image, label in zip(file_list, images, labels)
            if image != label and {image, label} <= partners]


def _own_names(paths: Sequence[str]) -> list[tuple[str, ...]]:
    pairs = [os.path.split(os.path.splitext(path)[0]) for path in paths]
    folders = list(dict.fromkeys(folder for folder, _ in pairs))
    levels = itertools.zip_longest(*(folder.split(os.sep)[::-1] for folder in folders),
                                   fillvalue="")
    own = dict(zip(folders, zip(*map(_own_parts, filter(lambda level: len({*level}) > 1, levels)))))
    return [(*own.get(folder, ()), stem)
            for (folder, _), stem in zip(pairs, _own_parts([stem for _, stem in pairs]))]


def _own_parts(names: Sequence[str]) -> list[str]:
    if len({*names}) < 2:
        return [""] * len(names)
    start = os.path.commonprefix(names).rstrip(string.digits)
    end = os.path.commonprefix([name[::-1] for name in names])[::-1].lstrip(string.digits)
    return [name[len(start):len(name) - len(end)] for name in names]


def _require_lists(cfg: dict[str, Any]) -> None:
    """The generic ``Dataset``: its mode, its root and the list file of its mode."""
    mode, root = cfg.get("mode", "train"), cfg.get("dataset_root")
    if str(mode).lower() not in _MODES:
        raise UserError(f"`mode: {mode}` is none of a Dataset; choose one of {', '.join(_MODES)}")
    key = f"{str(mode).lower()}_path"
    if not root or not os.path.isdir(root):
        raise UserError(f"no folder at `dataset_root: {root}`; point it at your data, for example "
                        f"by --data DIR, or --opts train_dataset.dataset_root=DIR "
                        f"val_dataset.dataset_root=DIR")
    path = cfg.get(key)
    if not path or not os.path.isfile(path):
        raise UserError(f"no list file at `{key}: {path}`; it holds one `image label` pair of "
                        f"paths, relative to dataset_root, a line")
    separator = cfg.get("separator", " ")
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save the file as UTF-8") from None
    encoding = locale.getpreferredencoding(False)
    if codecs.lookup(encoding).name != "utf-8" and not "".join(lines).isascii():
        raise UserError(f"{path} holds letters that PaddleSeg would read as {encoding}, by this "
                        f"system's settings, and not as UTF-8; set PYTHONUTF8=1 in the environment")
    if lines and lines[0].startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark, which would be part of the first "
                        f"path; save the file as UTF-8 without it")
    for number, line in enumerate(lines, 1):
        parts = line.split(separator)
        if len(parts) == 2 and parts[0] == parts[1]:
            raise UserError(f"{path}, line {number}: {parts[0]} is image and label in one, so that "
                            f"a network would be shown its labels; name the other file")
        if len(parts) != 2:
            raise UserError(f"{path}, line {number}: {line!r} is no pair of an image and a label "
                            f"with {separator!r} between them; mend the line, or name what is "
                            f"between them as `separator` of the data set")
    if not lines:
        raise UserError(f"{path} lists no image; write one `image label` pair a line")
