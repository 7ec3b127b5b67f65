"""scripts/prototype_study.py: what becomes of classes that a backbone never saw."""

import json

import numpy as np

import prototype_study
from helpers import tiny_runs
from helpers.fabricated import swap_ids


def test_the_held_out_class_is_described(tmp_path, capsys):
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    rows = prototype_study.main(["-c", recipe.config, "--out", str(tmp_path / "out"),
                                 "--fold", "dog", "--opts", *recipe.opts])
    assert [row["class"] for row in rows] == ["dog"]
    assert 0 <= rows[0]["distance_to_hull"] < 10
    assert -1 <= rows[0]["semantic_correlation"] <= 1
    assert 0 < sum(rows[0]["mixture"].values()) <= 1 + 1e-9 and "dog" not in rows[0]["mixture"]
    assert "dog" in capsys.readouterr().out
    with open(tmp_path / "out" / "prototypes.json", encoding="utf-8") as file:
        assert json.load(file) == rows


def test_labels_count_by_their_names(tmp_path):
    """The ids of two classes change places in the labels and in their names: nothing changes."""
    rows = []
    for number in range(2):
        recipe = tiny_runs.custom(str(tmp_path / f"data{number}"), str(tmp_path / f"cache{number}"))
        labels = ["background", "cat", "dog", "cow", "car"]
        if number:
            swap_ids(str(tmp_path / "data1"), 1, 2)
            labels[1:3] = labels[2:0:-1]
        rows.append(prototype_study.main([
            "-c", recipe.config, "--out", str(tmp_path / f"out{number}"), "--fold", "dog",
            "--opts", *recipe.opts, f"zero_shot.label_names={labels}"]))
    assert rows[0] == rows[1]


def test_cosines_are_seen_from_the_centre():
    seen = np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 4.0]])  # centre (2, 2)
    found = prototype_study.cosines(np.array([[2.0, 5.0]]), seen)
    np.testing.assert_allclose(found, [[-1 / np.sqrt(2), -1 / np.sqrt(2), 1.0]])
