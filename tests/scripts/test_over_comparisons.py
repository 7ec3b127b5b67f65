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
    path = write(tmp_path / "one", "x,0,0,point,0,0,0,10,finished,,\n"
                 "x,0,1,csrl,0,0,0,10,finished,,\nx,0,1,zs3net,0,0,0,,failed,,why\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="empty.csv cannot be read"):
        over_comparisons.main([str(tmp_path / "empty.csv"), "--methods", "csrl"])
    with pytest.raises(UserError, match="no finished cell of csrl has one of point beside it"):
        over_comparisons.main([path, "--methods", "csrl"])
    for flag, name in (("--reference", "pointwise"), ("--methods", "zs3net")):
        with pytest.raises(UserError, match=f"^{flag} {name}: there is no finished cell of it in "
                                            r"\S*results.csv; give one of point, csrl$"):
            over_comparisons.main([path, "--methods", "csrl", flag, name])
    with pytest.raises(UserError, match="^--score marks: no finished cell has a number there in"):
        over_comparisons.main([path, "--methods", "csrl", "--score", "marks"])
    with pytest.raises(UserError, match="results.csv has no column auc"):
        over_comparisons.main([path, "--methods", "csrl", "--score", "auc"])
    with pytest.raises(UserError, match="nothing.csv cannot be read"):
        over_comparisons.main([str(tmp_path / "nothing.csv"), "--methods", "csrl"])


def test_means_by_hand(tmp_path, capsys):
    header = "split,stage1_seed,seed,method,seen,unseen,hiou,best_hiou,ausuc,status\n"
    rows = {"one": "x,0,0,point,50,10,16,20,4,finished\nx,0,1,point,60,20,30,30,6,finished\n"
                   "y,0,0,point,40,0,0,10,1,finished\nx,0,0,csrl,9,9,9,9,9,missing\n",
            "two": "x,0,0,point,30,30,30,33,9,finished\nx,0,0,csrl,20,20,20,21,5,finished\n"}
    paths = []
    for name, text in rows.items():
        os.makedirs(tmp_path / name)
        paths.append(str(tmp_path / name / "results.csv"))
        with open(paths[-1], "w", encoding="utf-8") as file:
            file.write(header + text)
    assert over_comparisons.main(paths) == {}
    head, _, point, csrl = [[text.strip() for text in line.split("|")[1:-1]]
                            for line in capsys.readouterr().out.strip().splitlines()[-4:]]
    assert head[2:4] == [f"{name}: seen / unseen / hIoU / best" for name in rows]
    # Split x of the first is 55 / 15 / 23 / 25 and 5; with y 47.5 / 7.5 / 11.5 / 17.5.
    assert point == ["point", "3", "47.5 / 7.5 / 11.5 / 17.5", "30.0 / 30.0 / 30.0 / 33.0",
                     "17.7 / 22.7 / 5.0", "5.0 / 10.0"]
    assert csrl == ["csrl", "1", "–", "20.0 / 20.0 / 20.0 / 21.0", "20.0 / 21.0 / 5.0", "1.0 / 1.0"]


def test_nothing_finished(tmp_path):
    path = str(tmp_path / "results.csv")
    with open(path, "w", encoding="utf-8") as file:
        file.write("split,stage1_seed,seed,method,seen,unseen,hiou,best_hiou,ausuc,status\n"
                   "x,0,0,point,,,,,,failed\n")
    for flags in ([], ["--methods", "point", "--score", "seen"]):
        with pytest.raises(UserError, match="no cell is finished in .*csv; run its comparison"):
            over_comparisons.main([path, *flags])
