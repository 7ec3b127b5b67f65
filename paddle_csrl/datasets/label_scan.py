"""One pass over the files of a data set: pixels per class in every label, and what is broken."""

import contextlib
import functools
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import cv2
import numpy as np
from paddleseg.utils import logger
from PIL import Image, ImageFile
from scipy.sparse import csr_array

from paddle_csrl import parallel
from paddle_csrl.datasets.file_format import (
    LOSSY,
    OF_DEEP,
    TURNS,
    ImageFacts,
    is_deep,
    open_image,
    orientation,
    require_decodable,
)
from paddle_csrl.datasets.fingerprint import (
    FileList,
    cache_folder,
    file_status,
    fingerprint,
    in_threads,
)
from paddle_csrl.errors import UserError
from paddle_csrl.utils.arrays import read_npz, save_arrays
from paddle_csrl.utils.cores import usable_cores
from paddle_csrl.utils.counts import count_bytes

# A scan computes, for most files were just read for their fingerprint: more threads than cores wait
# for each other's turn in Python.
_THREADS = min(8, usable_cores())
_BYTE_MODES = ("L", "P")  # of Pillow, with a byte a pixel
#: How many largest ids tell that labels count objects. Three occur among labels of few classes.
_LEVELS = 5
_STRETCHED = ("L;2", "L;4", "L;I")  # how Pillow calls grey of 2 and 4 bits, and 0 as white


class LabelScan(NamedTuple):
    """Pixels by class in every label; sparse, for an image has few of many classes.

    Attributes:
        counts (csr_array): int64 [N, C], pixels of every class in every label.
        unlabelled (np.ndarray): int64 [N], pixels with the value ``ignore_index``.
        colors (dict[int, int]): 0xRRGGBB by class, of the first label with a palette that has it.
        doubts (tuple[str]): what is doubtful about the files, each kind with one of them.
    """

    counts: csr_array
    unlabelled: np.ndarray
    colors: dict[int, int] = {}
    doubts: tuple[str, ...] = ()

    @classmethod
    def of_dense(cls, counts: np.ndarray) -> "LabelScan":
        """The scan of fully labelled images with ``counts`` int64 [N, C]."""
        return cls(csr_array(counts), np.zeros(len(counts), np.int64))


class _Columns(NamedTuple):
    """A scan as arrays that travel and are stored: M pairs of an image and a class in it."""

    lengths: np.ndarray  # int64 [N], classes in every image
    classes: np.ndarray  # int32 [M]
    pixels: np.ndarray  # int64 [M]
    colors: np.ndarray  # int32 [M], 0xRRGGBB of the label's palette; -1 without one
    unlabelled: np.ndarray  # int64 [N]
    turns: np.ndarray  # uint8 [N], EXIF orientation that the label is not known to share, or 1
    deep: np.ndarray  # uint8 [N], 1 for an image of more than 8 bits
    bilevel: np.ndarray  # uint8 [N], 1 for a label of 1 bit without a palette

    def scan(self, num_classes: int, doubts: tuple[str, ...]) -> LabelScan:
        width = np.int32 if len(self.classes) < 2**31 else np.int64  # of both kinds of index
        starts = np.concatenate([[0], np.cumsum(self.lengths)]).astype(width)
        has_color = self.colors >= 0
        classes, first = np.unique(self.classes[has_color], return_index=True)
        colors = dict(zip(classes.tolist(), self.colors[has_color][first].tolist()))
        return LabelScan(csr_array((self.pixels, self.classes, starts),
                                   shape=(len(self.lengths), num_classes)),
                         self.unlabelled, colors, doubts)


_CODES = "qiqiqBBB"  # of their types


def scan_labels(file_list: FileList, num_classes: int, ignore_index: int = 255,
                cache_dir: str | None = None, title: str = "checking labels",
                zero_is_unlabelled: bool = False, num_workers: int = 0) -> LabelScan:
    """Read every label once, check every file, and remember the outcome.

    The result is kept in ``cache_dir`` under the files' ``fingerprint``, so that a second call
    decodes nothing. Threads do the work: decoding releases the interpreter, and processes would
    cost their start-up and Paddle's import. Of several processes each reads its share of the
    labels; the first one keeps the result. What is doubtful about the files is logged, each kind
    with one of them.

    Args:
        file_list (list[(str, str)]): N pairs of image and label file.
        num_classes (int): C.
        ignore_index (int): the label value of pixels without a class.
        cache_dir (str, optional): where results are kept. Default: the environment variable
            PADDLE_CSRL_CACHE, else ``.cache/paddle_csrl`` below the current folder.
        title (str): what the progress bar says.
        zero_is_unlabelled (bool): the files hold 0 for unlabelled and class + 1 elsewhere
            (ADE20K); PaddleSeg takes one off, and so does the scan.
        num_workers (int): number of threads; 0 for one a core, 8 at most.

    Returns:
        LabelScan.

    Raises:
        UserError: a file is missing or cut short, a label is no 2-D index image, differs in size
            from its image, was saved with losses or holds a value that is no class, or an image
            has an EXIF orientation that its label does not show. The message names the file.
    """
    key = repr((fingerprint(file_list, cache_dir), num_classes, ignore_index, zero_is_unlabelled))
    path = os.path.join(cache_folder(cache_dir),
                        f"labels_{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz")
    columns = _load(path, len(file_list), num_classes) if parallel.is_first() else None
    is_new = not parallel.from_first(np.array([columns is not None], np.int64))[0]
    if is_new:
        own = np.array_split(np.arange(len(file_list)), parallel.world_size())
        columns = _scan([file_list[index] for index in own[parallel.rank()]], num_classes,
                        ignore_index, title, zero_is_unlabelled, num_workers)
        columns = _Columns(*(np.concatenate(parallel.collect(column)) for column in columns))
    columns = columns or _Columns(*(np.zeros(0, code) for code in _CODES))
    columns = _Columns(*map(parallel.from_first, columns))
    _require_upright(columns.turns, file_list)
    if is_new and parallel.is_first():
        _save(path, columns)
    scan = columns.scan(num_classes, tuple(_doubts(columns, file_list)))
    for doubt in scan.doubts:
        _tell_once(doubt)
    return scan


def class_pixels(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur in a label of ids, of any shape, ascending, and their counts."""
    if label.dtype == bool:  # a file of 1 bit
        label = label.astype(np.uint8)
    if label.dtype != np.uint8:
        return np.unique(label, return_counts=True)
    counts = count_bytes(label)
    values = np.flatnonzero(counts)
    return values, counts[values]


def require_classes(values: Iterable[int], num_classes: int, ignore_index: int,
                    path: str) -> None:
    """Raise ``UserError`` naming ``path`` if ``values`` holds anything but classes."""
    for value in values:
        if value != ignore_index and not 0 <= value < num_classes:
            raise UserError(f"label {path} holds {value}, but with {num_classes} classes the ids "
                            f"are 0 to {num_classes - 1} ({ignore_index} where there is none); "
                            f"mend the label or set `num_classes`")


def require_whole_image(path: str) -> ImageFacts:
    """Raise ``UserError`` if an image is missing, must not be decoded, or is a cut JPEG or PNG.

    A cut image would not fail to load: OpenCV fills what is missing with grey. Only the end of
    the file is read; if the end marker is not there, the image is decoded before the verdict.

    Returns:
        ImageFacts: what was seen.
    """
    file_status(path, "image")
    facts = require_decodable(path)
    if not facts.has_end:
        _decode(path, "image")
    return facts


def require_readable(image_path: str, label_path: str | None) -> None:
    """Raise ``UserError`` if the image or the label cannot be decoded."""
    require_whole_image(image_path)
    read_image(image_path)
    if label_path:
        read_label(label_path)


def read_label(path: str, zero_is_unlabelled: bool = False) -> np.ndarray:
    """The label as PaddleSeg reads it: palette images as indices.

    Returns:
        integer array [H, W].

    Raises:
        UserError: the file is missing, broken, or not a 2-D index image.
    """
    with _opened_label(path) as image:
        return _ids(image, path, zero_is_unlabelled)


def _scan(file_list: FileList, num_classes: int, ignore_index: int, title: str,
          zero_is_unlabelled: bool, num_workers: int) -> _Columns:

    def scan_one(pair: Sequence[str]) -> tuple:
        image_path, label_path = pair
        image = require_whole_image(image_path)
        with _opened_label(label_path) as label:
            shape = label.height, label.width
            pixels = _pixels(label, label_path, zero_is_unlabelled)
            palette = (label.mode == "P" and label.getpalette()) or []
            bilevel = label.mode == "1"
        turn = _unshared_turn(image, image_path, label_path, shape)
        require_classes(pixels, num_classes, ignore_index, label_path)
        unlabelled = pixels.pop(ignore_index, 0)
        return ([len(pixels)], pixels.keys(), pixels.values(), _colors(palette, pixels),
                [unlabelled], [turn], [is_deep(image_path, image.head)], [bilevel])

    columns = [array(code) for code in _CODES]
    for parts in in_threads(scan_one, file_list, title, num_workers or _THREADS):
        for column, part in zip(columns, parts):
            column.extend(part)
    return _Columns(*map(np.asarray, columns))


def _pixels(image: Image.Image, path: str, zero_is_unlabelled: bool) -> dict[int, int]:
    """The values that occur in an opened label, ascending, and their counts."""
    if image.mode not in _BYTE_MODES:
        values, counts = class_pixels(_ids(image, path, zero_is_unlabelled))
        return dict(zip(values.tolist(), counts.tolist()))
    # Of Pillow's memory, which NumPy would copy first; and no NumPy for a few numbers.
    histogram = image.histogram()
    if zero_is_unlabelled:
        histogram = histogram[1:] + histogram[:1]
    return {value: count for value, count in enumerate(histogram) if count}


def _colors(palette: Sequence[int], classes: Iterable[int]) -> list[int]:
    """The colours 0xRRGGBB that the palette of a label gives to ``classes``, -1 for none."""
    return [int.from_bytes(palette[3 * class_id:3 * class_id + 3], "big")
            if 3 * class_id < len(palette) else -1 for class_id in classes]


def _require_upright(turns: np.ndarray, file_list: FileList) -> None:
    """Raise ``UserError`` if labels are not known to be turned like their images."""
    turned = np.flatnonzero(turns != 1)
    if len(turned):
        image, label = file_list[turned[0]]
        turn = int(turns[turned[0]])
        more = f" ({len(turned) - 1} more such images)" if len(turned) > 1 else ""
        raise UserError(
            f"image {image} is {TURNS[turn]} by its EXIF orientation {turn} when it is read, and "
            f"its label {label} is not known to be{more}; write the images upright without the "
            f"tag, or take the tag away where it is the stored pixels that the labels fit")


@functools.cache
def _tell_once(doubt: str) -> None:
    """Log a doubt: several data sets of a run are made of the same files."""
    logger.warning(doubt)


def _doubts(columns: _Columns, file_list: FileList) -> Iterator[str]:
    """Say what is doubtful about the files, each kind in a sentence that names one of them."""
    deep = np.flatnonzero(columns.deep)
    if len(deep):
        yield (f"{len(deep)} images are not of 8 bits, such as {file_list[deep[0]][0]}: "
               f"{OF_DEEP}")
    if len(file_list) > 1 and not columns.classes.any() and columns.unlabelled.any():
        yield (f"none of {len(file_list)} labels, such as {file_list[0][1]}, holds an id above "
               f"0, but unlabelled pixels; a mask, whose brightest value means an object, is "
               f"no label of class ids")
    bilevel = np.flatnonzero(columns.bilevel)
    if 0 < len(bilevel) < len(file_list):
        yield (f"{len(bilevel)} of {len(file_list)} labels are of 1 bit, such as "
               f"{file_list[bilevel[0]][1]}: white is read as id 1 there; where a program made 1 "
               f"bit of 0 and 255, write 8 bits")
    files = np.repeat(np.arange(len(file_list)), columns.lengths)
    largest = np.zeros(len(file_list), np.int64)
    np.maximum.at(largest, files, columns.classes)
    shows = np.flatnonzero(largest)
    has_all = largest == np.bincount(files[columns.classes > 0], minlength=len(file_list))
    if has_all.all() and len(np.unique(largest[shows])) >= _LEVELS:
        most = int(largest.argmax())
        yield (f"every label has all ids from 1 to its largest, between {largest[shows].min()} and "
               f"{largest[most]}, such as {file_list[most][1]}; labels that number what is in "
               f"each image, as VOC's SegmentationObject, are no labels of class ids")
    has_color = columns.colors >= 0
    files, classes, colors = files[has_color], columns.classes[has_color], columns.colors[has_color]
    _, first, class_of = np.unique(classes, return_index=True, return_inverse=True)
    other = np.flatnonzero(colors != colors[first][class_of])
    if len(other):
        row = other[0]
        yield (f"{len(np.unique(files[other]))} labels have another palette than others: id "
               f"{classes[row]} has one colour in {file_list[files[row]][1]} and another in "
               f"{file_list[files[first[class_of[row]]]][1]}. Ids are read, not colours; if a "
               f"program chose the palettes, write ids that mean the same in all")


def _unshared_turn(image: ImageFacts, image_path: str, label_path: str,
                   shape: tuple[int, int]) -> int:
    """The EXIF orientation of an image where, by its size, its label may not be turned; else 1.

    Raises:
        UserError: they differ in size without being turned.
    """
    if image.size == shape:
        return image.turn
    pixels = read_image(image_path)  # turned, unlike the size that is stored
    if pixels.shape[:2] != shape:
        raise UserError(f"label {label_path} is {shape[0]} x {shape[1]} pixels (height x width), "
                        f"but its image {image_path} is {pixels.shape[0]} x {pixels.shape[1]}; "
                        f"the two must agree")
    return 1


@contextlib.contextmanager
def _opened_label(path: str) -> Iterator[Image.Image]:
    file_status(path, "label")
    with _opened(path, "label") as image:
        if image.format in LOSSY:
            raise UserError(f"label {path} is a {image.format}, whose ids are not those that were "
                            f"written; save labels as PNG")
        if _is_stretched(image):
            raise UserError(f"label {path} has grey values of another range, which are stretched "
                            f"when they are read, as 1 of 4 bits to 17, so that its ids cannot be "
                            f"told; save labels as PNG of 8 bits")
        if orientation(image) != 1:
            raise UserError(f"label {path} has an EXIF orientation, which is not looked at where "
                            f"ids are read; write it upright, like its image, without the tag")
        yield image


def _is_stretched(image: Image.Image) -> bool:
    """Tell if Pillow reads other grey values than an opened file has."""
    codec, _, _, how = cast(ImageFile.ImageFile, image).tile[0]
    stored, largest = how[:2] if isinstance(how, tuple) else (how, 255)
    return str(stored).startswith(_STRETCHED) or (
        codec.startswith("ppm") and image.mode != "1" and largest not in (255, 65535))


def _ids(image: Image.Image, path: str, zero_is_unlabelled: bool) -> np.ndarray:
    """The pixels [H, W] of an opened label."""
    label = np.asarray(image)
    if label.ndim != 2 or label.dtype.kind not in "uib":
        raise UserError(f"label {path} is {label.dtype} {list(label.shape)}; it must be a "
                        f"single-channel image of class ids")
    return label - label.dtype.type(1) if zero_is_unlabelled else label


def _decode(path: str, kind: str) -> np.ndarray:
    with _opened(path, kind) as image:
        return np.asarray(image)


@contextlib.contextmanager
def _opened(path: str, kind: str) -> Iterator[Image.Image]:
    try:
        with open_image(path) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and others
        raise _unreadable(kind, path, str(error)) from error


def read_image(path: str) -> np.ndarray:
    """The image as OpenCV reads it, uint8 BGR [H, W, 3].

    Raises:
        UserError: it is missing, must not be decoded, or is no picture.
    """
    file_status(path, "image")
    require_decodable(path)
    try:
        image = cv2.imread(path)
    except cv2.error as error:  # such as more pixels than its own limit
        raise _unreadable("image", path, str(error)) from None
    if image is None:
        raise _unreadable("image", path, "not a picture that OpenCV reads")
    return image


def _unreadable(kind: str, path: str, reason: str) -> UserError:
    return UserError(f"{kind} {path} cannot be read ({' '.join(reason.split())}); copy it again "
                     f"from its source, save it as PNG, or take it out of the list of files")


def _load(path: str, num_images: int, num_classes: int) -> _Columns | None:
    """Load the scan kept at ``path``; ``None`` if there is none or it is damaged."""
    try:
        content = read_npz(path)
        columns = _Columns(*(content[name].astype(code, casting="safe")
                             for name, code in zip(_Columns._fields, _CODES)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    lengths, classes = columns.lengths, columns.classes
    fits = (all(column.shape == (num_images,) for column in (
        lengths, columns.unlabelled, columns.turns, columns.deep, columns.bilevel))
            and (lengths >= 0).all()
            and all(column.shape == (lengths.sum(),) for column in (
                classes, columns.pixels, columns.colors))
            and ((0 <= classes) & (classes < num_classes)).all())
    return columns if fits else None


def _save(path: str, columns: _Columns) -> None:
    try:
        save_arrays(path, columns._asdict(), compressed=True)
    except OSError as error:
        logger.warning(f"the label scan could not be kept at {path} ({error.strerror}); it will "
                       f"be done again next time. Set `cache_dir` to a folder you may write to")
