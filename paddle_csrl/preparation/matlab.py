"""Label images in MATLAB files of versions 5 to 7.

SciPy's reader trusts the file: what it announces is made room for, and a type that is none ends
the process. So it serves the tests alone. The names below are those of MATLAB's own document,
"MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from paddle_csrl.errors import UserError, one_line

_HEADER_BYTES = 128
#: Once unpacked; SBD's and Context's have at most 2 MB.
_MOST_BYTES = 1 << 23
_MOST_PIXELS = 1 << 22
# Types of elements: numbers, arrays, and elements that are packed.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
# Classes of arrays: structs, and numbers from double to uint64.
_STRUCT, _NUMERIC = 2, range(6, 16)


def read_mat_labels(content: bytes, place: str, *keys: str) -> np.ndarray:
    """The label image in a MATLAB file.

    Args:
        content (bytes): the file.
        place (str): its name, for messages.
        *keys: the variable, and the field where that is a struct.

    Returns:
        int64 [H, W].

    Raises:
        UserError: the file is torn, announces more than it has, or holds no such image.
    """
    try:
        labels = _find(content, *keys)
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise UserError(f"{place} is no MATLAB file with {'.'.join(keys)} "
                        f"({one_line(error)[:120]}); get it again") from None
    with np.errstate(invalid="ignore"):  # what is no number is no whole number either
        whole = labels.astype(np.int64)
    if labels.ndim != 2 or not labels.size or (labels != whole).any():
        raise UserError(f"{place}: {'.'.join(keys)} is {labels.dtype} {list(labels.shape)}, not a "
                        f"2-D image of class ids; get it again")
    return whole


def _find(content: bytes, variable: str, *fields: str) -> np.ndarray:
    order = {b"IM": "<", b"MI": ">"}[content[_HEADER_BYTES - 2:_HEADER_BYTES]]
    left = _MOST_BYTES
    for kind, body in _elements(memoryview(content)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            unpacked = memoryview(zlib.decompressobj().decompress(body, left + 1))
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"more than {_MOST_BYTES} bytes")
            kind, body = next(_elements(unpacked, order), (0, unpacked))
        if kind == _MATRIX:
            array = _Array(body, order)
            if array.name == variable.encode():
                for field in fields:
                    array = array.field(field.encode())
                return array.numbers()
    raise KeyError(variable)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the data of the elements that ``content`` consists of."""
    at = 0
    while len(content) - at >= 8:
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        at = start + size
        if kind >> 16:  # a small one: its size stands beside its type, and the data where sizes do
            kind, size, start, at = kind & 0xFFFF, kind >> 16, start - 4, start
        elif kind != _COMPRESSED:
            at += -size % 8
        if start + size > min(at, len(content)):
            raise ValueError("cut short")
        yield kind, content[start:start + size]


class _Array:
    """An element of type ``_MATRIX``: flags, dimensions, a name and what the class asks for."""

    def __init__(self, body: memoryview, order: str):
        flags, dimensions, name, *self._parts = _elements(body, order)
        self._order, self.name = order, bytes(name[1])
        self._class = self._numbers(flags).tolist()[0] & 0xFF
        self._shape = self._numbers(dimensions).tolist()

    def numbers(self) -> np.ndarray:
        """The array of a numeric class, in the type that it is stored in."""
        if self._class not in _NUMERIC or len(self._parts) != 1:
            raise ValueError("it is no array of real numbers")
        values = self._numbers(self._parts[0])
        if min(self._shape) < 0 or math.prod(self._shape) != len(values) <= _MOST_PIXELS:
            raise ValueError(f"{len(values)} numbers for an array of {self._shape[:4]}")
        return values.reshape(self._shape, order="F")

    def field(self, name: bytes) -> "_Array":
        """The array that a struct [1, 1] holds under ``name``."""
        if self._class != _STRUCT or self._shape != [1, 1]:
            raise ValueError("it is no struct")
        [length], names = self._numbers(self._parts[0]).tolist(), bytes(self._parts[1][1])
        if length < 1:
            raise ValueError(f"names of {length} letters")
        known = [names[at:at + length].rstrip(b"\0") for at in range(0, len(names), length)]
        kind, body = self._parts[2 + known.index(name)]
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} in a struct")
        return _Array(body, self._order)

    def _numbers(self, element: tuple[int, memoryview]) -> np.ndarray:
        kind, data = element
        return np.frombuffer(data, np.dtype(self._order + _NUMBERS[kind]))
