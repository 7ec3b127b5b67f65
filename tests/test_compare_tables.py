"""Statistics against values by hand, and tables of comparisons made up from records."""

import paddle_csrl  # noqa: F401  first: it orders the imports of cv2 and paddle

import csv
import math
import os

import numpy as np
import pytest
import tiny_runs
from tiny_config import write_config

from paddle_csrl.compare import tables
from paddle_csrl.compare.plan import PAPER_TABLES, Plan
from paddle_csrl.compare.report import write_report
from paddle_csrl.compare.results import Results, paper_table
from paddle_csrl.compare.statistics import paired_difference, summarize, t_interval
from paddle_csrl.utils import write_json

NAN = math.nan


def test_mean_and_spread_by_hand():
    # Deviations -2, 0, 2: sum of squares 8, over n - 1 = 2.
    assert summarize([4, 6, 8]) == (6.0, 2.0, 3)
    assert summarize([4, NAN, 8]) == pytest.approx((6.0, math.sqrt(8), 2))
    assert summarize([5])[::2] == (5.0, 1) and math.isnan(summarize([5]).sd)
    assert summarize([]).n == 0 and math.isnan(summarize([]).mean)


@pytest.mark.parametrize("values, quantile", [
    # t(0.975) of printed tables for 1, 2, 4 and 9 degrees of freedom.
    ([1.0, 3.0], 12.706), ([4.0, 6.0, 8.0], 4.303), ([1, 2, 3, 4, 5], 2.776),
    (list(range(10)), 2.262)])
def test_t_intervals_by_hand(values, quantile):
    mean, low, high, n = t_interval(values)
    half = quantile * np.std(values, ddof=1) / math.sqrt(len(values))
    assert (mean, n) == (pytest.approx(np.mean(values)), len(values))
    assert low == pytest.approx(mean - half, abs=2e-3 * half)
    assert high == pytest.approx(mean + half, abs=2e-3 * half)


def test_one_value_has_no_interval():
    mean, low, high, n = t_interval([3.0])
    assert (mean, n) == (3.0, 1) and math.isnan(low) and math.isnan(high)


def test_differences_are_paired_by_seed_within_a_split():
    method = {"a": {(0, 0): 12.0, (0, 1): 23.0, (0, 2): 50.0}, "b": {(0, 1): 7.0},
              "c": {(1, 0): 1.0}}
    reference = {"a": {(0, 1): 20.0, (0, 0): 11.0}, "b": {(0, 1): 5.0}, "c": {(0, 0): 9.0}}
    splits, over_splits, pooled = paired_difference(method, reference)
    assert set(splits) == {"a", "b"}  # c has no pair
    assert splits["a"][::3] == (2.0, 2)  # differences 1 and 3
    assert splits["a"].low == pytest.approx(2 - 12.706, abs=1e-2)
    assert splits["b"][::3] == (2.0, 1)
    assert over_splits == (2.0, 2.0, 2.0, 2)  # the means 2 and 2
    assert pooled[::3] == (2.0, 3)  # 1, 3, 2: sd 1, t(2) = 4.303
    assert pooled.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


@pytest.fixture
def made_up(tmp_path):
    """A comparison on the embedded data set whose records are written, not trained.

    ``scores[split, method, seed]`` is the IoU of all unseen classes; None for a failure.
    """

    def make(scores, **changes) -> Plan:
        content = {
            "config": os.path.join(tiny_runs.ROOT, "configs", "csrl_voc_unseen2.yml"),
            "splits": {"unseen2": ["cow", "motorbike"], "other": ["cat"]},
            "seeds": [0, 1, 2], "methods": {"point": None, "csrl": None},
            "save_dir": f"{tmp_path}/compared", **changes}
        plan = Plan(write_config(f"{tmp_path}/made_up.yml", content))
        for cell in plan.cells():
            key = (cell.split, cell.method, cell.seed)
            if key not in scores:
                continue
            record = {"config": plan.digest(cell), **fabricated(plan, cell, scores[key])}
            name = "failure.json" if "error" in record else "scores.json"
            write_json(os.path.join(plan.cell_dir(cell), name), record)
        return plan

    return make


def fabricated(plan, cell, unseen) -> dict:
    if unseen is None:
        return {"error": "no | memory"}
    if isinstance(unseen, dict):
        extra, unseen = unseen, unseen["unseen"]
    else:
        extra = {}
    names = [name.strip() for name in plan.splits[cell.split].unseen]
    classes = ([{"name": "background", "iou": 0.9, "seen": True},
                {"name": "a<b", "iou": None, "seen": True}]
               + [{"name": name, "iou": unseen, "seen": False} for name in names])
    return {"seen_miou": 0.8, "unseen_miou": unseen, "miou": 0.75, "hiou": unseen / 2,
            "classes": classes, **extra}


SCORES = {("unseen2", "point", 0): 0.2, ("unseen2", "point", 1): 0.3, ("unseen2", "point", 2): 0.4,
          ("unseen2", "csrl", 0): 0.3, ("unseen2", "csrl", 1): 0.5, ("unseen2", "csrl", 2): None,
          ("other", "point", 0): 0.2, ("other", "csrl", 0): 0.1}


def test_score_tables_show_mean_spread_number_and_what_is_missing(made_up):
    results = Results.read(made_up(SCORES))
    table = tables.score_table(results, "unseen2")
    assert table.header == ["method", "n", "seen mIoU", "unseen mIoU", "mIoU", "hIoU"]
    assert table.rows == [
        ["point", "3", "80.0 ± 0.0", "30.0 ± 10.0", "75.0 ± 0.0", "15.0 ± 5.0"],
        ["csrl", "2, 1 failed", "80.0 ± 0.0", "40.0 ± 14.1", "75.0 ± 0.0", "20.0 ± 7.1"]]
    assert tables.score_table(results, "other").rows[1] == [
        "csrl", "1, 2 not run", "80.0", "10.0", "75.0", "5.0"]


def test_differences_are_in_points_of_hiou(made_up):
    results = Results.read(made_up(SCORES))
    table = tables.difference_table(results)
    assert table.header == ["method", "unseen2", "other", "over splits", "pooled"]
    [row] = table.rows
    # unseen2: 15 - 10 and 25 - 15; t(1) · sd / √2 = 12.706 · 3.536 / 1.414. other: 5 - 10.
    assert row == ["csrl", "+7.50 [-24.27, +39.27] (2 pairs)", "-5.00 (1 pair)",
                   "+1.25 [-78.16, +80.66] (2 splits)", "+3.33 [-15.64, +22.31] (3 pairs)"]


def test_the_papers_figures_stand_beside_ours(made_up):
    plan = made_up(SCORES, paper="ablation",
                   methods={"point": None, "csrl": None, "unknown": None})
    table = tables.score_table(Results.read(plan), "unseen2")
    assert table.header[6:] == ["paper: seen mIoU", "paper: unseen mIoU", "paper: mIoU",
                                "paper: hIoU"]
    assert [row[6:] for row in table.rows] == [
        ["73.0", "40.3", "69.8", "51.9"], ["73.4", "45.7", "70.7", "56.3"], ["–"] * 4]
    assert len(tables.score_table(Results.read(plan), "other").header) == 6


@pytest.mark.parametrize("key, mark", [("transductive", "†"), ("leaks", "‡")])
def test_methods_that_are_not_plainly_zero_shot_are_marked_everywhere(made_up, key, mark):
    scores = {**SCORES, ("other", "csrl", 0): {"unseen": 0.1, key: True}}
    plan = made_up(scores)
    results = Results.read(plan)
    found = tables.all_tables(results)
    shown = [table for table in found if "csrl" in str(table.header) + str(table.rows)
             and table.title != "Failed cells"]
    assert len(shown) == 5
    assert all(f"csrl {mark}" in str(table.header) + str(table.rows) for table in shown)
    assert "point " + mark not in str(found)
    assert any(note.startswith(f"{mark} {key}") for note in tables.notes(results))
    write_report(plan)
    with open(os.path.join(plan.save_dir, "results.csv"), encoding="utf-8") as file:
        assert [row["marks"] for row in csv.DictReader(file)
                if (row["split"], row["method"], row["seed"]) == ("other", "csrl", "0")] == [mark]


def test_class_tables_star_unseen_classes(made_up):
    table = tables.class_table(Results.read(made_up(SCORES)), "unseen2")
    assert table.header == ["class", "point", "csrl"]
    assert table.rows == [["background", "90.0 ± 0.0", "90.0 ± 0.0"], ["a<b", "–", "–"],
                          ["cow *", "30.0 ± 10.0", "40.0 ± 14.1"],
                          ["motorbike *", "30.0 ± 10.0", "40.0 ± 14.1"]]


def test_scores_of_other_settings_are_not_shown(made_up):
    plan = made_up(SCORES)
    plan.methods["csrl"].opts["generator.iters"] = 7
    plan._digests.clear()
    results = Results.read(plan)
    assert results.count("finished") == 4 and results.finished("unseen2", "csrl") == []
    plan.command_opts["num_workers"] = 3  # has no influence on a score
    plan._digests.clear()
    assert Results.read(plan).count("finished") == 4


def test_nothing_finished_still_gives_tables(made_up):
    plan = made_up({})
    assert write_report(plan) == {"finished": 0, "failed": 0, "missing": 12}
    with open(os.path.join(plan.save_dir, "results.md"), encoding="utf-8") as file:
        assert "| csrl | 0, 3 not run | – | – | – | – |" in file.read()


def test_what_finishes_while_tables_are_written_is_in_them(made_up, monkeypatch):
    plan = made_up({key: value for key, value in SCORES.items() if key[0] == "other"})
    write = tables.write_results_csv
    calls = []

    def slow(results, path):
        write(results, path)
        calls.append(1)
        if len(calls) == 1:  # another call finishes its split at this moment
            made_up(SCORES)

    monkeypatch.setattr(tables, "write_results_csv", slow)
    assert write_report(plan)["finished"] == 7
    with open(os.path.join(plan.save_dir, "results.csv"), encoding="utf-8") as file:
        assert file.read().count("finished") == 7
    assert len(calls) == 2


#: Where the printed overall mIoU does not follow from the printed seen and unseen ones.
MISPRINTS = {"voc": {(f"unseen{n}", "segdevise") for n in (2, 4, 6, 8, 10)} | {
    ("unseen10", "csrl")},
    "context": {(f"unseen{n}", "segdevise") for n in (2, 4, 10)}, "ablation": set()}


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_the_papers_figures_agree_with_each_other_but_for_the_misprints(name):
    num_classes = 60 if name == "context" else 21
    wrong = set()
    for split, rows in paper_table(name)["splits"].items():
        num_unseen = int(split[len("unseen"):])
        for method, (seen, unseen, overall, harmonic) in rows.items():
            assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen), abs=0.1)
            mean = (seen * (num_classes - num_unseen) + unseen * num_unseen) / num_classes
            if abs(overall - mean) > 0.2:
                wrong.add((split, method))
    assert wrong == MISPRINTS[name]
    notes = " ".join(paper_table(name)["notes"])
    assert all(method in notes for _, method in wrong)


def test_the_ablation_ends_in_the_row_of_table_1():
    assert paper_table("ablation")["splits"]["unseen2"]["csrl"] == \
        paper_table("voc")["splits"]["unseen2"]["csrl"]
