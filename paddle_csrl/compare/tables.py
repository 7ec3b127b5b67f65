"""Tables of a comparison, for Markdown and HTML, and its CSV files."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from paddle_csrl.compare.results import Results, paper_table
from paddle_csrl.compare.statistics import Interval, summarize
from paddle_csrl.metrics import SCORES
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
    cells = results.cells[results.cells.split == split].groupby("method")
    texts = cells[list(results.scores)].agg(show_summary)
    texts.insert(0, "n", cells.status.agg(_numbers))
    none = [NONE] * len(SCORES)
    rows = [[results.label(method, split), *texts.loc[method],
             *([f"{value:.1f}" for value in paper.get(method, [])] or none if paper else [])]
            for method in results.plan.methods]
    unseen = ", ".join(results.plan.splits[split].unseen)
    return Table(split, header, rows, [f"Unseen: {unseen}.", *_pretraining_notes(results, split)])


def _pretraining_notes(results: Results, split: str) -> list[str]:
    """Say what the labels of pretraining were, unless all methods began from scratch."""
    told = results.pretraining(split)
    return [] if set(told) <= {"none"} else [
        "Labels of pretraining" + (f" of {', '.join(methods)}" if len(told) > 1 else "")
        + f": {text}." for text, methods in told.items()]


def _numbers(statuses: pd.Series) -> str:
    """Tell how many cells are finished, and how many are not."""
    counts = statuses.value_counts()
    return ", ".join([str(counts.get("finished", 0)),
                      *(f"{counts[status]} {words}" for status, words in (
                          ("failed", "failed"), ("missing", "not run")) if status in counts)])


def difference_table(results: Results, key: str = "hiou") -> Table:
    """Paired differences to the reference in points, by split and over all."""
    differences = [results.difference(method, key) for method in results.compared]
    rows = [[split] + [show_interval(item.splits.get(split, Interval())) for item in differences]
            for split in results.plan.splits]
    rows.append(["over splits"] + [show_interval(item.over_splits) for item in differences])
    rows.append(["pooled"] + [show_interval(item.pooled) for item in differences])
    return Table(
        f"{results.scores[key]} against {results.label(results.plan.reference)}, in points",
        ["split", *map(results.label, results.compared)], rows,
        ["Mean of the paired differences (same split, stage-1 seed and seed), its 95 % "
         "t-interval and, in parentheses, the number of pairs; where neither method has a random "
         "part after stage 1, all seeds are one pair. “Over splits” takes the mean of each split "
         "as one value; its number is that of the splits. “Pooled” takes all pairs as "
         "independent, which pairs of one split are not: it says how sure the mean over these "
         "splits is, not how it would be on others."])


def class_table(results: Results, split: str) -> Table:
    """Mean IoU of every class by method; unseen classes are starred."""
    methods = list(results.plan.methods)
    cells = results.class_iou[results.class_iou.split == split].groupby(["class", "method"])
    texts = cells.iou.agg(show_summary).unstack().reindex(columns=methods).fillna(NONE)
    named = results.named(split)
    rows = [[name + " †" * (name in named) + " *" * unseen, *texts.loc[name]]
            for name, unseen in results.classes(split).items()]
    labels = [results.label(method, split) for method in methods]
    return Table(f"IoU by class: {split}", ["class", *labels], rows,
                 ["* unseen"] + ["† named in pretraining"] * bool(named))


def failure_table(results: Results) -> Table:
    """The cells that failed and why."""
    rows = [[str(cell), record["error"]] for cell, record in results.records.items()
            if "error" in record]
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
    """The notes that hold for all tables."""
    paper = paper_table(results.plan.paper)
    return ["Scores are percentages, mean ± standard deviation over n cells (stage-1 seeds × "
            "seeds).", *([_CURVE_NOTE] if results.plan.calibrations else []), *results.marks(),
            *([f"Beside them: {paper['title']}."] if paper["title"] else []), *paper["notes"]]


def markdown(results: Results) -> str:
    """The whole report as Markdown."""
    return "\n".join([f"# {results.plan.name}", "", *(f"{note}\n" for note in notes(results)),
                      *(table.markdown() for table in all_tables(results))])


def write_csv(table: pd.DataFrame, path: str) -> None:
    """Write a row per cell, or per cell and class, with its scores in percent."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")


def show_summary(values: pd.Series) -> str:
    """``mean ± sd``; the mean alone where there is no spread."""
    mean, sd, n = summarize(values)
    return NONE if n == 0 else f"{mean:.1f}" + (f" ± {sd:.1f}" if n > 1 else "")


def show_interval(interval: Interval) -> str:
    """``+mean [low, high] (n)``."""
    if interval.n == 0:
        return NONE
    bounds = f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval.n > 1 else ""
    return f"{interval.mean:+.2f}{bounds} ({interval.n})"
