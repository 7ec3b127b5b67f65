"""Finding, naming and reading the images to predict."""

import copy
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from paddleseg.transforms import Compose
from paddleseg.utils import logger

from paddle_csrl.datasets.file_format import is_deep, open_image, orientation, turned
from paddle_csrl.datasets.label_scan import require_whole_image
from paddle_csrl.errors import UserError

#: Endings of the files that count as images, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SEPARATORS = re.compile("[\t,;]")  # beside blanks, which names may have


class ImageFile(NamedTuple):
    """An image and the relative name, without ending, that its results get."""

    path: str
    name: str


class Sample(NamedTuple):
    """One image, read.

    Attributes:
        image (np.ndarray): uint8 RGB [H, W, 3], as it is in the file or made smaller.
        pixels (np.ndarray): float32 [1, K, h, w], what the network reads.
        trans_info (list): how the size was changed, as PaddleSeg notes it.
    """

    image: np.ndarray
    pixels: np.ndarray
    trans_info: list


def find_images(image_path: str, skipped: Iterable[str] = ()) -> list[ImageFile]:
    """The images that ``--image_path`` names.

    Args:
        image_path (str): an image, a folder that is searched with all its subfolders, or a text
            file with one image a line: a path relative to that file, which may be followed by
            others (a label) after a blank, tab, comma or semicolon, as in PaddleSeg's lists.
            Listed files need not exist; reading them fails later, one by one.
        skipped (iterable of str): folders that are not searched, such as those of results.

    Returns:
        list[ImageFile]: in the order of the list, or of the names in a folder. Results keep the
            subfolders; where two images differ in their ending alone, they keep that too.

    Raises:
        UserError: there is nothing at the path, or no image.
    """
    if os.path.isdir(image_path):
        files = list(_walk(image_path, {os.path.realpath(folder) for folder in skipped}))
        paths = [path for path in files if path.lower().endswith(SUFFIXES)]
        if not paths:
            raise UserError(f"--image_path {image_path}: no file in this folder ends in "
                            f"{', '.join(SUFFIXES)}")
        others = sorted({*files}.difference(paths))
        if others:  # a telephone's .heic among them
            logger.warning(f"--image_path {image_path}: {len(others)} of {len(files)} files are "
                           f"passed over, such as {others[0]}; images end in "
                           f"{', '.join(SUFFIXES)}")
        return _named(paths, image_path)
    if not os.path.isfile(image_path):
        raise UserError(f"--image_path {image_path}: no such file or folder")
    folder = os.path.dirname(image_path)
    if image_path.lower().endswith(SUFFIXES):
        return _named([image_path], folder)
    return _named(_read_list(image_path), folder)


def _walk(folder: str, skipped: set) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(os.path.join(parent, name)) not in skipped)
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                logger.warning(f"--image_path {folder}: the linked folder "
                               f"{os.path.join(parent, name)} is not searched; name it itself")
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(parent, name)


def _read_list(path: str) -> list[str]:
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        if "\0" in text:
            raise ValueError
    except ValueError:  # a UnicodeDecodeError is one
        raise UserError(f"--image_path {path} is neither an image ({', '.join(SUFFIXES)}) nor a "
                        f"UTF-8 text file that lists images") from None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"--image_path {path} lists no image; write one path a line")
    return list(dict.fromkeys(_image_of(line, folder) for line in lines))


def _image_of(line: str, folder: str) -> str:
    """The path at the beginning of a line: the longest that is there, else up to a blank."""
    names = line, _SEPARATORS.split(line)[0].strip(), line.split()[0]
    paths = [os.path.join(folder, name) for name in names]
    return next(filter(os.path.isfile, paths), paths[-1])


def _named(paths: Sequence[str], root: str) -> list[ImageFile]:
    root = os.path.abspath(root)
    absolute = [os.path.abspath(path) for path in paths]
    if any(os.path.commonpath([root, path]) != root for path in absolute):
        root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    names = [os.path.relpath(path, root) for path in absolute]
    stems = [os.path.splitext(name)[0] for name in names]
    taken = Counter(stems)
    return [ImageFile(path, stem if taken[stem] == 1 else name)
            for path, name, stem in zip(paths, names, stems)]


class ImageReader:
    """Reads an image as PaddleSeg's data sets do and applies the transforms.

    What an EXIF orientation turns comes turned, as viewers show it.

    Args:
        transforms (Compose): the validation transforms.
        most_pixels (int, optional): a larger image is made smaller before the transforms.

    Attributes:
        deep (list[str]): images that were read although they have more than 8 bits.
    """

    def __init__(self, transforms: Compose, most_pixels: int | None = None):
        self.transforms, self.most_pixels = copy.copy(transforms), most_pixels
        self.transforms.transforms = [_noting(step) for step in transforms.transforms]
        self.deep: list[str] = []

    def __call__(self, path: str) -> Sample:
        """Read the image at ``path``.

        Raises:
            UserError: the file is missing, cut short, no picture, or not to be decoded.
        """
        if not os.path.isfile(path):
            raise UserError(f"no file at {path}")
        require_whole_image(path)
        # By its bytes: cv2.imread crashes at a name that is not UTF-8.
        content = np.fromfile(path, np.uint8)
        pixels = self._decoded(content, path) if content.size else None
        if pixels is None:
            raise UserError(f"{path} is not a picture that OpenCV reads; save it as JPEG or "
                            f"PNG")
        pixels = self._made_smaller(pixels)
        if is_deep(path):
            self.deep.append(path)
        to_rgb = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
        data: dict[str, Any] = self.transforms({"img": pixels.astype("float32")})
        return Sample(cv2.cvtColor(pixels, to_rgb), np.asarray(data["img"], np.float32)[None],
                      list(data["trans_info"]))

    def _decoded(self, content: np.ndarray, path: str) -> np.ndarray | None:
        """Decode a file; OpenCV turns what an EXIF orientation turns, but for WebP images."""
        flags = self.transforms.read_flag
        try:
            if content[8:12].tobytes() != b"WEBP":
                return cv2.imdecode(content, flags)
            pixels = cv2.imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:  # such as more pixels than its own limit
            return None
        if pixels is None:
            return None
        with open_image(path) as image:
            return turned(pixels, orientation(image))

    def _made_smaller(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        scale = (self.most_pixels / (height * width))**0.5 if self.most_pixels else 1
        if scale >= 1:
            return pixels
        size = max(int(scale * width), 1), max(int(scale * height), 1)
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _noting(transform: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Have a transform note how it changed the size if it does not, as ResizeShortSide."""
    def run(data: dict[str, Any]) -> dict[str, Any]:
        size, notes = data["img"].shape[:2], len(data["trans_info"])
        data = transform(data)
        if data["img"].shape[:2] != size and len(data["trans_info"]) == notes:
            data["trans_info"].append(("resize", size))
        return data

    return run


def read_ahead(read: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """``map(read, items)`` with ``threads`` (>= 1) results read ahead in as many threads."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
