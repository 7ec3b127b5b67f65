"""Streaming readers for word-vector files.

Every reader yields ``(word, values, place)`` in file order: ``values`` is the row before it is
turned into numbers, which happens only for the words that are kept, and ``place`` names the row
in messages. Memory therefore stays small however large the file is.
"""

import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from paddle_csrl import limits
from paddle_csrl.datasets.class_names import read_class_names
from paddle_csrl.errors import UserError
from paddle_csrl.utils import progress
from paddle_csrl.utils.arrays import read_npy, read_npz

Row = tuple[str, bytes | np.ndarray, str]
Stream = io.BufferedReader | gzip.GzipFile

_FORMATS = ("GloVe or fastText text (.txt, .vec), word2vec text or binary (.bin), any of them "
            "gzipped (.gz), .npz with `names` and `vectors`, or .npy beside a .txt of its rows' "
            "names; or glove100 or minilm, which come with the project")
_HEADER = re.compile(rb"(\d{1,18})\s+(\d{1,18})\s*")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_CHUNK_BYTES = 1 << 20
_LONGEST_WORD = 1 << 12
_MOST_BLANK = 1000
_LONGEST_LINE = 32 * limits.MOST_DIMENSIONS


class WordVector(NamedTuple):
    """A kept word: its vector, float32 [d_w], and its row (files are sorted by frequency)."""

    rank: int
    vector: np.ndarray


def read_vectors(path: str, is_wanted: Callable[[str], bool],
                 is_enough: Callable[[dict[str, WordVector]], bool] = lambda kept: False
                 ) -> dict[str, WordVector]:
    """Read the wanted words of a word-vector file; the first of equal words counts.

    The format is told from the content: the extensions in use contradict each other.

    Args:
        path (str): GloVe text, word2vec text or binary, fastText ``.vec``, any of them gzipped,
            ``.npz`` with ``names`` (str [V]) and ``vectors`` (float [V, d_w]), or ``.npy``
            (float [V, d_w] or [V, T, d_w], of which the mean over T texts is taken) with a file
            of the same name and the ending ``.txt`` beside it that names its rows, one a line.
        is_wanted: tells whether to keep a word.
        is_enough: asked after every kept word; True ends the reading early, so that the rows
            after it are not checked.

    Returns:
        dict: word to ``WordVector``, in file order.

    Raises:
        UserError: no such file, an unknown or damaged format, a row of another dimension (every
            row read), a value that is no finite number (kept rows).
    """
    kept: dict[str, WordVector] = {}
    rows = progress(iterate_rows(path), f"reading {os.path.basename(path)}")
    for rank, (word, values, place) in enumerate(rows):
        if word not in kept and is_wanted(word):
            kept[word] = WordVector(rank, _to_vector(values, f"{path}, {place} ({word!r})"))
            if is_enough(kept):
                break
    return kept


def iterate_rows(path: str) -> Iterator[Row]:
    """Yield ``(word, values, place)`` for every row; see ``read_vectors``."""
    if not os.path.isfile(path):
        raise UserError(f"no word-vector file at {path}; give {_FORMATS}")
    with open(path, "rb") as file:
        magic = file.peek(2)[:2]
        if magic == b"PK":
            yield from _iterate_npz(path)
        elif magic == npy.MAGIC_PREFIX[:2]:
            yield from _iterate_npy(path)
        elif magic == b"\x1f\x8b":
            try:
                with _Unpacked(path, file) as unpacked:
                    yield from _iterate_stream(unpacked, path)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(f"{path} is a damaged or cut gzip file ({error}); fetch it "
                                f"again") from None
        else:
            yield from _iterate_stream(file, path)


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends where it unpacks to more than vectors do."""

    def __init__(self, path: str, file: io.BufferedReader):
        super().__init__(fileobj=file, mode="rb")
        self._path, self._most = path, limits.most_text(path)

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._checked(super().readline(size))

    def _checked(self, content: bytes) -> bytes:
        if self.tell() > self._most:
            raise UserError(f"{self._path} unpacks to more than {self._most} bytes, which no "
                            f"word vectors do; fetch it again")
        return content


def _iterate_stream(file: Stream, path: str) -> Iterator[Row]:
    first = file.readline(_LONGEST_LINE)
    if not first.strip():
        raise UserError(f"{path} is empty or begins with an empty line; give {_FORMATS}")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
    first = first[3:] if first.startswith(b"\xef\xbb\xbf") else first
    header = _HEADER.fullmatch(first)
    if header is None:
        if _CONTROL.search(first):
            raise UserError(f"{path} is no word-vector file; give {_FORMATS} (of a fastText "
                            f"model .bin, its .vec)")
        dimension = _plausible(len(first.split()) - 1, path)
        yield from _iterate_text(file, path, dimension, first)
        return
    count, dimension = int(header[1]), _plausible(int(header[2]), path)
    binary = _CONTROL.search(file.peek(256)[:256])
    rows = (_iterate_binary(file, path, count, dimension) if binary
            else _iterate_text(file, path, dimension))
    found = 0
    for row in rows:
        found += 1
        yield row
    if found != count:
        raise UserError(f"{path} holds {found} rows but its first line announces {count}; the "
                        f"file is cut short or the line is wrong, fetch it again")


def _plausible(dimension: int, path: str) -> int:
    if dimension > limits.MOST_DIMENSIONS:
        raise UserError(f"{path} announces vectors of {dimension} values in its first line, beyond "
                        f"the {limits.MOST_DIMENSIONS} of any; fetch it again")
    return dimension


def _iterate_text(file: Stream, path: str, dimension: int, first: bytes = b"") -> Iterator[Row]:
    """Rows of ``word value ... value``; ``first`` is a row already read, unless a header was."""
    if dimension < 1:
        raise UserError(f"{path}, line 1: `{_shorten(first)}` holds no `word value ... value`; "
                        f"give {_FORMATS}")
    if first:
        yield (*_split_row(first.rstrip(), dimension, f"{path}, line 1"), "line 1")
    blank = 0
    for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), 2):
        if len(line) == _LONGEST_LINE:
            raise UserError(f"{path}, line {number}: longer than {_LONGEST_LINE} bytes; give "
                            f"{_FORMATS}")
        line = line.rstrip()
        if line:
            place = f"line {number}"
            yield (*_split_row(line, dimension, f"{path}, {place}"), place)
            continue
        blank += 1
        if blank > _MOST_BLANK:
            raise UserError(f"{path}, line {number}: more than {_MOST_BLANK} lines are blank; "
                            f"fetch the file again")


def _split_row(line: bytes, dimension: int, place: str) -> tuple[str, bytes]:
    word, _, values = line.partition(b" ")
    if values.count(b" ") + 1 != dimension:
        # Tabs, repeated blanks, or one of the words with blanks inside that GloVe 840B has.
        word, *fields = line.rsplit(None, dimension)
        if len(fields) != dimension or any(map(_is_number, word.split()[1:])):
            raise UserError(f"{place}: {len(line.split()) - 1} values where the file's dimension "
                            f"is {dimension}; mend or remove the line")
        values = b" ".join(fields)
    try:
        return word.decode("utf-8"), values
    except UnicodeDecodeError:
        raise UserError(f"{place}: {word!r} is not UTF-8; convert the file to UTF-8") from None


def _iterate_binary(file: Stream, path: str, count: int, dimension: int) -> Iterator[Row]:
    """Rows of ``word``, a blank, little-endian float32 values and perhaps a newline.

    word2vec may cut a word within a character; such a word is kept readable, matching nothing.
    """
    width, buffer, at = 4 * dimension, b"", 0
    for number in range(1, count + 1):
        if len(buffer) - at < width + _LONGEST_WORD:
            buffer, at = buffer[at:] + file.read(width + _CHUNK_BYTES), 0
        end = buffer.find(b" ", at)
        if end < 0 or end + 1 + width > len(buffer):
            raise UserError(f"{path} ends within row {number} of the {count} that its first line "
                            f"announces; the file is cut short, fetch it again")
        word = buffer[at:end].lstrip(b"\n").decode("utf-8", "replace")
        at = end + 1 + width
        yield word, np.frombuffer(buffer, "<f4", dimension, end + 1), f"row {number}"


def _iterate_npz(path: str) -> Iterator[Row]:
    advice = "save it as np.savez(path, names=str [V], vectors=float [V, d_w])"
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from None
    for key in ("names", "vectors"):
        if key not in arrays:
            raise UserError(f"{path} has no `{key}`; {advice}")
    names, vectors = arrays["names"], arrays["vectors"]
    if (names.dtype.kind != "U" or vectors.dtype.kind != "f" or vectors.ndim != 2
            or names.shape != vectors.shape[:1]):
        raise UserError(f"{path}: names {names.dtype} {list(names.shape)} and vectors "
                        f"{vectors.dtype} {list(vectors.shape)} do not fit; {advice}")
    yield from _rows(names.tolist(), vectors, path)


def _iterate_npy(path: str) -> Iterator[Row]:
    """Rows of the vectors of classes, as ZegCLIP and OTSeg publish those of their texts."""
    advice = "save it as np.save(path, float [V, d_w])"
    try:
        vectors = read_npy(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from None
    if vectors.dtype.kind != "f" or vectors.ndim not in (2, 3):
        raise UserError(f"{path} holds {vectors.dtype} {list(vectors.shape)}; {advice}")
    path_of_names = os.path.splitext(path)[0] + ".txt"
    if not os.path.isfile(path_of_names):
        raise UserError(f"{path} does not say what its rows are; write the {len(vectors)} names, "
                        f"one a line in the order of the rows, to {path_of_names}")
    names = read_class_names(path_of_names)
    if len(names) != len(vectors):
        raise UserError(f"{path_of_names} has {len(names)} names for the {len(vectors)} rows of "
                        f"{path}; write one a line in the order of the rows")
    yield from _rows(names, vectors, path)


def _rows(names: Sequence[str], vectors: np.ndarray, path: str) -> Iterator[Row]:
    if not vectors.size:
        raise UserError(f"{path} is empty; give {_FORMATS}")
    for number, (name, vector) in enumerate(zip(names, vectors), 1):
        yield name, vector if vector.ndim == 1 else vector.mean(0, np.float32), f"row {number}"


def _to_vector(values: bytes | np.ndarray, place: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        vector = np.asarray(_numbers(values, place) if isinstance(values, bytes) else values,
                            np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{place}: the vector has a nan or infinite value; mend or remove the row")
    return vector.copy()


def _numbers(text: bytes, place: str) -> list[float]:
    fields = text.split(b" ")  # as many as `_split_row` has counted
    wrong = next(itertools.filterfalse(_is_number, fields), None)
    if wrong is not None:
        raise UserError(f"{place}: `{_shorten(wrong)}` is no number; mend or remove the line")
    return list(map(float, fields))


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shorten(text: bytes) -> str:
    shown = text.decode("utf-8", "replace").strip()
    return shown if len(shown) <= 40 else shown[:37] + "..."
