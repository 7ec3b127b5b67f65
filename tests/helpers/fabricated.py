"""Tiny data sets in the layouts of the real ones, for tests.

Every class occurs in every split, as a blob on the background (class 0) in a colour of its own, so
that there is something to learn. Every other image shows a single class, so that images are left
when those with unseen classes are dropped. Sizes vary by up to a quarter. The same arguments give
the same files.
"""

import math
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image

#: The value of unlabelled pixels.
IGNORED = 255


def make_voc(root: str, num_train: int = 6, num_val: int = 4, num_aug: int = 2,
             size: tuple[int, int] = (64, 80), seed: int = 0) -> str:
    """Pascal-VOC 2012 as PaddleSeg's ``PascalVOC`` expects it, with the SBD part (``aug``).

    Returns:
        the ``dataset_root``: ``root``/VOCdevkit.
    """
    base = os.path.join(root, "VOCdevkit", "VOC2012")
    names = _write_splits(base, {"train": num_train, "val": num_val, "aug": num_aug}, 21, size,
                          seed, {"train": "SegmentationClass", "val": "SegmentationClass",
                                 "aug": "SegmentationClassAug"})
    lists = {**names, "trainval": names["train"] + names["val"]}
    _write_lists(os.path.join(base, "ImageSets", "Segmentation"), lists)
    return os.path.dirname(base)


def make_context(root: str, num_train: int = 6, num_val: int = 4,
                 size: tuple[int, int] = (96, 120), seed: int = 0) -> str:
    """Pascal-Context as PaddleSeg's ``PascalContext`` expects it.

    Returns:
        the ``dataset_root``: ``root``/VOC2010.
    """
    base = os.path.join(root, "VOC2010")
    names = _write_splits(base, {"train": num_train, "val": num_val}, 60, size, seed,
                          {"train": "Context", "val": "Context"})
    lists = {**names, "trainval": names["train"] + names["val"]}
    _write_lists(os.path.join(base, "ImageSets", "Segmentation"),
                 {f"{split}_context": items for split, items in lists.items()})
    return base


def make_dataset(root: str, class_names: Sequence[str] = ("background", "cat", "dog", "cow", "car"),
                 num_train: int = 6, num_val: int = 4, size: tuple[int, int] = (64, 80),
                 seed: int = 0) -> str:
    """The generic layout of PaddleSeg's ``Dataset``: train.txt, val.txt, and classes.txt.

    Returns:
        the ``dataset_root``: ``root``/custom.
    """
    base = os.path.join(root, "custom")
    names = _write_splits(base, {"train": num_train, "val": num_val}, len(class_names), size, seed,
                          {"train": "labels", "val": "labels"}, image_folder="images")
    lists = {split: [f"images/{name}.jpg labels/{name}.png" for name in items]
             for split, items in names.items()}
    _write_lists(base, {**lists, "classes": class_names})
    return base


def draw_sample(classes: Sequence[int], num_classes: int, size: tuple[int, int],
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image with a blob of each of ``classes``.

    Returns:
        (uint8 [H, W, 3] RGB, uint8 [H, W] class ids with some 255).
    """
    height, width = (int(length * rng.uniform(0.75, 1.0)) for length in size)
    label = np.zeros((height, width), np.uint8)
    columns = math.ceil(math.sqrt(len(classes)))
    rows = math.ceil(len(classes) / columns)
    cell = np.array([width / columns, height / rows])
    for place, class_id in enumerate(classes):
        center = (np.array([place % columns, place // columns]) + rng.uniform(0.42, 0.58, 2)) * cell
        radii = np.maximum(2, cell * rng.uniform(0.25, 0.4, 2))
        cv2.ellipse(label, tuple(map(int, center)), tuple(map(int, radii)), 0, 0, 360,
                    int(class_id), -1)
    image = _colors(num_classes)[label] + rng.normal(0, 6, (height, width, 3))
    label[:2] = IGNORED
    return np.clip(image, 0, 255).astype(np.uint8), label


def pairs(root: str, split: str) -> list[list[str]]:
    """Image and label path of every sample of a split of ``make_dataset``."""
    with open(os.path.join(root, f"{split}.txt"), encoding="utf-8") as file:
        return [[os.path.join(root, name) for name in line.split()] for line in file]


def damage(path: str | os.PathLike, content: bytes | None = None) -> None:
    """Cut a file short, or write another ``content``."""
    with open(path, "r+b") as file:
        whole = file.read()
        file.seek(0)
        file.truncate()
        file.write(whole[:int(len(whole) * 0.6)] if content is None else content)


def read_label(path: str | os.PathLike) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def write_label(path: str, label: np.ndarray, palette: bool = True) -> None:
    """Write class ids as a PNG, with a palette as VOC's, or as grey values."""
    picture = Image.fromarray(label)
    if palette:
        colors = np.full((256, 3), 224, np.uint8)
        colors[:255] = _colors(255)
        picture.putpalette(colors.tobytes())
    picture.save(path)


def swap_ids(root: str, first: int, second: int) -> None:
    """Give each of two classes the other's id in all labels below ``root``."""
    for parent, _, names in os.walk(root):
        for name in names:
            if name.endswith(".png"):
                path = os.path.join(parent, name)
                with Image.open(path) as image:
                    label = np.array(image)
                table = np.arange(256, dtype=np.uint8)
                table[[first, second]] = second, first
                write_label(path, table[label])


def _colors(num_classes: int) -> np.ndarray:
    return np.random.default_rng(7).integers(20, 236, (num_classes, 3)).astype(np.uint8)


def _write_splits(base: str, sizes: dict[str, int], num_classes: int, size: tuple[int, int],
                  seed: int, label_folders: dict[str, str],
                  image_folder: str = "JPEGImages") -> dict[str, list[str]]:
    """Write images and labels; return the file stems of every split."""
    names: dict[str, list[str]] = {}
    for split_id, (split, number) in enumerate(sizes.items()):
        for folder in (image_folder, label_folders[split]):
            os.makedirs(os.path.join(base, folder), exist_ok=True)
        names[split] = [f"{split}_{index:04d}" for index in range(number)]
        for index, name in enumerate(names[split]):
            rng = np.random.default_rng([seed, split_id, index])
            image, label = draw_sample(_classes(index, number, num_classes), num_classes, size, rng)
            Image.fromarray(image).save(os.path.join(base, image_folder, f"{name}.jpg"), quality=95)
            # The real SBD masks are grey, those of VOC have a palette.
            write_label(os.path.join(base, label_folders[split], f"{name}.png"), label,
                        palette=split != "aug")
    return names


def _classes(index: int, number: int, num_classes: int) -> np.ndarray:
    """Classes of an image: even ones share all classes out among them, odd ones have one each."""
    per_image = 1 if index % 2 else max(2, math.ceil((num_classes - 1) / math.ceil(number / 2)))
    return np.unique(1 + (index // 2 * per_image + np.arange(per_image)) % (num_classes - 1))


def _write_lists(folder: str, lists: dict[str, Iterable[str]]) -> None:
    os.makedirs(folder, exist_ok=True)
    for name, lines in lists.items():
        with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
