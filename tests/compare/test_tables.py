"""Statistics against values by hand, and tables of comparisons made up from records."""

import csv
import math
import os
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from helpers import tiny_runs
from helpers.tiny_config import write_config
from paddle_csrl.compare import tables
from paddle_csrl.compare.curve import area
from paddle_csrl.compare.output import write_results
from paddle_csrl.compare.plan import Plan
from paddle_csrl.compare.plots import all_plots
from paddle_csrl.compare.results import Results, paper_table
from paddle_csrl.compare.statistics import PAIR, paired_difference, summarize, t_interval
from paddle_csrl.utils import write_json

NAN, SVG = math.nan, "{http://www.w3.org/2000/svg}"


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
    method = {("a", 0, 0): 12.0, ("a", 0, 1): 23.0, ("a", 0, 2): 50.0, ("a", 1, 0): NAN,
              ("b", 0, 1): 7.0, ("c", 1, 0): 1.0}
    reference = {("a", 0, 1): 20.0, ("a", 1, 0): 3.0, ("a", 0, 0): 11.0, ("b", 0, 1): 5.0,
                 ("c", 0, 0): 9.0}
    splits, over_splits, pooled = paired_difference(
        *(pd.Series(scores).rename_axis(PAIR) for scores in (method, reference)))
    assert set(splits) == {"a", "b"}  # c has no pair
    assert splits["a"][::3] == (2.0, 2)  # differences 1 and 3
    assert splits["a"].low == pytest.approx(2 - 12.706, abs=1e-2)
    assert splits["b"][::3] == (2.0, 1)
    assert over_splits == (2.0, 2.0, 2.0, 2)  # the means 2 and 2
    assert pooled[::3] == (2.0, 3)  # 1, 3, 2: sd 1, t(2) = 4.303
    assert pooled.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


def test_seeds_of_methods_without_a_random_part_count_once():
    """Both methods score the same for every seed of a stage-1 network: two values, not five."""
    method = {("a", 0, seed): 12.0 for seed in range(3)} | {("a", 1, seed): 15.0 for seed in (0, 1)}
    reference = {("a", 0, seed): 11.0 for seed in range(3)} | {
        ("a", 1, seed): 12.0 for seed in (0, 1)}
    # With a random reference every seed counts, also where two of them score alike.
    method |= {("b", 0, seed): 12.0 for seed in range(3)}
    reference |= {("b", 0, 0): 11.0, ("b", 0, 1): 11.0, ("b", 0, 2): 8.0}
    splits, over_splits, pooled = paired_difference(
        *(pd.Series(scores).rename_axis(PAIR) for scores in (method, reference)))
    assert splits["a"][::3] == (2.0, 2)  # differences 1 and 3: t(1) · √2 / √2
    assert splits["a"].high == pytest.approx(2 + 12.706, abs=1e-2)
    assert splits["b"][::3] == (2.0, 3)  # 1, 1 and 4
    assert over_splits[::3] == (2.0, 2) and pooled[::3] == (2.0, 5)


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
        plan = Plan.read(write_config(f"{tmp_path}/made_up.yml", content))
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
    extra = unseen if isinstance(unseen, dict) else {"unseen": unseen}
    unseen = extra["unseen"]
    names = [name.strip() for name in plan.splits[cell.split].unseen]
    classes = ([{"name": "background", "iou": 0.9, "seen": True},
                {"name": "a<b", "iou": None, "seen": True}]
               + [{"name": name, "iou": unseen, "seen": False} for name in names])
    return {"seen_miou": 0.8, "unseen_miou": unseen, "miou": 0.75, "hiou": unseen / 2,
            "classes": classes, **extra}


def read(plan, name) -> str:
    with open(os.path.join(plan.save_dir, name), encoding="utf-8") as file:
        return file.read()


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
    assert table.header == ["split", "csrl"]
    # unseen2: 15 - 10 and 25 - 15; t(1) · sd / √2 = 12.706 · 3.536 / 1.414. other: 5 - 10.
    assert table.rows == [
        ["unseen2", "+7.50 [-24.27, +39.27] (2)"], ["other", "-5.00 (1)"],
        ["over splits", "+1.25 [-78.16, +80.66] (2)"], ["pooled", "+3.33 [-15.64, +22.31] (3)"]]


def test_the_papers_figures_stand_beside_ours(made_up):
    plan = made_up(SCORES, paper="ablation",
                   methods={"point": None, "csrl": None, "unknown": None})
    table = tables.score_table(Results.read(plan), "unseen2")
    assert table.header[6:] == ["paper: seen mIoU", "paper: unseen mIoU", "paper: mIoU",
                                "paper: hIoU"]
    assert [row[6:] for row in table.rows] == [
        ["73.0", "40.3", "69.8", "51.9"], ["73.4", "45.7", "70.7", "56.3"], ["–"] * 4]
    assert len(tables.score_table(Results.read(plan), "other").header) == 6


def test_the_csv_files_by_hand(made_up):
    """Four decimals, nothing where there is no score, quotes where a text needs them."""
    scores = {("other", "point", 0): 0.2, ("other", "csrl", 0): {"unseen": 0.1, "leaks": True,
                                                                 "hiou": None},
              ("other", "csrl", 1): None}
    plan = made_up(scores, splits={"other": ["cat"]}, seeds=[0, 1])
    write_results(plan)
    assert read(plan, "results.csv") == (
        "split,stage1_seed,seed,method,seen,unseen,miou,hiou,status,marks,pretraining,reason\n"
        "other,0,0,point,80.0000,20.0000,75.0000,10.0000,finished,,none,\n"
        "other,0,0,csrl,80.0000,10.0000,75.0000,,finished,LEAKS,none,\n"
        "other,0,1,point,,,,,missing,,,\n"
        "other,0,1,csrl,,,,,failed,,,no | memory\n")
    assert read(plan, "class_iou.csv").splitlines()[:3] == [
        "split,stage1_seed,seed,method,class,kind,iou,marks,named",
        "other,0,0,point,background,seen,90.0000,,", "other,0,0,point,a<b,seen,,,"]


@pytest.mark.parametrize("key, mark", [("transductive", "transductive"), ("leaks", "LEAKS")])
def test_methods_that_are_not_plainly_zero_shot_are_marked_everywhere(made_up, key, mark):
    scores = {**SCORES, ("other", "csrl", 0): {"unseen": 0.1, key: True}}
    plan = made_up(scores)
    results = Results.read(plan)
    found = tables.all_tables(results)
    shown = [table for table in found if "csrl" in str(table.header) + str(table.rows)
             and table.title != "Failed cells"]
    assert len(shown) == 5
    assert all(f"csrl ({mark})" in str(table.header) + str(table.rows) for table in shown)
    assert f"point ({mark})" not in str(found)
    assert any(note.startswith(f"{mark}: ") for note in tables.notes(results))
    assert all(f"csrl ({mark})" in plot for plot in all_plots(results).values())
    write_results(plan)
    for name in ("results.csv", "class_iou.csv"):
        rows = list(csv.DictReader(read(plan, name).splitlines()))
        marks = {row["marks"] for row in rows
                 if (row["split"], row["method"], row["seed"]) == ("other", "csrl", "0")}
        assert marks == {mark} and {row["marks"] for row in rows} == {mark, ""}


IMAGENET = {"labels": ["ImageNet-1k"], "named": {"cow": "ox"}}
ADDRESS = "https://bj.bcebos.com/paddleseg/dygraph/resnet101_vd_ssld.tar.gz"


def test_classes_named_in_pretraining_are_marked_where_they_were(made_up):
    scores = {**SCORES, ("unseen2", "csrl", 0): {"unseen": 0.3, "pretraining": IMAGENET},
              ("other", "csrl", 0): {"unseen": 0.1, "pretraining": {"labels": ["unknown"],
                                                                    "named": {}}}}
    plan = made_up(scores)
    results = Results.read(plan)
    table, other = (tables.score_table(results, split) for split in plan.splits)
    assert [row[0] for row in table.rows] == ["point", "csrl (named)"]
    assert table.notes == [
        "Unseen: cow, motorbike.", "Labels of pretraining of point, csrl: none.",
        "Labels of pretraining of csrl: ImageNet-1k, which named cow (ox)."]  # by seeds
    assert [row[0] for row in other.rows] == ["point", "csrl (unknown)"]
    assert other.notes[1:] == ["Labels of pretraining of point: none.",
                               "Labels of pretraining of csrl: unknown."]
    table = tables.class_table(results, "unseen2")
    assert table.header == ["class", "point", "csrl (named)"]
    assert [row[0] for row in table.rows] == ["background", "a<b", "cow † *", "motorbike *"]
    assert table.notes == ["* unseen", "† named in pretraining"]
    assert tables.class_table(results, "other").notes == ["* unseen"]
    assert tables.difference_table(results).header == ["split", "csrl (named, unknown)"]
    assert [note.split(":")[0] for note in tables.notes(results)[1:]] == ["named", "unknown"]
    write_results(plan)
    rows = list(csv.DictReader(read(plan, "class_iou.csv").splitlines()))
    assert [row["class"] for row in rows if row["named"] == "ox"] == ["cow"]
    cells = list(csv.DictReader(read(plan, "results.csv").splitlines()))
    assert [row["pretraining"] for row in cells if row["marks"] == "named"] == [
        "ImageNet-1k, which named cow (ox)"]
    assert "cow † *" in read(plan, "results.html") and "cow † *" in read(plan, "results.md")


def test_scores_of_earlier_versions_are_marked_by_their_config(made_up):
    plan = made_up(SCORES, opts={"model.backbone.pretrained": ADDRESS},
                   methods={"point": {"opts": {"model.backbone.pretrained": None}}, "csrl": None})
    results = Results.read(plan)
    assert tables.score_table(results, "unseen2").notes[1:] == [
        "Labels of pretraining of point: none.", "Labels of pretraining of csrl: ImageNet-1k, "
        "which named cow (ox), motorbike (moped)."]
    assert tables.score_table(results, "other").rows[1][0] == "csrl (named)"
    assert results == Results.read(plan)


def test_the_permission_is_no_setting_of_a_score(made_up):
    scores = made_up(SCORES)
    forbidding = made_up({}, opts={"zero_shot.pretraining": "forbid"})
    for cell in scores.cells():
        assert scores.digest(cell) == forbidding.digest(cell)


def test_class_tables_star_unseen_classes(made_up):
    table = tables.class_table(Results.read(made_up(SCORES)), "unseen2")
    assert table.header == ["class", "point", "csrl"]
    assert table.rows == [["background", "90.0 ± 0.0", "90.0 ± 0.0"], ["a<b", "–", "–"],
                          ["cow *", "30.0 ± 10.0", "40.0 ± 14.1"],
                          ["motorbike *", "30.0 ± 10.0", "40.0 ± 14.1"]]


def test_scores_of_other_settings_are_not_shown(made_up):
    plan = made_up(SCORES)
    plan.methods["csrl"].opts["generator.iters"] = 7
    plan._dics.clear()
    results = Results.read(plan)
    assert results.count("finished") == 4 and results.finished("unseen2", "csrl").empty
    plan._command_opts["num_workers"] = 3  # has no influence on a score
    plan._dics.clear()
    assert Results.read(plan).count("finished") == 4


def test_nothing_finished_still_gives_tables(made_up):
    plan = made_up({})
    assert write_results(plan) == {"finished": 0, "failed": 0, "missing": 12}
    assert "| csrl | 0, 3 not run | – | – | – | – |" in read(plan, "results.md")


def test_what_finishes_while_tables_are_written_is_in_them(made_up, monkeypatch):
    plan = made_up({key: value for key, value in SCORES.items() if key[0] == "other"})
    write = tables.write_csv
    calls = []

    def slow(table, path):
        write(table, path)
        calls.append(path)
        if len(calls) == 1:  # another call finishes its split at this moment
            made_up(SCORES)

    monkeypatch.setattr(tables, "write_csv", slow)
    assert write_results(plan)["finished"] == 7
    assert read(plan, "results.csv").count("finished") == 7
    assert len(calls) == 2 * 2


# Colours: of the first two series, of intervals, of the grid.
FIRST, SECOND, FAINT, GRID = "#0072b2", "#d55e00", "#6e7176", "#e3e4e6"


def texts(plot) -> list[str]:
    return [item.text for item in ElementTree.fromstring(plot).iter(f"{SVG}text")]


def marks(plot, color) -> list[tuple[float, float]]:
    """Where marks filled with the colour are, the one of the legend last."""
    return [(float(item.get("x")), float(item.get("y")))
            for item in ElementTree.fromstring(plot).iter(f"{SVG}use")
            if f"fill: {color}" in item.get("style")]


def lines(plot, color) -> list[np.ndarray]:
    """The points [K, 2] of every line of the colour within the axes."""
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", item.get("d")), float)
            for item in ElementTree.fromstring(plot).iter(f"{SVG}path")
            if f"stroke: {color}" in item.get("style", "") and item.get("clip-path")]


def test_plots_show_every_cell_and_interval(made_up):
    plots = all_plots(Results.read(made_up(SCORES)))
    assert set(plots) == {"hiou.svg", "hiou_differences.svg"}
    # 4 scores of point and 3 of csrl, one more each in the legend.
    assert len(marks(plots["hiou.svg"], FIRST)) == 4 + 1
    assert len(marks(plots["hiou.svg"], SECOND)) == 3 + 1
    shown = texts(plots["hiou_differences.svg"])
    assert {"unseen2", "other", "over splits", "n = 1", "n = 2"} < set(shown)
    assert len(marks(plots["hiou_differences.svg"], SECOND)) == 3


def test_points_stand_at_their_values_on_the_axis(made_up):
    plot = all_plots(Results.read(made_up(SCORES)))["hiou.svg"]
    labels = sorted(float(text) for text in texts(plot) if re.fullmatch(r"[\d.]+", text))
    heights = sorted((points[0, 1] for points in lines(plot, GRID)
                      if points[0, 1] == points[1, 1]), reverse=True)
    assert len(labels) == len(heights) > 3
    per_pixel = (labels[-1] - labels[0]) / (heights[-1] - heights[0])
    shown = [labels[0] + (y - heights[0]) * per_pixel for _, y in marks(plot, FIRST)[:-1]]
    assert sorted(shown) == pytest.approx([10.0, 10.0, 15.0, 20.0], abs=0.01)


@pytest.mark.parametrize("unseen, is_cut", [((0.2, 0.44), True), ((0.31, 0.3102), False)])
def test_intervals_that_dwarf_the_means_end_pointed(made_up, unseen, is_cut):
    """Differences of -5 and 7 points, and of 0.5 and 0.51; t(1) is 12.7."""
    scores = {("unseen2", "point", seed): 0.3 for seed in (0, 1)}
    scores |= {("unseen2", "csrl", seed): value for seed, value in enumerate(unseen)}
    plot = all_plots(Results.read(made_up(scores)))["hiou_differences.svg"]
    left, right = (item.get("{http://www.w3.org/1999/xlink}href")
                   for item in ElementTree.fromstring(plot).iter(f"{SVG}use")
                   if f"fill: {FAINT}" in item.get("style"))
    assert (left != right) == is_cut


def test_gains_are_drawn_against_the_number_of_seen_classes_where_it_differs(made_up):
    fewer = {"unseen": 0.3, "classes": [{"name": "a", "iou": 0.5, "seen": True},
                                        {"name": "cat", "iou": 0.3, "seen": False}]}
    plots = all_plots(Results.read(made_up({**SCORES, ("other", "point", 0): fewer})))
    assert {"1", "2", "number of seen classes"} < set(texts(plots["hiou_by_seen_classes.svg"]))


def test_the_page_needs_no_other_file_and_escapes_names(made_up):
    plan = made_up({**SCORES, ("unseen2", "point", 1): None})
    write_results(plan)
    text = read(plan, "results.html")
    assert "<script" not in text and "src=" not in text
    assert text.count("href=") == text.count('href="#')  # marks of the plots, drawn several times
    assert "a&lt;b" in text and "<td>a<b" not in text
    assert text.count("<svg") == 2 and "no | memory" in text
    page = ElementTree.fromstring(re.sub(r"<!DOCTYPE html>|<meta[^>]*>", "", text))
    cells = [[cell.text for cell in row] for row in page.iter("tr")]
    assert ["csrl", "2, 1 failed", "80.0 ± 0.0", "40.0 ± 14.1", "75.0 ± 0.0",
            "20.0 ± 7.1"] in cells
    assert [row[0].text for row in page.iter("tr") if row.get("class") == "unseen"] == [
        "cow *", "motorbike *", "cat *"]


#: Where the printed overall mIoU does not follow from the printed seen and unseen ones.
MISPRINTS = {"voc": {(f"unseen{n}", "segdevise") for n in (2, 4, 6, 8, 10)} | {
    ("unseen10", "csrl")},
    "context": {(f"unseen{n}", "segdevise") for n in (2, 4, 10)}, "ablation": set()}


@pytest.mark.parametrize("name", ["voc", "context", "ablation"])
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


def with_curve(unseen, ausuc) -> dict:
    return {"unseen": unseen, "curve": {"calibrations": [-1e4, 0, 1e4], "ausuc": ausuc,
                                        "best_hiou": 0.4, "seen_miou": [0.8, 0.6, 0.0],
                                        "unseen_miou": [0.0, unseen, 0.3]}}


def test_the_area_below_the_curve_is_a_score_of_its_own(made_up):
    scores = {("unseen2", "point", 0): with_curve(0.2, 0.10),
              ("unseen2", "point", 1): with_curve(0.2, 0.12),
              ("unseen2", "csrl", 0): with_curve(0.4, 0.13),
              ("unseen2", "csrl", 1): with_curve(0.4, 0.17),
              ("other", "csrl", 0): 0.1}  # a layer without a bias has no curve
    plan = made_up(scores, calibrations=[0])
    results = Results.read(plan)
    table = tables.score_table(results, "unseen2")
    assert table.header[-2:] == ["AUSUC", "best hIoU"]
    assert [row[-2:] for row in table.rows] == [["11.0 ± 1.4", "40.0 ± 0.0"],
                                                ["15.0 ± 2.8", "40.0 ± 0.0"]]
    assert tables.score_table(results, "other").rows[1][-2:] == ["–", "–"]
    areas = tables.difference_table(results, "ausuc")
    assert areas.title == "AUSUC against point, in points"
    assert areas.rows[0] == ["unseen2", "+4.00 [-8.71, +16.71] (2)"]
    assert areas.title in [item.title for item in tables.all_tables(results)]
    assert any(note.startswith("AUSUC") for note in tables.notes(results))
    write_results(plan)
    rows = csv.DictReader(read(plan, "results.csv").splitlines())
    assert [row["ausuc"] for row in rows][:2] == ["10.0000", "13.0000"]


def test_a_curve_at_other_calibrations_is_not_mixed_with_those_of_the_plan(made_up):
    other = with_curve(0.2, 0.1)
    other["curve"] = {"calibrations": [-1e4, 1e4], "ausuc": 0.3, "best_hiou": 0.3,
                      "seen_miou": [0.8, 0.0], "unseen_miou": [0.0, 0.3]}
    results = Results.read(made_up({("unseen2", "csrl", 0): with_curve(0.4, 0.13),
                                    ("unseen2", "csrl", 1): other}, calibrations=[0]))
    assert results.summary("unseen2", "csrl", "ausuc")[::2] == (13.0, 1)
    assert results.summary("unseen2", "csrl", "hiou").n == 2
    np.testing.assert_allclose(results.curve("unseen2", "csrl"), [[80, 0], [60, 40], [0, 30]])


def test_the_curve_plot_goes_through_the_means(made_up):
    scores = {("unseen2", "csrl", 0): with_curve(0.2, 0.1),
              ("unseen2", "csrl", 1): with_curve(0.4, 0.1)}
    plots = all_plots(Results.read(made_up(scores, calibrations=[0])))
    (x0, y0), (x1, y1), (x2, y2) = lines(plots["seen_unseen.svg"], SECOND)[0]
    assert x2 < x1 < x0 and (x1 - x2) / (x0 - x2) == pytest.approx(0.6 / 0.8, abs=5e-3)
    assert y1 == pytest.approx(y2, abs=0.1) and y1 < y0  # 30 % is the mean of 20 and 40
    assert "seen_unseen.svg" not in all_plots(Results.read(made_up(SCORES)))


def test_area_by_hand():
    # A rectangle 0.5 wide and 0.4 high, and a triangle from there to seen 0.7.
    assert area([0.7, 0.5, 0.0], [0.0, 0.4, 0.4]) == pytest.approx(0.5 * 0.4 + 0.2 * 0.4 / 2)
    assert math.isnan(area([0.7, NAN, 0.0], [0.0, 0.4, 0.4]))
