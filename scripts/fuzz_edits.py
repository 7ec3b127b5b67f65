"""Edits that break files: of bytes, of text, of trees such as YAML and JSON hold, and of arrays.

Every edit takes its choices from a ``random.Random``, so that a seed gives the same file again.
"""

import struct
import zlib
from random import Random
from typing import Any

import numpy as np

#: Numbers at the edges of types and far beyond.
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -2**31, 2**32 + 1,
           2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**18, 0.5, -0.0, 1e-320, 1e308, float("nan"),
           float("inf"))
#: Words that readers may take for something else.
WORDS = ("", " ", "\t", "\0", "\n", "nan", "-inf", "1e999", "9" * 5000, "0x10", "1_000", "null",
         "true", "~", "é", "\ufeff", "\ud7ff", "马", "\u2028", "..", "../../../up", "/etc/passwd",
         "C:\\x", "%s", "{}", "*a", "&a", "!!python/name:os.system", "- ", "#", "=", "[" * 60,
         "a" * 5000)
_BYTES = (0, 1, 9, 10, 13, 32, 45, 48, 57, 127, 128, 254, 255)
_PNG = b"\x89PNG\r\n\x1a\n"


def edit_bytes(data: bytes, rng: Random) -> bytes:
    """A few edits of single bytes, of slices, of numbers, or a cut."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        if not result:
            break
        at = rng.randrange(len(result))
        end = min(len(result), at + rng.choice((1, 2, 4, 8, 64, 1024)))
        match rng.randrange(8):
            case 0:
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at] = rng.choice(_BYTES)
            case 2:
                del result[at:end]
            case 3:
                result[at:at] = result[at:end] * rng.choice((1, 2, 50))
            case 4:
                result[at:at] = rng.randbytes(end - at)
            case 5:
                del result[at:]
            case 6:
                number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1))
                result[at:at + 4] = struct.pack(rng.choice("<>") + "I", number)
            case 7:
                result[at:end] = rng.choice(WORDS).encode()
    return bytes(result)


def edit_text(text: str, rng: Random) -> str:
    """A few edits of lines and of the words in them; the words may then not be valid UTF-8."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = rng.choice(("\t", "  ", ",", "")).join(lines[at].split(" "))
            case _:
                words = lines[at].split(" ")
                words[rng.randrange(len(words))] = rng.choice((*WORDS, *map(str, NUMBERS)))
                lines[at] = " ".join(words)
        lines = lines or [""]
    return "\n".join(lines)


def edit_tree(tree: Any, rng: Random) -> Any:
    """A copy of dicts, lists and leaves with one to three places put out of order."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _edit_at(tree, rng.choice(list(_places(tree))), rng)
    return tree


def _places(tree: Any, path: tuple = ()) -> Any:
    """The paths of all parts, the whole first."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) \
        if isinstance(tree, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _edit_at(tree: Any, path: tuple, rng: Random) -> Any:
    if not path:
        return _other(tree, rng)
    copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) > 1:
        copy[path[0]] = _edit_at(tree[path[0]], path[1:], rng)
    elif rng.random() < 0.2:
        del copy[path[0]]
    elif isinstance(copy, dict) and rng.random() < 0.2:
        copy[rng.choice((*WORDS, *NUMBERS, None, True))] = copy.pop(path[0])
    else:
        copy[path[0]] = _other(copy[path[0]], rng)
    return copy


def _other(value: Any, rng: Random) -> Any:
    if isinstance(value, np.ndarray):
        return edit_array(value, rng)
    deep: Any = value
    for _ in range(rng.choice((1, 2, 300))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return rng.choice((None, True, False, [], {}, [value], [value] * 3, {"type": value}, deep,
                       str(value)[:99], rng.choice(NUMBERS), rng.choice(NUMBERS),
                       rng.choice(WORDS), rng.choice(WORDS)))


def edit_array(array: np.ndarray, rng: Random) -> np.ndarray:
    """The array with another type, shape, or value in one place."""
    match rng.randrange(5):
        case 0:
            kinds = "?bBhHiIqQefdFDSU" if array.dtype.kind in "?biufcSU" else "O"
            with np.errstate(all="ignore"):
                try:
                    return array.astype(rng.choice(kinds))
                except ValueError:  # of texts that are no numbers
                    return array.astype("S")
        case 1:
            return array.reshape(rng.choice(((-1,), (1, *array.shape), (*array.shape, 1),
                                             array.shape[::-1])))
        case 2:
            return array[:rng.randrange(len(array) + 1)] if array.ndim else array[None]
        case 3:
            return np.concatenate([array.ravel(), array.ravel()])
        case _:
            array = array.copy()
            if array.size and array.dtype.kind in "iuf":
                with np.errstate(all="ignore"):
                    number = np.float64(rng.choice(NUMBERS)).astype(array.dtype)
                array.flat[rng.randrange(array.size)] = number
            elif array.size and array.dtype.kind == "U":
                array = array.astype(object)
                array.flat[rng.randrange(array.size)] = rng.choice(WORDS)
                array = array.astype(str)
            return array


def with_right_checksums(png: bytes) -> bytes:
    """A PNG whose chunks' checksums fit again, as far as it still has chunks."""
    if not png.startswith(_PNG):
        return png
    result, at = [_PNG], len(_PNG)
    while at + 12 <= len(png):
        length, = struct.unpack_from(">I", png, at)
        body = png[at + 4:at + 8 + length]
        result.append(png[at:at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(result)
