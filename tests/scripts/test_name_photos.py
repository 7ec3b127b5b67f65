"""Names of photographs: those of ImageNet that are right, and how many are found."""

import os

import pytest

import name_photos
from paddle_csrl.utils.io import asset

#: A folder of MSRC v2 with `classes.txt`, `train.txt` and `val.txt`, for the test on photographs.
MSRC = os.environ.get("PADDLE_CSRL_MSRC21")


def test_the_labels_are_imagenets_thousand_in_the_order_of_their_synsets():
    with open(asset("imagenet1k", "labels.txt"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    synsets = [line.split(" ", 1)[0] for line in lines]
    assert len(set(synsets)) == 1000 and synsets == sorted(synsets)
    assert [lines[index].split(" ", 1)[1] for index in (0, 345, 404, 999)] == [
        "tench, Tinca tinca", "ox", "airliner",
        "toilet tissue, toilet paper, bathroom tissue"]


def test_the_names_that_are_right_are_rows_of_kinds():
    right = {name: name_photos.right_labels(name) for name in name_photos.RIGHT}
    assert {name: len(labels) for name, labels in right.items()} == {
        "cat": 5, "dog": 118, "aeroplane": 3}
    assert right["cat"] == set(range(281, 286)) and 404 in right["aeroplane"]


@pytest.mark.skipif(not MSRC, reason="PADDLE_CSRL_MSRC21 names no folder of photographs")
def test_photographs_are_named_and_better_with_the_mean_of_the_weights():
    found = name_photos.main([os.path.join(MSRC, "train.txt"), os.path.join(MSRC, "val.txt"),
                              "--root", MSRC, "--classes", os.path.join(MSRC, "classes.txt")])
    assert found["as trained"] >= 75 and found["as trained"] > found["ImageNet's"]
