"""Files of PyTorch's before 1.6, read without PyTorch and without running anything in them."""

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from paddle_csrl.errors import UserError, one_line

#: PyTorch's names of what Paddle calls otherwise; all other names are the same in both.
RENAMED = {"running_mean": "_mean", "running_var": "_variance"}

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _View(NamedTuple):
    """A tensor as the file has it: a part of a storage, counted in its elements."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, storage: np.ndarray) -> np.ndarray:
        """A contiguous copy; ``ValueError`` if the part is not within the storage."""
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides))
        if not (len(self.shape) == len(self.strides) and min(self.strides, default=0) >= 0
                and min(self.shape, default=1) > 0 and 0 <= self.offset <= last < len(storage)):
            raise ValueError(f"a tensor of the shape {self.shape} is not within its storage")
        return np.lib.stride_tricks.as_strided(
            storage[self.offset:], self.shape,
            [step * storage.itemsize for step in self.strides]).copy()


class _Unpickler(pickle.Unpickler):
    """Knows an ordered dict and tensors, and refuses all other names.

    Attributes:
        storages (dict): by key, the type and number of elements of what follows the pickles.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        known = {("collections", "OrderedDict"): OrderedDict,
                 ("torch._utils", "_rebuild_tensor_v2"): _view}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> str:
        _, dtype, key, _, size, whole = pid
        if whole is not None:
            raise pickle.UnpicklingError(f"storage {key} is a part of another")
        self.storages[key] = dtype, size
        return key


def _view(key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
          *_: Any) -> _View:
    return _View(key, offset, shape, strides)


def read_legacy(path: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict that ``torch.save`` wrote before 1.6, not as a zip archive.

    Returns:
        contiguous float32 and int64 arrays by name.

    Raises:
        UserError: the file is no such state dict, is torn, or names anything but tensors; nothing
            of it was run.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError,
            EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no whole state dict of PyTorch's, and nothing in it was run "
                        f"({one_line(error)[:200]})") from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("it does not begin as one")
    for _ in ("version", "sizes of numbers"):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    views, keys = unpickler.load(), _Unpickler(file).load()
    storages = {}
    for key in keys:  # each after its number of elements
        dtype, size = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != size:
            raise ValueError(f"storage {key} has another size than its tensors say")
        storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype, size)
    if file.read(1):
        raise ValueError("something follows its end")
    return {name: view.of(storages[view.key]) for name, view in views.items()}
