"""NumPy's ``.npz`` and ``.npy``: written whole, read with a look at headers before making room."""

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from paddle_csrl import limits
from paddle_csrl.utils.io import atomic_path

#: Of the header with dtype and shape; NumPy's own are a hundred.
_HEADER_BYTES = 1 << 14


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Every array of the file at ``path``, by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is torn or no ``.npz`` of plain arrays, or announces more than it holds.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(info.file_size for info in members)
            if unpacked > limits.most_unpacked(path):
                raise ValueError(f"it unpacks to {unpacked} bytes")
            return {info.filename.removesuffix(".npy"): _read(
                partial(archive.open, info), info.filename, info.file_size) for info in members}
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile raises many types on crafted files
        raise ValueError(str(error) or type(error).__name__) from None


def read_npy(path: str) -> np.ndarray:
    """The array of the ``.npy`` file at ``path``; errors are those of ``read_npz``."""
    try:
        return _read(partial(io.FileIO, path), os.path.basename(path), os.path.getsize(path))
    except (OSError, ValueError):
        raise
    except Exception as error:  # as of a version that is none
        raise ValueError(str(error) or type(error).__name__) from None


def save_arrays(path: str, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    """Write arrays as ``np.savez`` does, atomically and to last.

    On a full disk ``np.savez`` leaves its archive to be closed by the garbage collection, which
    then prints a traceback of its own.
    """
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with atomic_path(path, lasting=True) as temporary, \
            zipfile.ZipFile(temporary, "w", kind) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)


def _read(open_file: Callable[[], IO[bytes] | io.FileIO], name: str, length: int) -> np.ndarray:
    """Read an array of ``length`` bytes; its header announces just as many."""
    with open_file() as member:
        header = io.BytesIO(member.read(_HEADER_BYTES))
    read_header: Any = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[
        npy.read_magic(header)]
    shape, _, dtype = read_header(header)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or header.tell() + size != length:
        raise ValueError(f"{name[:40]} announces {dtype} {list(shape)} in {length} bytes")
    with open_file() as member:
        return npy.read_array(member, allow_pickle=False)
