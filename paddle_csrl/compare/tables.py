"""Tables of a comparison, for Markdown and HTML, and its CSV files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from paddle_csrl.compare.results import SCORES, Results, paper_table
from paddle_csrl.compare.statistics import Interval, Summary
from paddle_csrl.utils import atomic_path

NONE = "–"

_CURVE_NOTE = ("AUSUC: area below the seen–unseen curve, in percent of the unit square; it does "
               "not depend on the calibration. Best hIoU: at the best point of that curve, which "
               "only the truth knows; what a method could reach, not what it does.")


@dataclass(frozen=True)
class Table:
    """Texts in rows below a header; the first column holds names."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.header),
                 _line(["---"] + ["---:"] * (len(self.header) - 1)),
                 *map(_line, self.rows), ""]
        return "\n".join([*lines, *(note + "\n" for note in self.notes)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def score_table(results: Results, split: str) -> Table:
    """Methods × scores of one split, with the paper's figures beside them where it has any."""
    paper = paper_table(results.plan.paper)["splits"].get(split, {})
    header = ["method", "n", *results.scores.values()] + (
        [f"paper: {name}" for name in SCORES.values()] if paper else [])
    rows = []
    for method in results.plan.methods:
        row = [results.label(method), _numbers(results, split, method)]
        row += [show_summary(results.summary(split, method, key)) for key in results.scores]
        if paper:
            row += [f"{value:.1f}" for value in paper.get(method, [])] or [NONE] * len(SCORES)
        rows.append(row)
    unseen = ", ".join(results.plan.splits[split].unseen)
    return Table(split, header, rows, [f"Unseen: {unseen}."])


def _numbers(results: Results, split: str, method: str) -> str:
    """How many cells are finished, and how many are not."""
    rows = results.of(split, method)
    finished = sum(row.status == "finished" for row in rows)
    failed = sum(row.status == "failed" for row in rows)
    missing = len(rows) - finished - failed
    return f"{finished}" + (f", {failed} failed" if failed else "") + (
        f", {missing} not run" if missing else "")


def difference_table(results: Results, key: str = "hiou") -> Table:
    """Paired differences to the reference in points, by split and over all."""
    methods = [method for method in results.plan.methods if method != results.plan.reference]
    differences = [results.difference(method, key) for method in methods]
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    rows = [[split] + [show_interval(item.splits.get(split, nothing)) for item in differences]
            for split in results.plan.splits]
    rows.append(["over splits"] + [show_interval(item.over_splits) for item in differences])
    rows.append(["pooled"] + [show_interval(item.pooled) for item in differences])
    return Table(
        f"{results.scores[key]} against {results.label(results.plan.reference)}, in points",
        ["split", *map(results.label, methods)], rows,
        ["Mean of the paired differences (same split, stage-1 seed and seed), its 95 % "
         "t-interval and, in parentheses, the number of pairs. “Over splits” takes the mean of "
         "each split as one value; its number is that of the splits. “Pooled” takes all pairs as "
         "independent, which pairs of one split are not: it says how sure the mean over these "
         "splits is, not how it would be on others."])


def class_table(results: Results, split: str) -> Table:
    """Mean IoU of every class by method; unseen classes are starred."""
    methods = list(results.plan.methods)
    rows = [[f"{name} *" if unseen else name]
            + [show_summary(results.class_summary(split, method, name)) for method in methods]
            for name, unseen in results.classes(split).items()]
    return Table(f"IoU by class: {split}", ["class", *map(results.label, methods)], rows,
                 ["* unseen"])


def failure_table(results: Results) -> Table:
    """The cells that failed and why."""
    rows = [[str(row.cell), row.reason] for row in results.rows if row.status == "failed"]
    return Table("Failed cells", ["cell", "reason"], rows,
                 ["Run again with --retry_failed once the reason is mended."])


def all_tables(results: Results) -> list[Table]:
    """Every table that has something to show, in the order of the report."""
    tables = [score_table(results, split) for split in results.plan.splits]
    if len(results.plan.methods) > 1:
        tables.append(difference_table(results))
        if results.plan.calibrations:
            tables.append(difference_table(results, "ausuc"))
    tables += [class_table(results, split) for split in results.plan.splits
               if results.classes(split)]
    if results.count("failed"):
        tables.append(failure_table(results))
    return tables


def notes(results: Results) -> list[str]:
    """What holds for all tables."""
    paper = paper_table(results.plan.paper)
    return ["Scores are percentages, mean ± standard deviation over n cells (stage-1 seeds × "
            "seeds).", *([_CURVE_NOTE] if results.plan.calibrations else []), *results.marks(),
            *([f"Beside them: {paper['title']}."] if paper["title"] else []), *paper["notes"]]


def markdown(results: Results) -> str:
    """The whole report as Markdown."""
    return "\n".join([f"# {results.plan.name}", "", *(f"{note}\n" for note in notes(results)),
                      *(table.markdown() for table in all_tables(results))])


def write_results_csv(results: Results, path: str) -> None:
    """One row per cell, scores in percent."""
    _write_csv(path, ["split", "stage1_seed", "seed", "method", "seen", "unseen", "miou", "hiou",
                      *list(results.scores)[len(SCORES):], "status", "marks", "reason"],
               [[row.cell.split, row.cell.stage1_seed, row.cell.seed, row.cell.method,
                 *(_number(row.scores.get(key, math.nan)) for key in results.scores),
                 row.status, " ".join(row.marks), row.reason] for row in results.rows])


def write_class_csv(results: Results, path: str) -> None:
    """One row per finished cell and class, IoU in percent."""
    _write_csv(path, ["split", "stage1_seed", "seed", "method", "class", "kind", "iou", "marks"],
               [[row.cell.split, row.cell.stage1_seed, row.cell.seed, row.cell.method, name,
                 "unseen" if name in row.unseen else "seen", _number(iou), " ".join(row.marks)]
                for row in results.rows for name, iou in row.class_iou.items()])


def _write_csv(path: str, header: list[str], rows: list[list]) -> None:
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def show_summary(summary: Summary) -> str:
    """``mean ± sd``; the mean alone where there is no spread."""
    if summary.n == 0:
        return NONE
    return f"{summary.mean:.1f}" + (f" ± {summary.sd:.1f}" if summary.n > 1 else "")


def show_interval(interval: Interval) -> str:
    """``+mean [low, high] (n)``."""
    if interval.n == 0:
        return NONE
    bounds = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval.n > 1 else ""
    return f"{interval.mean:+.2f}{bounds} ({interval.n})"
