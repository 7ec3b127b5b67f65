"""scripts/prototype_study.py: what becomes of classes that a backbone never saw."""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest

from helpers import tiny_runs

SCRIPTS = os.path.join(tiny_runs.ROOT, "scripts")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, SCRIPTS)
    try:
        spec = importlib.util.spec_from_file_location(
            "prototype_study", os.path.join(SCRIPTS, "prototype_study.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(SCRIPTS)
    return module


def test_the_held_out_class_is_described(script, tmp_path, capsys):
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    rows = script.main(["-c", recipe.config, "--out", str(tmp_path / "out"), "--fold", "dog",
                        "--opts", *recipe.opts])
    assert [row["class"] for row in rows] == ["dog"]
    assert 0 <= rows[0]["distance_to_hull"] < 10
    assert -1 <= rows[0]["semantic_correlation"] <= 1
    assert 0 < sum(rows[0]["mixture"].values()) <= 1 + 1e-9 and "dog" not in rows[0]["mixture"]
    assert "dog" in capsys.readouterr().out
    with open(tmp_path / "out" / "prototypes.json", encoding="utf-8") as file:
        assert json.load(file) == rows


def test_cosines_are_seen_from_the_centre(script):
    seen = np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 4.0]])  # centre (2, 2)
    found = script.cosines(np.array([[2.0, 5.0]]), seen)
    np.testing.assert_allclose(found, [[-1 / np.sqrt(2), -1 / np.sqrt(2), 1.0]])
