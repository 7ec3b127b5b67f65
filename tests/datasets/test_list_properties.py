"""Class names and lists of files: what is written is found, what is broken is refused."""

import os
import tempfile
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddleseg.datasets import Dataset

from fuzz_edits import edit_bytes, edit_text
from paddle_csrl.datasets.class_names import CLASS_NAMES, read_class_names, resolve_classes
from paddle_csrl.datasets.sources import require_data
from paddle_csrl.errors import UserError
from paddle_csrl.preparation.label_files import parse_list

LETTERS = "abcxyzäß马"
names = st.lists(st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3).map(
    " ".join), min_size=2, max_size=6, unique_by=lambda name: fold(name))


def fold(name):
    return "".join(letter for letter in name if letter not in " _-").casefold()


@st.composite
def spelled(draw, name):
    """A name in other letters and with other separators."""
    parts = [draw(st.sampled_from([part, part.upper(), part.title()])) for part in name.split()]
    parts = [part if fold(part) == fold(other) else other for part, other in zip(parts,
                                                                                name.split())]
    return draw(st.sampled_from([" ", "_", "-", "", "  "])).join(parts)


@given(names, st.data())
def test_classes_are_found_under_any_spelling(known, data):
    ids = data.draw(st.lists(st.integers(0, len(known) - 1), min_size=1, max_size=len(known) - 1,
                             unique=True))
    wanted = [data.draw(spelled(known[class_id])) for class_id in ids]
    assert resolve_classes(known, wanted) == ids
    assert resolve_classes(known, ", ".join(wanted)) == ids


@given(names, st.text(LETTERS + " _-,#\0\t\n", max_size=12))
def test_a_name_is_found_where_it_stands_and_refused_elsewhere(known, wanted):
    places = [class_id for class_id, name in enumerate(known) if fold(name) == fold(wanted)]
    try:
        found = resolve_classes(known, [wanted])
    except UserError as error:
        assert not places or not wanted.strip() or len(known) == 1
        assert str(error)
    else:
        assert found == places


@pytest.mark.parametrize("group", CLASS_NAMES)
@given(data=st.data())
def test_every_built_in_name_is_found_under_any_spelling(group, data):
    known = CLASS_NAMES[group]
    class_id = data.draw(st.integers(int(known[0] == "background"), len(known) - 1))
    assert resolve_classes(known, [data.draw(spelled(known[class_id]))]) == [class_id]


def save(folder, name, content):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(content)
    return path


@given(names, st.lists(st.sampled_from(["", "  ", "# a remark", "\t"]), max_size=3),
       st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_names_come_back_from_a_file(known, between, end, mark):
    lines = [line for name in known for line in (*between, f" {name}  # {name}")]
    text = ("\ufeff" if mark else "") + end.join(lines)
    with tempfile.TemporaryDirectory() as folder:
        assert read_class_names(save(folder, "classes.txt", text.encode())) == known
    assert read_class_names(known) == known


paths = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1,
                max_size=8).filter(lambda path: path.split() == [path] and path[0] not in "/\ufeff")


@given(st.lists(st.tuples(paths, paths), min_size=1, max_size=5),
       st.sampled_from([" ", ",", ";"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_pairs_of_files_come_back_from_a_list(pairs, separator, end, last_end):
    pairs = [tuple(kind + path.replace(separator, "x") for kind, path in zip("il", pair))
             for pair in pairs]
    text = end.join(separator.join(pair) for pair in pairs) + (end if last_end else "")
    with tempfile.TemporaryDirectory() as folder:
        cfg = {"dataset_root": folder, "num_classes": 5, "mode": "train", "separator": separator,
               "train_path": save(folder, "train.txt", text.encode())}
        require_data({"type": "Dataset", **cfg})
        read = Dataset(transforms=[], **cfg).file_list
        assert read == [[os.path.join(folder, path) for path in pair] for pair in pairs]


@given(st.integers(0, 10**6), st.booleans())
def test_broken_lists_are_read_or_refused_in_one_line(seed, as_bytes):
    rng, text = Random(seed), "i/a.jpg l/a.png\ni/b.jpg l/b.png\n"
    content = (edit_bytes(text.encode(), rng) if as_bytes
               else edit_text(text, rng).encode("utf-8", "replace"))
    with tempfile.TemporaryDirectory() as folder:
        path = save(folder, "train.txt", content)
        cfg = {"dataset_root": folder, "num_classes": 5, "mode": "train", "train_path": path}
        for read in (lambda: require_data({"type": "Dataset", **cfg}),
                     lambda: read_class_names(path), lambda: parse_list(content, path)):
            try:
                read()
            except UserError as error:
                assert path in str(error) and "\n" not in str(error)
