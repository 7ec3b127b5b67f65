"""scripts/over_comparisons.py: paired differences over the splits of several comparisons."""

import os

import pytest

import over_comparisons
from paddle_csrl.errors import UserError

HEADER = "split,stage1_seed,seed,method,seen,unseen,miou,hiou,status,marks,reason\n"


def write(folder, rows: str) -> str:
    os.makedirs(folder)
    path = os.path.join(folder, "results.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEADER + rows)
    return path


def test_by_hand(tmp_path, capsys):
    one = write(tmp_path / "one",
                "x,0,0,point,0,0,0,10,finished,,\nx,0,0,csrl,0,0,0,12,finished,,\n"
                "x,0,1,point,0,0,0,20,finished,,\nx,0,1,csrl,0,0,0,26,finished,,\n"
                "x,0,2,csrl,0,0,0,99,finished,,\nx,0,3,point,0,0,0,,failed,,why\n")
    two = write(tmp_path / "two", "x,0,0,point,0,0,0,5,finished,,\nx,0,0,csrl,0,0,0,5,finished,,\n")
    # A file that is named twice counts once.
    found = over_comparisons.main([one, two, one, "--methods", "csrl"])["csrl"]
    # Split x of the first: 2 and 6, mean 4; split x of the second: 0. Over splits: mean 2, and
    # with n = 2, sd = 2.828, t = 12.706 the half width is 25.41.
    assert [item.mean for item in found.splits.values()] == [4.0, 0.0]
    assert found.over_splits.mean == 2.0
    assert found.over_splits.high == pytest.approx(2 + 25.412, abs=1e-2)
    assert found.pooled.n == 3 and found.pooled.mean == pytest.approx(8 / 3)
    assert "+2.00 [-23.41, +27.41] (2)" in capsys.readouterr().out


def test_bad_input(tmp_path):
    path = write(tmp_path / "one", "x,0,0,point,0,0,0,10,finished,,\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="empty.csv cannot be read"):
        over_comparisons.main([str(tmp_path / "empty.csv"), "--methods", "csrl"])
    with pytest.raises(UserError, match="no finished cell of csrl has one of point beside it"):
        over_comparisons.main([path, "--methods", "csrl"])
    with pytest.raises(UserError, match="results.csv has no column auc"):
        over_comparisons.main([path, "--methods", "csrl", "--score", "auc"])
    with pytest.raises(UserError, match="nothing.csv cannot be read"):
        over_comparisons.main([str(tmp_path / "nothing.csv"), "--methods", "csrl"])
