"""Pascal VOC 2012 with the labels of SBD: the 10,582 training images of the literature.

SBD (Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011) labels 11,355 images
of VOC. The training set is VOC's own plus those of SBD that are in neither of VOC's lists.
"""

import os
import re
from functools import partial
from typing import Any

import numpy as np
from paddleseg.utils import logger

from paddle_csrl.datasets import sources
from paddle_csrl.errors import UserError
from paddle_csrl.preparation import archives, label_files, matlab
from paddle_csrl.utils import make_folder

VOC_ADVICE, SBD_ADVICE = f"download {sources.VOC2012}", f"download {sources.SBD}"
_VOC_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
_SBD_MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"

# A folder of another year may lie beside that of 2012.
_VOC_FILE = re.compile(r"(?!.*VOC(?!2012)\d{4}/)(?:.*/)?((?:JPEGImages/[\w-]+\.jpg)"
                       r"|(?:SegmentationClass/[\w-]+\.png))")
_VOC_LIST = re.compile(r"(?!.*VOC(?!2012)\d{4}/)(?:.*/)?ImageSets/Segmentation/"
                       r"(train|val|trainval)\.txt")
_SBD_LABEL = re.compile(r"(?:.*/)?cls/([\w-]+)\.mat")
_SBD_LIST = re.compile(r"(?:.*/)?(train|val)\.txt")

_EXPECTED = {"VOC train": 1464, "VOC val": 1449, "SBD train": 8498, "SBD val": 2857}
_EXPECTED_TOTAL = 10582
_NUM_CLASSES = 21
_SBD_FOLDER = "SegmentationClassAug"


def prepare_voc(voc: str, sbd: str, dataset_root: str, checksum: bool = True,
                overwrite: bool = False) -> dict[str, Any]:
    """Write ``dataset_root``/VOC2012 as PaddleSeg's ``PascalVOC`` reads it in ``mode: trainaug``.

    What is there and whole is kept, so that a stopped run goes on where it was. ``aug.txt``
    comes last.

    Args:
        voc (str): VOCtrainval_11-May-2012.tar, or the folder it unpacks to.
        sbd (str): benchmark.tgz, or the folder it unpacks to.
        dataset_root (str): the folder that the config names; made if need be.
        checksum (bool): insist on the official archives.
        overwrite (bool): convert labels again that are there.

    Returns:
        dict: ``train``, ``val`` and ``aug`` (numbers of images), ``trainaug`` (train + aug),
        ``converted`` (labels written now) and ``differences`` (why trainaug is not 10,582; empty
        where it is).

    Raises:
        UserError: an input is missing, torn or not the official one.
    """
    archives.require_input(voc, "--voc", VOC_ADVICE)
    archives.require_input(sbd, "--sbd", SBD_ADVICE)
    if checksum:
        archives.require_md5(voc, _VOC_MD5)
        archives.require_md5(sbd, _SBD_MD5)
    make_folder(dataset_root, "--dataset_root")
    base = os.path.join(dataset_root, "VOC2012")
    own = _copy_voc(voc, base)
    known = {*own["train"], *own["val"]}
    sbd_lists, converted = _convert_sbd(sbd, base, known, overwrite)
    listed = {*sbd_lists["train"], *sbd_lists["val"]}
    aug, left_out = label_files.complete(sorted(listed - known), base, _SBD_FOLDER, "SBD's")
    label_files.write_list(base, "aug", aug)

    counts = {"VOC train": len(own["train"]), "VOC val": len(own["val"]),
              "SBD train": len(sbd_lists["train"]), "SBD val": len(sbd_lists["val"])}
    result = {"train": len(own["train"]), "val": len(own["val"]), "aug": len(aug),
              "trainaug": len(own["train"]) + len(aug), "converted": converted,
              "differences": _differences(counts, len(listed - known), left_out)}
    _report(result, counts, len(listed & known))
    return result


def _copy_voc(voc: str, base: str) -> dict[str, list[str]]:
    """Copy images, labels and, once they are there, the lists; return the lists' names."""
    lists, targets = {}, archives.Targets(voc)
    for member in archives.walk(voc, "VOC images and labels"):
        file, split = _VOC_FILE.fullmatch(member.name), _VOC_LIST.fullmatch(member.name)
        if file:
            name = targets.claim(file[1], member.size)
            archives.copy_member(member, os.path.join(base, *name.split("/")))
        elif split:
            lists[targets.claim(split[1])] = label_files.parse_list(
                member.read(), f"{voc}: {member.name}")
    for part in ("train", "val"):
        if part not in lists:
            raise UserError(f"{voc} holds no VOC2012/ImageSets/Segmentation/{part}.txt; "
                            f"{VOC_ADVICE}")
        whole, _ = label_files.complete(lists[part], base, "SegmentationClass")
        missing = sorted({*lists[part]} - {*whole})
        if missing:
            raise UserError(f"{voc} lacks the image or label of {len(missing)} images of its "
                            f"{part}.txt, such as {missing[0]}; {VOC_ADVICE} again")
    lists.setdefault("trainval", lists["train"] + lists["val"])
    for part, names in lists.items():
        label_files.write_list(base, part, names)
    return lists


def _convert_sbd(sbd: str, base: str, known: set, overwrite: bool) -> tuple:
    """Turn the labels of SBD, but for the images ``known`` to VOC's lists, into PNGs.

    Returns:
        the names in SBD's own lists, train and val, and the number of labels written.
    """
    lists, converted, targets = {}, 0, archives.Targets(sbd)
    for member in archives.walk(sbd, "SBD labels"):
        label, split = _SBD_LABEL.fullmatch(member.name), _SBD_LIST.fullmatch(member.name)
        if split:
            lists[targets.claim(split[1])] = label_files.parse_list(
                member.read(), f"{sbd}: {member.name}")
        elif label and targets.claim(f"{label[1]}.mat")[:-4] not in known:
            converted += label_files.convert_label(os.path.join(base, _SBD_FOLDER), label[1],
                                                   partial(_read_sbd, member, sbd), overwrite)
    for part in ("train", "val"):
        if part not in lists:
            raise UserError(f"{sbd} holds no dataset/{part}.txt; {SBD_ADVICE}")
    return lists, converted


def _read_sbd(member: archives.Member, sbd: str) -> np.ndarray:
    place = f"{sbd}: {member.name}"
    label = matlab.read_mat_labels(member.read(), place, "GTcls", "Segmentation")
    wrong = label[(label != 255) & ((label < 0) | (label >= _NUM_CLASSES))]
    if wrong.size:
        raise UserError(f"{place} holds the class {wrong[0]}; SBD has 0 to {_NUM_CLASSES - 1}; "
                        f"get it again")
    return label


def _differences(counts: dict[str, int], num_wanted: int, left_out: list[str]) -> list[str]:
    """Say why the training list is another than that of the literature."""
    reasons = [f"{key} lists {counts[key]} images instead of {number}"
               for key, number in _EXPECTED.items() if counts[key] != number] + left_out
    if not reasons and counts["VOC train"] + num_wanted != _EXPECTED_TOTAL:
        reasons.append("the lists overlap in another way than the official ones")
    return reasons


def _report(result: dict[str, Any], counts: dict[str, int], shared: int) -> None:
    logger.info(f"VOC 2012: {result['train']} training and {result['val']} validation images; "
                f"SBD: {counts['SBD train']} + {counts['SBD val']} images, {shared} of them in "
                f"VOC's lists; {result['converted']} labels converted now")
    line = (f"training list (mode: trainaug): {result['trainaug']} images = {result['train']} of "
            f"VOC + {result['aug']} of SBD")
    if result["differences"]:
        logger.warning(f"{line}, not {_EXPECTED_TOTAL}: {'; '.join(result['differences'])}")
    else:
        logger.info(f"{line}, as in the literature")
