"""Merging of configs against a flat table of leaves, on whatever trees Hypothesis thinks of."""

import copy
import os
import tempfile

import yaml
from hypothesis import given
from hypothesis import strategies as st

from paddle_csrl.config import load_yaml, set_key
from paddle_csrl.config.load import merge, parse_opts

KEYS = "abc"
leaves = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from([0.5, 1e-3]),
                   st.sampled_from(["text", "", "1e-3", "true"]),
                   st.lists(st.integers(0, 9), max_size=2))
sections = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=3),
    max_leaves=6)
contents = st.dictionaries(st.sampled_from(KEYS), sections, min_size=1, max_size=3)
#: Contents in which a key is either always a section or always a leaf.
regular = st.fixed_dictionaries({}, optional={
    "x": leaves, "a": st.fixed_dictionaries({}, optional={
        "y": leaves, "b": st.fixed_dictionaries({}, optional={"z": leaves})})})


def flat(content, path=()):
    """Leaves by their path."""
    if not isinstance(content, dict):
        return {path: content}
    return {key: value for name, item in content.items()
            for key, value in flat(item, (*path, name)).items()}


def overlaid(*contents):
    """The flat leaves of contents, each over those before it."""
    table = {}
    for content in contents:
        for path, value in flat(content).items():
            # A leaf takes the place of a section, and a section of a leaf.
            table = {other: kept for other, kept in table.items()
                     if other[:len(path)] != path and path[:len(other)] != other}
            table[path] = value
    return table


def written(folder, name, content):
    path = os.path.join(folder, f"{name}.yml")
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file)
    return path


@given(st.lists(contents, min_size=1, max_size=4))
def test_a_chain_of_bases_is_overlaid_from_the_root(chain):
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(chain):
            base = {"_base_": f"{number - 1}.yml"} if number else {}
            path = written(folder, str(number), {**base, **content})
        assert flat(load_yaml(path)) == overlaid(*chain)


@given(st.lists(regular, min_size=1, max_size=3), regular)
def test_of_several_bases_the_first_one_is_strongest(bases, own):
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.basename(written(folder, f"base{number}", content))
                 for number, content in enumerate(bases)]
        path = written(folder, "own", {"_base_": names, **own})
        assert flat(load_yaml(path)) == overlaid(*reversed(bases), own)


@given(regular, regular, regular)
def test_merging_is_associative_and_repeats_do_nothing(a, b, c):
    assert merge(merge(c, b), a) == merge(c, merge(b, a))
    assert flat(merge(c, merge(b, a))) == overlaid(a, b, c)
    assert merge(a, a) == a and merge({}, a) == a and merge(a, {}) == a


@given(st.lists(regular, max_size=4), regular, st.integers(0, 3))
def test_a_section_that_inherits_nothing_ends_the_search_for_it(bases, own, place):
    """Whichever of the files it stands in; the others are searched on."""
    files = [own, *bases]
    place = min(place, len(bases))
    section = {"z": {"_inherited_": True, "y": 1}}
    files[place] = {**files[place], "a": {"_inherited_": False, **section}}
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.basename(written(folder, f"base{number}", content))
                 for number, content in enumerate(files[1:])]
        merged = merge(load_yaml(written(folder, "own", {"_base_": names, **files[0]})), {})
    above = [{"a": file["a"]} for file in files[:place] if "a" in file]
    expected = overlaid({"a": {"z": {"y": 1}}}, *reversed(above))
    for path, value in overlaid(*reversed(files)).items():
        if path[0] != "a":
            expected[path] = value
    assert flat(merged) == expected


@given(contents)
def test_merging_changes_neither_side(content):
    before = yaml.safe_dump(content)
    merge(content, {"a": {"b": 1}, "b": 2})
    merge({"a": {"b": 1}, "b": 2}, content)
    assert yaml.safe_dump(content) == before


@given(regular, st.lists(st.tuples(st.sampled_from(["x", "a.y", "a.b.z", "n.e.w"]), leaves),
                         max_size=6), st.data())
def test_of_equal_opts_the_last_one_wins(content, items, data):
    texts = [f"{key}={value!r}" for key, value in items]
    assert parse_opts(texts) == dict(items)
    # Given at once or in two goes.
    cut = data.draw(st.integers(0, len(texts)))
    expected = overlaid(content, *(nested(key.split("."), value) for key, value in items))
    for parts in ([texts], [texts[:cut], texts[cut:]]):
        tree = copy.deepcopy(content)
        for part in parts:
            for key, value in parse_opts(part).items():
                set_key(tree, key, value)
        assert flat(tree) == expected


def nested(names, value):
    return {names[0]: nested(names[1:], value) if names[1:] else value}
