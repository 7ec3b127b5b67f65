"""WordNet above ImageNet's classes: read from its database, and as it comes with the package."""

import shutil

import pytest

import imagenet_hypernyms
from paddle_csrl.errors import UserError
from paddle_csrl.utils.io import asset

#: As in data.noun, glosses cut: four words in hexadecimal, a lexical pointer, two hypernyms.
OX = ("02403003 05 n 01 ox 0 003 @ 02402425 n 0000 #m 02402175 n 0000 ~ 02403153 n 0000 "
      "| an adult castrated bull\n")
DOG = ("02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 004 @ 02083346 n 0000 "
       "@ 01317541 n 0000 #m 02083863 n 0000 ~ 01322604 n 0000 | a member of the genus Canis | x\n")
MANY = f"00000001 03 n 0b {'a_b 0 ' * 11}000 | eleven words\n"


def test_a_line_of_the_database_by_hand():
    assert imagenet_hypernyms.read_synset(OX) == ("n02403003", ("ox", ["n02402425"]))
    assert imagenet_hypernyms.read_synset(DOG) == (
        "n02084071", ("dog, domestic dog, Canis familiaris", ["n02083346", "n01317541"]))
    words = imagenet_hypernyms.read_synset(MANY)[1].words
    assert words.split(", ") == ["a b"] * 11


def test_every_synset_stands_after_those_above_it():
    synset = imagenet_hypernyms.Synset
    synsets = {"leaf": synset("leaf", ["right", "left"]), "left": synset("left", ["root"]),
               "right": synset("right", ["left"]), "root": synset("root", []),
               "other": synset("other", ["root"])}
    assert imagenet_hypernyms.from_the_root(synsets, ["leaf", "root"]) == [
        "root", "left", "right", "leaf"]


def test_another_wordnet_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    out = tmp_path / "hypernyms.txt"
    shutil.copy(asset("imagenet1k", "hypernyms.txt"), out)
    monkeypatch.setattr(imagenet_hypernyms, "OUT", str(out))
    before = out.read_bytes()
    (tmp_path / "data.noun").write_text("  1 This software\n" + OX)
    with pytest.raises(UserError, match="does not have n01440764 as tench, Tinca tinca; give that "
                                        "of WordNet 3.0"):
        imagenet_hypernyms.main([str(tmp_path / "data.noun")])
    assert out.read_bytes() == before


def test_what_comes_with_the_package_is_a_hierarchy_of_all_classes():
    with open(asset("imagenet1k", "labels.txt"), encoding="utf-8") as file:
        labels = {line.split(" ", 1)[0] for line in file}
    above = {}
    with open(asset("imagenet1k", "hypernyms.txt"), encoding="utf-8") as file:
        for line in file:
            synset, parents, *words = line.rstrip("\n").split(" ", 2)
            assert bool(words) == (synset not in labels) and synset not in above
            above[synset] = [] if parents == "-" else parents.split(",")
            assert all(parent in above for parent in above[synset])
    assert labels <= set(above) and len(labels) == 1000
    assert [synset for synset, parents in above.items() if not parents] == ["n00001740"]  # entity
    assert set(above) == labels | {parent for parents in above.values() for parent in parents}
    # WordNet 3.0: ox < cattle < bovine < bovid; dog has two hypernyms.
    assert above["n02403003"] == ["n02402425"] and above["n02402425"] == ["n02402010"]
    assert above["n02084071"] == ["n02083346", "n01317541"]
