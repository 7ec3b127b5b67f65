"""Label images and lists: MATLAB files in, palette PNGs and text files out."""

import io
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.io
from PIL import Image

from paddle_csrl import visualize
from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path

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


def write_list(path: str, names: Iterable[str]) -> None:
    """Write one name a line, atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)


def stems(folder: str, extension: str) -> set:
    """Names without ``extension`` of the files in ``folder`` that end in it."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {name[:-len(extension)] for name in names if name.endswith(extension)}


def left_out(names: Sequence[str], whose: str, what: str) -> str:
    """Such as ``left out for want of a label: 2 of SBD's images, such as 2008_000001``."""
    return f"left out for want of a {what}: {len(names)} of {whose} images, such as {names[0]}"
