"""Pascal-Context: labels of 459 classes become the 59 most frequent ones and the background.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild"
(CVPR 2014). Classes are matched by name, in the order of the project's own list; everything else
is background, as in the benchmark.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from paddleseg.utils import logger

from paddle_csrl.datasets import sources
from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.preparation import archives, label_files, matlab
from paddle_csrl.preparation.rle import decode_mask
from paddle_csrl.utils import make_folder, progress

VOC_ADVICE = f"download {sources.VOC2010}"
LABELS_ADVICE = (f"download {sources.CONTEXT}, or trainval_merged.json from "
                 "https://codalabuser.blob.core.windows.net/public/trainval_merged.json")
_VOC_MD5 = "da459979d0c395079b5c75ee67908abb"
_JSON_MD5 = "3c2d0c0656b7be9eb61928ffe885d8ce"

_IMAGE = re.compile(r"(?!.*VOC(?!2010)\d{4}/)(?:.*/)?JPEGImages/([\w-]+\.jpg)")
_LIST = re.compile(r"(?!.*VOC(?!2010)\d{4}/)(?:.*/)?ImageSets/Main/(train|val)\.txt")
_MAT = re.compile(r"(?:.*/)?([\w-]+)\.mat")
_NAMES_FILE = re.compile(r"(?:.*/)?labels\.txt")

#: The class of the 459 that the benchmark's own list calls by another name.
_OTHER_NAMES = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}

_EXPECTED = {"train": 4998, "val": 5105}

_MOST_JSON_BYTES = 1 << 31
#: Id of a class, or length in pixels of an image's side; there are 459, and at most 500.
_LARGEST = 1023

#: A label that is not read yet: an image's name and what gives its class ids [H, W].
_Label = tuple[str, Callable[[], np.ndarray]]


def prepare_context(voc: str, labels: str, dataset_root: str, label_names: str | None = None,
                    lists: Mapping[str, str | None] | None = None, checksum: bool = True,
                    overwrite: bool = False) -> dict[str, Any]:
    """Write ``dataset_root`` as PaddleSeg's ``PascalContext`` reads it.

    What is there and whole is kept, so that a stopped run goes on where it was. The lists come
    last.

    Args:
        voc (str): VOCtrainval_03-May-2010.tar, or the folder it unpacks to.
        labels (str): trainval.tar.gz with one ``.mat`` per image, the folder it unpacks to, or
            trainval_merged.json.
        dataset_root (str): the folder that the config names; made if need be.
        label_names (str, optional): the file ``labels.txt`` of the 459 names. Default: the one in
            or beside ``labels``.
        lists (dict, optional): files with the names of the ``train`` and ``val`` images.
            Default: those of the JSON, or of VOC 2010's ``ImageSets/Main``.
        checksum (bool): insist on the official files, where their checksum is known.
        overwrite (bool): convert labels again that are there.

    Returns:
        dict: ``train`` and ``val`` (numbers of images), ``converted`` (labels written now) and
        ``differences`` (why they are not 4,998 and 5,105; empty where they are).

    Raises:
        UserError: an input is missing, torn or not the official one.
    """
    archives.require_input(voc, "--voc", VOC_ADVICE)
    archives.require_input(labels, "--labels", LABELS_ADVICE)
    given = {}
    for split, path in (lists or {}).items():
        if path:
            archives.require_input(path, f"--{split}_list", "it holds one image name a line")
            given[split] = label_files.parse_list(Path(path).read_bytes(), path)
    is_json = labels.endswith(".json")
    if checksum:
        archives.require_md5(voc, _VOC_MD5)
    if checksum and is_json:
        archives.require_md5(labels, _JSON_MD5)
    make_folder(dataset_root, "--dataset_root")
    if is_json:
        splits, found = _read_json(labels)
    else:
        splits, found = {}, _read_mats(labels, class_table(read_label_names(labels, label_names)))
    splits = {**_copy_images(voc, dataset_root), **splits, **given}
    for split in _EXPECTED:
        if split not in splits:
            raise UserError(f"{voc} holds no VOC2010/ImageSets/Main/{split}.txt; give "
                            f"--{split}_list, or {VOC_ADVICE}")
    both = sorted(set(splits["train"]) & set(splits["val"]))
    if both:
        raise UserError(f"{len(both)} images are listed both for training and for validation, such "
                        f"as {both[0]}; check --train_list and --val_list")
    folder = os.path.join(dataset_root, "Context")
    converted = sum(label_files.convert_label(folder, *label, overwrite) for label in found)
    return _finish(dataset_root, splits, converted)


def class_table(names: Mapping[int, str]) -> np.ndarray:
    """The class of the 60 for each id of the source: uint8 [largest id + 1], 0 for background.

    Args:
        names (dict[int, str]): name of every class of the source, by its id.

    Raises:
        UserError: the source lacks one of the 59 classes.
    """
    ids: dict[str | None, int] = {}
    for number, name in names.items():
        ids.setdefault(_fold(name), number)
    table = np.zeros(max(names) + 1, np.uint8)
    missing: list[str] = []
    for class_id, name in enumerate(CLASS_NAMES["context"]):
        found = ids.get(name, ids.get(_OTHER_NAMES.get(name)))
        if found is not None:
            table[found] = class_id
        elif class_id:
            missing.append(name)
    if missing:
        raise UserError(f"the {len(names)} label names lack {', '.join(missing)}; take the "
                        f"official labels.txt (lines such as `1: accordion`)")
    return table


def read_label_names(labels: str, path: str | None = None) -> dict[int, str]:
    """Names of the 459 classes by id, from ``path`` or the labels.txt in or beside ``labels``.

    Raises:
        UserError: there is no such file, or a line is not as ``1: accordion``.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(labels)), "labels.txt")
    if path:
        archives.require_input(path, "--label_names", LABELS_ADVICE)
    content = Path(path).read_bytes() if path else next(
        (member.read() for member in archives.walk(labels, "looking for labels.txt")
         if _NAMES_FILE.fullmatch(member.name)), None)
    if content is None and os.path.isfile(beside):
        path, content = beside, Path(beside).read_bytes()
    if content is None:
        raise UserError(f"no labels.txt in or beside {labels}; download it from "
                        f"https://cs.stanford.edu/~roozbeh/pascal-context/ and name it with "
                        f"--label_names")
    names = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(\S.*?)\s*", line)
        if match and int(match[1]) not in names:
            names[int(match[1])] = match[2]
        elif line.strip():
            raise UserError(f"{path or labels + ': labels.txt'}, line {number}: `{line.strip()}` "
                            f"is not a new id and a name, such as `1: accordion`")
    if not names:
        raise UserError(f"{path or labels + ': labels.txt'} names no class; download it again")
    return names


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _copy_images(voc: str, root: str) -> dict[str, list[str]]:
    """Copy the images; return the names in VOC's own lists."""
    lists, targets = {}, archives.Targets(voc)
    for member in archives.walk(voc, "VOC images"):
        image, split = _IMAGE.fullmatch(member.name), _LIST.fullmatch(member.name)
        if image:
            name = targets.claim(image[1], member.size)
            archives.copy_member(member, os.path.join(root, "JPEGImages", name))
        elif split:
            lists[targets.claim(split[1])] = label_files.parse_list(
                member.read(), f"{voc}: {member.name}")
    return lists


def _read_mats(labels: str, table: np.ndarray) -> Iterator[_Label]:
    targets = archives.Targets(labels)
    for member in archives.walk(labels, "Context labels"):
        match = _MAT.fullmatch(member.name)
        if match:
            yield targets.claim(match[1]), partial(_map_classes, member, table, labels)


def _map_classes(member: archives.Member, table: np.ndarray, labels: str) -> np.ndarray:
    place = f"{labels}: {member.name}"
    label = matlab.read_mat_labels(member.read(), place, "LabelMap")
    if label.min() < 0 or label.max() >= len(table):
        raise UserError(f"{place} holds the class {max(label.max(), -label.min())}, but labels.txt "
                        f"ends at {len(table) - 1}; take the labels.txt that belongs to it")
    return table[label]


def _read_json(path: str) -> tuple[dict[str, list[str]], Iterator[_Label]]:
    """The lists and labels of the PASCAL in Detail annotations."""
    logger.info(f"reading {path}")
    try:
        if os.path.getsize(path) > _MOST_JSON_BYTES:
            raise ValueError(f"more than {_MOST_JSON_BYTES} bytes")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        images = _unique((_whole(image["image_id"]),
                          (os.path.splitext(image["file_name"])[0], image["phase"],
                           (_small(image["height"]), _small(image["width"]))))
                         for image in content["images"])
        table = class_table(_unique((_small(category["category_id"]), str(category["name"]))
                                    for category in content["categories"]))
        masks: dict[int, list] = {number: [] for number in images}
        for mask in content["annos_segmentation"]:
            if _whole(mask["image_id"]) in masks:
                masks[mask["image_id"]].append((_whole(mask["category_id"]),
                                                mask["segmentation"]))
        lists = {split: label_files.require_names(
            [name for name, phase, _ in images.values() if phase == split], f"{path} ({split})")
            for split in _EXPECTED}
        _unique((name.casefold(), name) for names in lists.values() for name in names)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a whole trainval_merged.json ({type(error).__name__}: "
                        f"{one_line(error)[:120]}); {LABELS_ADVICE}") from None

    def labels() -> Iterator[_Label]:
        for number, (name, phase, size) in progress(images.items(), "Context labels"):
            if phase in [*lists]:  # it need not be text
                yield name, partial(_paint, masks[number], size, table, f"{path}: {name}")

    return lists, labels()


def _unique(items: Iterable[tuple[Any, Any]]) -> dict:
    """The items as a dict; ``ValueError`` if a key stands there twice."""
    found: dict = {}
    for key, value in items:
        if key in found:
            raise ValueError(f"{str(key)[:40]} stands there twice")
        found[key] = value
    return found


def _whole(number: Any) -> int:
    """A whole number such as an id; ``ValueError`` if it is none."""
    if type(number) is not int:
        raise ValueError(f"{str(number)[:40]} is no whole number")
    return number


def _small(number: Any) -> int:
    """A length in pixels or a class's id; ``ValueError`` if it is none."""
    if not 0 <= _whole(number) <= _LARGEST:
        raise ValueError(f"{str(number)[:40]} is out of range")
    return number


def _paint(masks: list[tuple], size: tuple[int, int], table: np.ndarray,
           place: str) -> np.ndarray:
    """Class ids uint8 [H, W]: later masks lie over earlier ones, as in the official reader."""
    label = np.zeros(size, np.uint8)
    for category, encoded in masks:
        if not 0 <= category < len(table):
            raise UserError(f"{place} has a mask of class {category}, but the ids end at "
                            f"{len(table) - 1}; get it again")
        label[decode_mask(encoded, size, place)] = table[category]
    return label


def _finish(root: str, splits: dict[str, list[str]], converted: int) -> dict[str, Any]:
    """Write the lists of the images that are complete, and report."""
    used, reasons = {}, []
    for split, number in _EXPECTED.items():
        names = splits[split]
        used[split], left_out = label_files.complete(names, root, "Context", f"the {split}")
        if not used[split]:
            raise UserError(f"none of the {len(names)} {split} images, such as {names[0]}, has "
                            f"both an image and a label; check --voc and --labels")
        if len(names) != number:
            reasons.append(f"{split} lists {len(names)} images instead of {number}")
        reasons += left_out
    used["trainval"] = used["train"] + used["val"]
    for split in ("trainval", "train", "val"):
        label_files.write_list(root, f"{split}_context", used[split])
    line = (f"Pascal-Context: {len(used['train'])} training and {len(used['val'])} validation "
            f"images, 59 classes and the background; {converted} labels converted now")
    if reasons:
        logger.warning(f"{line}; not {' and '.join(map(str, _EXPECTED.values()))}: "
                       f"{'; '.join(reasons)}")
    else:
        logger.info(f"{line}; as in the benchmark")
    return {"train": len(used["train"]), "val": len(used["val"]), "converted": converted,
            "differences": reasons}
