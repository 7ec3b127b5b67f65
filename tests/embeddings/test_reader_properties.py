"""Word-vector files, lists and class names: what is written is read, what is broken is refused."""

import gzip
import os
import tempfile
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuzz_edits import edit_bytes, edit_text
from paddle_csrl.embeddings import read_vectors
from paddle_csrl.errors import UserError

#: Anything without blanks and control characters, neither a number nor a mark at its beginning.
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1,
                max_size=8).filter(lambda word: not word[0].isdigit() and word.split() == [word]
                                   and word[0] not in "+-.\ufeff\u0085"
                                   and word.casefold() not in ("nan", "inf", "infinity"))


@st.composite
def tables(draw):
    """Distinct words, and vectors float32 whose first number is 1."""
    names = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    dimension = draw(st.integers(2, 5))
    vectors = draw(arrays(np.float32, (len(names), dimension),
                          elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
    vectors[:, 0] = 1  # such as real binary files have in plenty: its bytes are no text
    return names, vectors


def rows(names, vectors, separator=" "):
    return "".join(separator.join([name, *(repr(float(value)) for value in vector)]) + "\n"
                   for name, vector in zip(names, vectors)).encode()


def binary(names, vectors, end=b"\n"):
    return b"".join(name.encode() + b" " + vector.astype("<f4").tobytes() + end
                    for name, vector in zip(names, vectors))


def header(names, vectors):
    return f"{len(names)} {vectors.shape[1]}\n".encode()


FORMATS = {
    "text": rows,
    "tabs": lambda *table: rows(*table, separator="\t"),
    "text with a header": lambda *table: header(*table) + rows(*table),
    "binary": lambda *table: header(*table) + binary(*table),
    "binary without line ends": lambda *table: header(*table) + binary(*table, end=b""),
}


def save(folder, content):
    path = os.path.join(folder, "vectors")
    with open(path, "wb") as file:
        file.write(content)
    return path


def contents(names, vectors, kind, zipped):
    if kind == "npz":
        with tempfile.TemporaryFile() as file:
            (np.savez_compressed if zipped else np.savez)(file, names=np.array(names),
                                                          vectors=vectors)
            file.seek(0)
            return file.read()
    content = FORMATS[kind](names, vectors)
    return gzip.compress(content, mtime=0) if zipped else content


@pytest.mark.parametrize("kind", [*FORMATS, "npz"])
@given(table=tables(), zipped=st.booleans())
def test_vectors_come_back_bit_by_bit(kind, table, zipped):
    names, vectors = table
    with tempfile.TemporaryDirectory() as folder:
        path = save(folder, contents(names, vectors, kind, zipped))
        kept = read_vectors(path, lambda word: True)
    assert list(kept) == names
    assert [word.rank for word in kept.values()] == list(range(len(names)))
    for word, vector in zip(kept.values(), vectors):
        assert word.vector.dtype == np.float32 and word.vector.tobytes() == vector.tobytes()


@pytest.mark.parametrize("kind", [*FORMATS, "npz"])
@given(table=tables(), zipped=st.booleans(), seed=st.integers(0, 10**6))
def test_broken_files_are_read_or_refused_in_one_line(kind, table, zipped, seed):
    content, rng = contents(*table, kind, zipped), Random(seed)
    content = (edit_text(content.decode(), rng).encode("utf-8", "replace")
               if kind.startswith("text") and not zipped else edit_bytes(content, rng))
    with tempfile.TemporaryDirectory() as folder:
        try:
            kept = read_vectors(save(folder, content), lambda word: True)
        except UserError as error:
            assert folder in str(error) and "\n" not in str(error)
        else:
            assert all(np.isfinite(word.vector).all() for word in kept.values())
            assert len({word.vector.shape for word in kept.values()}) <= 1


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(content):
    with tempfile.TemporaryDirectory() as folder:
        try:
            read_vectors(save(folder, content), lambda word: True)
        except UserError as error:
            assert folder in str(error) and "\n" not in str(error)
