"""Facts that an image file tells before its pixels are decoded."""

import cv2
import numpy as np
from PIL import Image

#: Said of images that ``is_deep``, after their number and the name of one.
OF_DEEP = ("their upper 8 bits are read, which are nearly black where the numbers are small; scale "
           "them to 8 bits")
#: Formats, as PIL calls them, that do not keep the ids that were written.
LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP")

_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_PNG, _TIFF = b"\x89PNG", (b"II*\0", b"MM\0*")
_PNG_DEPTH = 24  # where a PNG names its bits


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened file: 1 as stored, 2 to 8 turned or mirrored for display.

    Nothing is decoded for it, as PIL's own ``getexif`` would.
    """
    try:
        tags = getattr(image, "tag_v2", {})
        if image.info.get("exif"):
            tags = Image.Exif()
            tags.load(image.info["exif"])
        found = tags.get(_ORIENTATION, 1)
    except Exception:  # PIL raises many types on broken tags, which then turn nothing
        return 1
    return found if found in range(2, 9) else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] as they are to be displayed."""
    if orientation >= 5:  # the rows are stored as columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def is_deep(path: str) -> bool:
    """Tell if the numbers of a PNG or TIFF have more than the 8 bits that training reads."""
    with open(path, "rb") as file:
        head = file.read(_PNG_DEPTH + 1)
    if head.startswith(_TIFF):
        # By its bytes: cv2.imread crashes at a name that is not UTF-8.
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        return pixels is not None and pixels.dtype != np.uint8
    return head.startswith(_PNG) and head[_PNG_DEPTH:] == b"\x10"
