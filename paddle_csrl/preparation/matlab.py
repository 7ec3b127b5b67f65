"""MATLAB files, whose sizes are looked at before SciPy makes room for what they announce."""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.io

from paddle_csrl.errors import UserError

_HEADER_BYTES = 128
#: Once unpacked; SBD's and Context's have at most 2 MB.
_MOST_BYTES = 1 << 23
_MOST_PIXELS = 1 << 22
_DEEPEST = 20
# Types of elements and classes of arrays, of MATLAB's "MAT-File Format".
_MATRIX, _COMPRESSED = 14, 15
_HOLDS_ARRAYS, _SPARSE = (1, 2, 3), 5  # cells, structs and objects


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
        value: Any = scipy.io.loadmat(io.BytesIO(_unpacked(content)),
                                      variable_names=keys[:1])[keys[0]]
        for key in keys[1:]:
            value = value[0, 0][key]
        labels = np.asarray(value)
        if labels.size > _MOST_PIXELS:
            raise ValueError(f"{labels.size} pixels")
        whole = labels.astype(np.int64)
    except Exception as error:  # SciPy raises many types for a torn file
        raise UserError(f"{place} is no MATLAB file with {'.'.join(keys)} "
                        f"({' '.join(str(error).split())[:120]}); get it again") from None
    if labels.ndim != 2 or not labels.size or (labels != whole).any():
        raise UserError(f"{place}: {'.'.join(keys)} is {labels.dtype} {list(labels.shape)}, not a "
                        f"2-D image of class ids; get it again")
    return whole


def _unpacked(content: bytes) -> bytes:
    """The file with its elements unpacked; files before MATLAB 5 as they are.

    Raises:
        ValueError: it unpacks to more than any label takes, or announces arrays that are larger
            than what it holds of them.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER_BYTES - 2:_HEADER_BYTES])
    if order is None or 0 in content[:4]:  # as SciPy tells MATLAB 4's
        return content
    parts, left = [memoryview(content)[:_HEADER_BYTES]], _MOST_BYTES
    for kind, element, body in _elements(memoryview(content)[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            element = memoryview(zlib.decompressobj().decompress(body, left + 1))
        left -= len(element)
        if left < 0:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        for inner, _, array in _elements(element, order):
            if inner == _MATRIX:
                _require_whole(array, order)
        parts.append(element)
    return b"".join(parts)


def _elements(content: memoryview,
              order: str) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield type, all bytes and the data of the elements that ``content`` consists of."""
    at = 0
    while len(content) - at >= 8:
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if kind >> 16:  # a small element: its size stands beside its type
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            end = start + size
            if kind != _COMPRESSED:
                end += -size % 8
        if start + size > len(content):
            raise ValueError("cut short")
        yield kind, content[at:end], content[start:start + size]
        at = end


def _require_whole(array: memoryview, order: str, depth: int = 0) -> None:
    """Raise ``ValueError`` if an array, or one in it, announces more items than it has bytes."""
    parts = list(_elements(array, order))
    if not parts:  # an empty place in a struct
        return
    if len(parts) < 3 or depth > _DEEPEST:
        raise ValueError("an array without its parts")
    flags, dimensions = (np.frombuffer(data, f"{order}i4").tolist() for _, _, data in parts[:2])
    kind = flags[0] & 0xFF
    if min(dimensions, default=0) < 0 or kind != _SPARSE and math.prod(dimensions) > len(array):
        raise ValueError(f"an array of {dimensions[:4]} in {len(array)} bytes")
    if kind in _HOLDS_ARRAYS:
        for part, _, inner in parts[3:]:
            if part == _MATRIX:
                _require_whole(inner, order, depth + 1)
