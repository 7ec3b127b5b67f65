"""The limits of what a file may ask of this machine, each once.

They lie well above what people have and below what takes a machine down. What they are for is
said in docs/security.md. This module imports nothing of Paddle's and OpenCV's.
"""

import os

#: Pixels of an image or label, 134 million: a photograph of a 100-megapixel camera is below.
MOST_PIXELS = 1 << 27
#: Bytes of its file, which is read as a whole; as many pixels of 16 bits and three colours fit in.
MOST_IMAGE_BYTES = 1 << 30
#: Compressed texts in a PNG, each of which may take OpenCV a tenth of a second.
MOST_TEXTS = 20

#: Classes, which is what 16-bit labels can name beside ``ignore_index``.
MOST_CLASSES = 65535
#: Letters of a class's name, and bytes of a file with one a line.
LONGEST_NAME = 200
MOST_NAMES_BYTES = 1 << 22

#: Values of a word vector.
MOST_DIMENSIONS = 1 << 16

#: Bytes of a YAML file, its values once its aliases are written out, and their nesting.
MOST_YAML_BYTES = 1 << 17
MOST_YAML_VALUES = 100_000
DEEPEST_YAML = 50
#: Files that a config may be made of by ``_base_``.
MOST_BASES = 100
#: Digits of a whole number, in a config and on the command line.
MOST_DIGITS = 100
#: Letters of an ``--opts`` override.
LONGEST_OVERRIDE = 100_000

#: Bytes of a JSON file that a run keeps.
MOST_JSON_BYTES = 1 << 24

_RATIO = 50
_SLACK = 1 << 28
_TEXT_RATIO, _TEXT_SLACK = 20, 1 << 24


def most_unpacked(path: str, ratio: int = _RATIO) -> int:
    """Bytes that the compressed file at ``path`` may unpack to.

    Images, labels and vectors shrink to a half or a tenth; what shrinks to a thousandth is made
    to fill a disk or the memory.
    """
    return ratio * os.path.getsize(path) + _SLACK


def most_text(path: str) -> int:
    """As ``most_unpacked``, for text that is gone through line by line, which takes longer."""
    return _TEXT_RATIO * os.path.getsize(path) + _TEXT_SLACK


def apply() -> None:
    """Have OpenCV refuse images beyond ``MOST_PIXELS``; it reads this when it is loaded."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
