"""The official archives of Pascal VOC, SBD and Pascal-Context in miniature, for tests."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable

import numpy as np
import pycocotools.mask
import scipy.io
from PIL import Image
from scipy.sparse import csc_matrix

#: Ids of the 59 classes in Pascal-Context's labels.txt, ascending, which is the project's order.
CONTEXT_IDS = (2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104,
               105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295,
               296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427,
               440, 445, 454, 458)

VOC_TRAIN = ["2007_000032", "2007_000039", "2008_000001"]
VOC_VAL = ["2007_000033", "2008_000002"]
# One of SBD's images is in VOC's training list and one in its validation list.
SBD_TRAIN = ["2008_000001", "2008_000010", "2008_000011", "2008_000012"]
SBD_VAL = ["2008_000002", "2008_000020"]
AUG = ["2008_000010", "2008_000011", "2008_000012", "2008_000020"]

CONTEXT_TRAIN = ["2008_000101", "2008_000102", "2008_000103"]
CONTEXT_VAL = ["2008_000201", "2008_000202"]

SIZE = (40, 48)

Files = dict[str, bytes]


def class_map(name: str, num_classes: int) -> np.ndarray:
    """int [40, 48]: the background and two classes, different ones for different images."""
    rng = np.random.default_rng(int(name.replace("_", "")))
    label = np.zeros(SIZE, np.int64)
    first, second = 1 + rng.choice(num_classes - 1, 2, replace=False)
    label[3:20, 5:30], label[18:36, 25:44] = first, second
    return label


def encode(picture: np.ndarray, kind: str) -> bytes:
    """An image file; 2-D arrays become palette images."""
    image = Image.fromarray(picture.astype(np.uint8))
    if picture.ndim == 2:
        image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def mat(**variables) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=True)
    return stream.getvalue()


def text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def voc_files(year: str = "VOC2012", names: Iterable[str] = VOC_TRAIN + VOC_VAL + AUG,
              train: list[str] = VOC_TRAIN, val: list[str] = VOC_VAL) -> Files:
    """The content of VOCtrainval_11-May-2012.tar: lists come before images, as in the real one."""
    base = f"VOCdevkit/{year}"
    files = {f"{base}/Annotations/{names[0]}.xml": b"<annotation/>"}
    for kind in ("Main", "Segmentation"):
        for split, items in {"train": train, "val": val, "trainval": train + val}.items():
            files[f"{base}/ImageSets/{kind}/{split}.txt"] = text(items)
    files[f"{base}/ImageSets/Main/cow_train.txt"] = text(f"{name} -1" for name in train)
    for name in names:
        noise = np.random.default_rng(len(files)).integers(0, 256, (*SIZE, 3))
        files[f"{base}/JPEGImages/{name}.jpg"] = encode(noise, "JPEG")
    for name in train + val:
        label = class_map(name, 21)
        label[0] = 255
        files[f"{base}/SegmentationClass/{name}.png"] = encode(label, "PNG")
        files[f"{base}/SegmentationObject/{name}.png"] = encode(label, "PNG")
    return files


def sbd_files() -> Files:
    """The content of benchmark.tgz."""
    base = "benchmark_RELEASE/dataset"
    files = {"benchmark_RELEASE/README": b"SBD\n"}
    for name in sorted({*SBD_TRAIN, *SBD_VAL}):
        files[f"{base}/cls/{name}.mat"] = sbd_mat(class_map(name, 21))
        files[f"{base}/inst/{name}.mat"] = b"not read"
        files[f"{base}/img/{name}.jpg"] = b"not read"
    files[f"{base}/train.txt"], files[f"{base}/val.txt"] = text(SBD_TRAIN), text(SBD_VAL)
    return files


def sbd_mat(label: np.ndarray) -> bytes:
    """A ``GTcls`` struct with its cell array of sparse boundaries."""
    boundaries = np.empty((20, 1), object)
    for class_id in range(20):
        boundaries[class_id, 0] = csc_matrix(label == class_id + 1, dtype=np.float64)
    present = np.setdiff1d(np.unique(label), [0, 255]).astype(np.uint8)[:, None]
    return mat(GTcls={"Boundaries": boundaries, "CategoriesPresent": present,
                      "Segmentation": label.astype(np.uint8)})


def context_names(class_names: list[str]) -> dict[int, str]:
    """459 names by id, the 59 at their places."""
    names = {number: f"other {number}" for number in range(1, 460)}
    names.update(zip(CONTEXT_IDS, class_names[1:]))
    return names


def context_map(name: str) -> np.ndarray:
    """int [40, 48]: 459-class ids; 1 and 459 are none of the 59."""
    label = np.append(0, CONTEXT_IDS)[class_map(name, 60)]
    label[38, :20], label[39, :20] = 1, 459
    return label


def context_files(class_names: list[str]) -> Files:
    """The content of trainval.tar.gz, with labels.txt."""
    names = context_names(class_names)
    files = {f"trainval/{name}.mat": mat(LabelMap=context_map(name).astype(np.uint16))
             for name in CONTEXT_TRAIN + CONTEXT_VAL}
    files["labels.txt"] = text(f"{number}: {name}" for number, name in names.items())
    return files


def context_json(class_names: list[str]) -> bytes:
    """The content of trainval_merged.json: only the 59 classes, a mask per class and image."""
    images, masks = [], []
    for split, items in {"train": CONTEXT_TRAIN, "val": CONTEXT_VAL,
                         "test": ["2008_000301"]}.items():
        for name in items:
            number = int(name.replace("_", ""))
            images.append({"image_id": number, "file_name": f"{name}.jpg", "phase": split,
                           "height": SIZE[0], "width": SIZE[1]})
            label = context_map(name)
            for category in np.intersect1d(label, CONTEXT_IDS):
                masks.append({"id": len(masks), "image_id": number, "category_id": int(category),
                              "segmentation": {"size": list(SIZE),
                                               "counts": run_lengths(label == category)}})
    categories = [{"category_id": number, "name": name, "onlysemantic": 0}
                  for number, name in zip(CONTEXT_IDS, class_names[1:])]
    return json.dumps({"info": {}, "images": images, "categories": categories,
                       "annos_segmentation": masks, "annos_joints": []}).encode()


def run_lengths(mask: np.ndarray) -> str:
    """COCO's text form of a mask."""
    return pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def write_tar(path, files: Files, links: Iterable[tuple[str, str]] = ()) -> str:
    """A tar archive, compressed where the name says so, with folders and, at will, links."""
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        folder = tarfile.TarInfo(next(iter(files)).split("/")[0])
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def write_zip(path, files: Files) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def write_folder(path, files: Files) -> str:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return str(path)
