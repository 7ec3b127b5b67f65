"""Label images and lists: MATLAB files in, palette PNGs and text files out."""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from paddle_csrl import visualize
from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path, write_text

_PALETTE = visualize.palette(256, "voc").tobytes()


def read_mat_labels(content: bytes, place: str, *keys: str) -> np.ndarray:
    """The label image in a MATLAB file.

    Args:
        content (bytes): the file.
        place (str): its name, for messages.
        *keys: the variable, and the field where that is a struct.

    Returns:
        int64 [H, W].

    Raises:
        UserError: the file is torn or holds no such image.
    """
    try:
        value = scipy.io.loadmat(io.BytesIO(content), variable_names=keys[:1])[keys[0]]
        for key in keys[1:]:
            value = value[0, 0][key]
        labels = np.asarray(value)
        whole = labels.astype(np.int64)
    except Exception as error:  # SciPy raises many types for a torn file
        raise UserError(f"{place} is no MATLAB file with {'.'.join(keys)} "
                        f"({' '.join(str(error).split())[:120]}); get it again") from None
    if labels.ndim != 2 or not labels.size or (labels != whole).any():
        raise UserError(f"{place}: {'.'.join(keys)} is {labels.dtype} {list(labels.shape)}, not a "
                        f"2-D image of class ids; get it again")
    return whole


def write_label(path: str, label: np.ndarray) -> None:
    """Write class ids [H, W], 0 to 255, as a PNG with VOC's palette, atomically."""
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(_PALETTE)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def convert_label(folder: str, name: str, read: Callable[[], np.ndarray],
                  overwrite: bool) -> bool:
    """Write the label that ``read`` gives, unless a whole one is there; return whether it was."""
    path = os.path.join(folder, f"{name}.png")
    if is_whole_label(path) and not overwrite:
        return False
    write_label(path, read())
    return True


def is_whole_label(path: str) -> bool:
    """Return whether there is a label image that decodes to its end."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.mode == "P"
    except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for a broken chunk
        return False


def parse_list(content: bytes, place: str) -> list[str]:
    """Names of images, the first word of each line.

    Raises:
        UserError: the list is empty or names something that is no file stem.
    """
    names = [line.split()[0] for line in content.decode("utf-8", "replace").splitlines()
             if line.strip()]
    if not names:
        raise UserError(f"{place} lists no image; get it again")
    for name in names:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"{place} lists {name!r}, which is no name of an image such as "
                            f"2007_000032; get it again")
    return names


def write_list(root: str, title: str, names: Iterable[str]) -> None:
    """Write one name a line into VOC's folder of lists, atomically."""
    write_text(os.path.join(root, "ImageSets", "Segmentation", f"{title}.txt"),
               "".join(f"{name}\n" for name in names))


def complete(names: Sequence[str], root: str, labels: str,
             whose: str = "") -> tuple[list[str], list[str]]:
    """Find the images that are there with their labels, in ``root``/JPEGImages and /``labels``.

    Returns:
        their names, and lines on the others, such as ``left out for want of a label: 2 of SBD's
        images, such as 2008_000001``.
    """
    there = {"label": {path.stem for path in Path(root, labels).glob("*.png")},
             "JPEG in VOC": {path.stem for path in Path(root, "JPEGImages").glob("*.jpg")}}
    left_out = []
    for what, present in there.items():
        missing = [name for name in names if name not in present]
        if missing:
            left_out.append(f"left out for want of a {what}: {len(missing)} of {whose} images, "
                            f"such as {missing[0]}")
    whole = set.intersection(*there.values())
    return [name for name in names if name in whole], left_out
