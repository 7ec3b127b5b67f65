"""Label images and lists: palette PNGs and text files."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_csrl import visualize
from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path, write_text
from paddle_csrl.utils.io import write_image

_PALETTE = visualize.palette(256, "voc").tobytes()


def write_label(path: str, label: np.ndarray) -> None:
    """Write class ids [H, W], 0 to 255, as a PNG with VOC's palette, atomically."""
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(_PALETTE)
    with atomic_path(path) as temporary:
        write_image(temporary, picture, "PNG")


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
    except Exception:  # Pillow raises many types on broken files
        return False


def parse_list(content: bytes, place: str) -> list[str]:
    """Names of images, the first word of each line.

    Raises:
        UserError: the list is empty or names something that is no file stem.
    """
    names = [line.split()[0] for line in content.decode("utf-8", "replace").splitlines()
             if line.strip()]
    return require_names(names, place)


def require_names(names: list[str], place: str) -> list[str]:
    """Return ``names`` of images, without ending, as they are.

    Raises:
        UserError: there is none, or one that is no file stem.
    """
    if not names:
        raise UserError(f"{place} lists no image; get it again")
    for name in names:
        if not re.fullmatch(r"[\w-]{1,100}", name):
            raise UserError(f"{place} lists {name[:99]!r}, which is no name of an image such as "
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
