"""Reading the pickles that ``paddle.save`` writes, of tensors and plain values and nothing else.

A pickle is a program: it names functions and has its reader call them. The reader of this module
calls none. It knows the few names that tensors are written with, makes their values by itself,
and refuses every other name. What it makes stays in proportion to the file: values that a file
refers to again and again would otherwise fill the memory, or take for ever to go through.
"""

import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import numpy as np

from paddle_csrl.errors import UserError, one_line
from paddle_csrl.utils.record import require_unchanged

#: What protocols 2 to 4 write for numbers, texts, bytes, lists, tuples, dicts and references, and
#: the two that make something of a name. Others call classes, or ask the program for objects.
_INSTRUCTIONS = b"".join([
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE,
    pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4,
    pickle.BINFLOAT, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
    pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
    pickle.BINUNICODE8, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE,
    pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_DICT, pickle.SETITEM,
    pickle.SETITEMS, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD])
#: Other names of modules: Python 2's and NumPy 2's.
_MODULES = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}
#: Numbers of 1 to 16 bytes: bool, signed, unsigned, floating, complex.
_DTYPE = re.compile(r"b1|[iuf][1248]|c8|c16")
#: ``paddle.save`` cuts large arrays up and says here how they belong together.
_PARTS = "UnpackBigParamInfor@@"
#: Dimensions of an array, and values within values.
_DEPTH = 32
_PythonUnpickler: Any = pickle._Unpickler  # C's cannot be narrowed
#: Values, each counted at every place it is referred to from, that a byte of a file may give.
_VALUES_PER_BYTE = 4


def load(file: BinaryIO) -> Any:
    """Read a pickle of tensors and plain values; stands in for ``pickle.load``.

    Args:
        file: open for reading, at the beginning of the pickle.

    Returns:
        dict, list or tuple of arrays, numbers, texts, None and the like. A tensor is a NumPy
        array, or a tuple of its name and one; bfloat16 is uint16 of the same bits.

    Raises:
        UserError: the file names something else, which was not run, or is not whole.
    """
    name, start = getattr(file, "name", "a buffer"), file.tell()
    size = file.seek(0, 2) - start
    file.seek(start)
    try:
        content = _Unpickler(file, size).load()
        _require_plain(content, _VALUES_PER_BYTE * size)
        return _joined(content) if isinstance(content, dict) else content
    except _ForbiddenError as error:
        raise UserError(f"{name} is refused and nothing in it was run: it holds {_shown(error)}, "
                        f"which no weights need; get weights from where you trust, or as "
                        f".safetensors") from None
    except Exception as error:  # many types, for a torn file
        raise not_whole(str(name), error) from None


def not_whole(path: str, error: Exception) -> UserError:
    """Make the error for a file that cannot be read to its end; a stage's record may know more."""
    require_unchanged(path)
    return UserError(f"{path} is not a whole .pdparams or .pdopt file ({_shown(error)}); "
                     f"if a stage made it, run that with --restart")


def _shown(error: Exception) -> str:
    """Shorten what an error says, a part of the file perhaps, to a line of plain characters."""
    text = one_line(error)[:120] or type(error).__name__
    return text if text.isprintable() else ascii(text)


class _ForbiddenError(Exception):
    """A file holds what is no tensor and no plain value."""


class _Name:
    """A name in a pickle, which can be neither called nor changed."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text


class _Unpickler(_PythonUnpickler):
    """Python's own unpickler with a shorter list of instructions.

    Args:
        file: the file.
        size (int): its bytes. Arrays and their bytes may together take twice that: once as text,
            which is how protocol 2 writes bytes, and once as an array.
    """

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(file, encoding="latin1")  # of what Python 2 wrote
        self._room = 2 * size

    def find_class(self, module: str, name: str) -> _Name:
        text = f"{_MODULES.get(module, module)}.{name}"
        if text != "numpy.ndarray" and text not in _MAKERS:
            raise _ForbiddenError(text)
        return _Name(text)

    def load_reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.text not in _MAKERS:
            raise _ForbiddenError(f"a call of a {type(name).__name__}")
        try:
            value = _MAKERS[name.text](self, *arguments)
        except (TypeError, AttributeError):  # of other arguments than tensors are written with
            raise _ForbiddenError(f"{name.text} of unusual arguments") from None
        self.append(value)

    def load_build(self) -> None:
        """Fill in an array, or the byte order of its type."""
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) is np.ndarray:
            _, shape, dtype, _, raw = state
            _require_types(shape, int)
            if len(shape) > _DEPTH or any(not 0 <= length < 1 << 63 for length in shape):
                raise ValueError("the shape of an array is none")
            size = math.prod(shape) * dtype.itemsize
            self._take(size)
            if len(raw) != size:
                raise ValueError(f"an array of the shape {list(shape)} has {len(raw)} bytes")
            value.__setstate__(state)
        elif not isinstance(value, np.dtype):
            raise _ForbiddenError(f"a state for a {type(value).__name__}")
        elif state[1] not in ("<", "|") or any(part is not None for part in state[2:5]):
            raise _ForbiddenError("numbers that are not little-endian, or no plain numbers")

    def load_append(self) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._top(list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        target = self._top(dict, OrderedDict)
        for key, value in zip(items[::2], items[1::2]):
            if type(key) is not str:  # other keys can be made to take for ever
                raise _ForbiddenError(f"a key that is no text but a {type(key).__name__}")
            target[key] = value

    def _top(self, *kinds: type) -> Any:
        if type(self.stack[-1]) not in kinds:
            raise _ForbiddenError(f"items for a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise _ForbiddenError("arrays larger than the file")

    # What makes a value of a name and its arguments.

    def _bytes(self, text: str = "", encoding: str = "latin1") -> bytes:
        _require_types((text, encoding), str)
        if encoding != "latin1":
            raise TypeError
        self._take(len(text))
        return text.encode("latin1")

    def _tuple(self, values: tuple) -> tuple:
        """Return the name and the array of a tensor."""
        if type(values) is not tuple:
            raise TypeError
        return values

    def _dense(self, expression: str, names: dict) -> np.ndarray:
        """Return a tensor of the static graph, which is written with always the same expression."""
        if expression != "data" or list(names) != ["data"] or type(names["data"]) is not np.ndarray:
            raise TypeError
        return names["data"]

    def _ordered_dict(self) -> OrderedDict:
        return OrderedDict()

    def _empty_array(self, kind: _Name, shape: tuple, code: bytes) -> np.ndarray:
        """An array to be filled in."""
        if not isinstance(kind, _Name) or kind.text != "numpy.ndarray" or shape != (0,):
            raise TypeError
        return np.empty(0, np.int8)

    def _dtype(self, code: str, align: bool = False, copy: bool = True) -> np.dtype:
        _require_types((code,), str)
        if not _DTYPE.fullmatch(code):
            raise _ForbiddenError(f"values of the type {code[:20]!r}")
        return np.dtype(code)

    def _scalar(self, dtype: np.dtype, raw: bytes | str) -> np.generic:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if len(raw) != dtype.itemsize:
            raise ValueError(f"a number of {dtype.itemsize} bytes has {len(raw)}")
        return np.frombuffer(raw, dtype)[0]


def _require_types(values: Any, kind: type) -> None:
    """Insist on a tuple, and on the type of all in it."""
    if type(values) is not tuple or any(type(value) is not kind for value in values):
        raise TypeError("other arguments than tensors are written with")


def _require_plain(content: Any, limit: int) -> None:
    """Insist on plain values, not nested too deep, and at most ``limit`` of them."""
    left = [(content, 0)]
    while left:
        value, depth = left.pop()
        if type(value) in (dict, OrderedDict):
            inner = value.values()
        elif type(value) in (list, tuple):
            inner = value
        elif value is None or isinstance(value, (str, bool, int, float, np.ndarray, np.generic)):
            continue
        else:
            raise _ForbiddenError(value.text if isinstance(value, _Name)
                                  else f"a value of the type {type(value).__name__}")
        limit -= len(inner)
        if limit < 0 or depth == _DEPTH:
            raise _ForbiddenError("values within values without end")
        left.extend((value, depth + 1) for value in inner)


def _joined(state: dict) -> dict:
    """Put large arrays together, as ``paddle.load`` would, but with every part used once."""
    for name, info in state.pop(_PARTS, {}).items():
        parts = [state.pop(part) for part in info["slices"]]
        state[name] = np.concatenate(parts).reshape(info["OriginShape"])
    return state


def _refuser(code: int) -> Callable[[Any], NoReturn]:
    """Make what takes the place of an instruction."""
    name = next(item.name for item in pickletools.opcodes if item.code == chr(code))

    def refuse(unpickler: Any) -> NoReturn:
        raise _ForbiddenError(f"the instruction {name}")

    return refuse


_MAKERS: dict[str, Callable] = {
    "builtins.bytes": _Unpickler._bytes, "_codecs.encode": _Unpickler._bytes,
    "builtins.tuple": _Unpickler._tuple, "builtins.eval": _Unpickler._dense,
    "collections.OrderedDict": _Unpickler._ordered_dict,
    "numpy.core.multiarray._reconstruct": _Unpickler._empty_array,
    "numpy.dtype": _Unpickler._dtype, "numpy.core.multiarray.scalar": _Unpickler._scalar}

_Unpickler.dispatch = {
    code: getattr(_Unpickler, function.__name__) if code in _INSTRUCTIONS else _refuser(code)
    for code, function in _PythonUnpickler.dispatch.items()}
