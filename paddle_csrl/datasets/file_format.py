"""Facts that an image file tells before its pixels are decoded, and what must not be decoded."""

import contextlib
import os
import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from packaging.version import Version
from PIL import Image

from paddle_csrl import limits
from paddle_csrl.errors import UserError

#: Said of images that ``is_deep``, after their number and the name of one.
OF_DEEP = ("their upper 8 bits are read, which are nearly black where the numbers are small; scale "
           "them to 8 bits")
#: Formats, as PIL calls them, that do not keep the ids that were written.
LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP")
#: What is done to an image for display, by its EXIF orientation; angles are clockwise.
TURNS = {2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored upside down",
         5: "turned by 90 degrees and mirrored", 6: "turned by 90 degrees",
         7: "turned by 270 degrees and mirrored", 8: "turned by 270 degrees"}

#: The formats that Pillow is asked about; for others it would start programs.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "BMP", "DIB", "TIFF", "GIF", "PPM", "WEBP", "TGA", "PCX")

#: Releases of opencv-python before this one bring a libwebp that a WebP file can take over.
_SAFE_OPENCV = "4.8.1.78"
_WEBP_IS_UNSAFE = Version(cv2.__version__) < Version("4.8.1")
_WEBP_PARTS = (b"RIFF", b"VP8 ", b"VP8L", b"VP8X", b"ALPH")

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 256, 257  # tags of EXIF and TIFF
_EXIF_BYTES = 1 << 16  # more than the tags of any take
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_PNG, _JPEG, _BMP = b"\x89PNG", b"\xff\xd8", b"BM"
_ENDS = {_PNG: b"IEND", _JPEG: b"\xff\xd9"}  # by how they begin
_TAIL_BYTES = 4096
_PNG_SIGNATURE_BYTES, _PNG_TEXTS, _PNG_EXIF = 8, (b"zTXt", b"iTXt"), b"eXIf"
_PNG_DEPTH = 24  # where a PNG names its bits
_HEAD_BYTES = _PNG_DEPTH + 1

# Pillow's own limit, which is twice this, and its warning give way to ``open_image``'s.
Image.MAX_IMAGE_PIXELS = limits.MOST_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageFacts(NamedTuple):
    """Facts that an image file tells before its pixels are decoded.

    Attributes:
        size (tuple[int, int], optional): height and width as stored; None where Pillow cannot say.
        turn (int): its ``orientation``.
        has_end (bool): it is not empty, and no JPEG or PNG without the mark at its end.
        head (bytes): how it begins.
    """

    size: tuple[int, int] | None
    turn: int
    has_end: bool
    head: bytes


@contextlib.contextmanager
def open_image(path: str, file: BinaryIO | None = None) -> Iterator[Image.Image]:
    """Open an image or label with Pillow, which reads the pixels when they are asked for.

    Args:
        path (str): where it is.
        file (BinaryIO, optional): the same where it is open already; it stays open.

    Raises:
        UserError: it has more pixels than ``limits.MOST_PIXELS``.
        Exception: of many types, where the file is broken or of a format that Pillow lacks.
    """
    try:
        with Image.open(file or path, formats=_FORMATS) as image:
            tags = getattr(image, "tag_v2", {})
            tile = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)  # decoded as a whole
            for width, height in (image.size, tile):
                if width * height > limits.MOST_PIXELS:
                    raise _too_large(path, f"{width} x {height}")
            yield image
    except Image.DecompressionBombError:
        raise _too_large(path, f"more than {2 * limits.MOST_PIXELS}") from None


def _too_large(path: str, pixels: str) -> UserError:
    return UserError(f"{path} has {pixels} pixels, above the limit of {limits.MOST_PIXELS}; cut it "
                     f"into tiles")


def require_decodable(path: str) -> ImageFacts:
    """Check an image before OpenCV gets its bytes, and tell what was seen; all in one opening.

    Raises:
        UserError: it has too many pixels or bytes, or is of a kind that can take over or hold up
            this OpenCV.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.MOST_IMAGE_BYTES:
            raise UserError(f"{path} has {size} bytes, above the limit of "
                            f"{limits.MOST_IMAGE_BYTES} for an image; cut it into tiles")
        head = file.read(_HEAD_BYTES)
        if _WEBP_IS_UNSAFE and is_webp(head):
            raise UserError(f"{path} is a WebP, by which a file can take over OpenCV "
                            f"{cv2.__version__} (CVE-2023-4863); save it as PNG or JPEG, or pip "
                            f"install 'opencv-python>={_SAFE_OPENCV},<4.11'")
        texts, exif = _png_parts(file) if head.startswith(_PNG) else (0, b"")
        if texts > limits.MOST_TEXTS:
            raise UserError(f"{path} holds more than {limits.MOST_TEXTS} compressed texts, which "
                            f"take long to unpack; save it without them")
        has_end = bool(head) and _has_end(file, head, size)
        try:
            with open_image(path, file) as image:
                # Pillow gives the size of a TIFF as it is displayed.
                tags = getattr(image, "tag_v2", {})
                height, width = tags.get(_HEIGHT, image.height), tags.get(_WIDTH, image.width)
                return ImageFacts((height, width), orientation(image, exif), has_end, head)
        except UserError:
            raise
        except Exception:  # a format that Pillow lacks; OpenCV looks at its size by itself
            return ImageFacts(None, 1, has_end, head)


def _has_end(file: BinaryIO, head: bytes, size: int) -> bool:
    ends = [end for start, end in _ENDS.items() if head.startswith(start)]
    file.seek(max(0, size - _TAIL_BYTES))
    return not ends or ends[0] in file.read()


def is_webp(head: bytes) -> bool:
    """Tell by its first 16 bytes if OpenCV takes a file for WebP, which need not begin as one.

    libwebp also decodes the parts of the format without the RIFF header around them, and the
    bare streams within these. A few files of other kinds are taken for such, too.
    """
    return head[:4] in _WEBP_PARTS or head[:1] == b"\x2f" or head[3:6] == b"\x9d\x01\x2a"


def _png_parts(file: BinaryIO) -> tuple[int, bytes]:
    """Number of the compressed texts in a PNG, as far as one more than is allowed, and its EXIF.

    That may stand behind the pixels, where OpenCV finds it and Pillow does not before it decodes.
    """
    count, exif, at = 0, b"", _PNG_SIGNATURE_BYTES
    while count <= limits.MOST_TEXTS:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        size, kind = struct.unpack(">I4s", head)
        count += kind in _PNG_TEXTS
        if kind == _PNG_EXIF:
            exif = file.read(min(size, _EXIF_BYTES))
        at += size + 12
    return count, exif


def orientation(image: Image.Image, exif: bytes = b"") -> int:
    """The EXIF orientation of an opened file: 1 as stored, 2 to 8 turned or mirrored for display.

    Nothing is decoded for it, as PIL's own ``getexif`` would.

    Args:
        image (PIL.Image.Image): the opened file.
        exif (bytes, optional): what it has of EXIF where Pillow has not come to it yet.
    """
    try:
        tags = getattr(image, "tag_v2", {})
        exif = image.info.get("exif") or exif
        if exif:
            tags = Image.Exif()
            tags.load(exif)
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


def is_deep(path: str, head: bytes | None = None) -> bool:
    """Tell if the numbers of an image have more than the 8 bits that training reads.

    Args:
        path (str): where it is.
        head (bytes, optional): how it begins, as ``ImageFacts`` say; read where not given.
    """
    if head is None:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    if head.startswith(_PNG):
        return head[_PNG_DEPTH:] == b"\x10"
    if head.startswith((_JPEG, _BMP)) or is_webp(head):
        return False
    # By its bytes: cv2.imread crashes at a name that is not UTF-8.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels is not None and pixels.dtype != np.uint8
