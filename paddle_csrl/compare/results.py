"""What is recorded of a comparison's cells, in percent, arranged for tables and plots."""

import math
import os
from dataclasses import dataclass, field
from typing import Any

import yaml

import paddle_csrl
from paddle_csrl.compare.cells import read_scores
from paddle_csrl.compare.plan import Cell, Plan
from paddle_csrl.compare.statistics import PairedDifference, Summary, paired_difference, summarize

#: The scores of a table's columns, by their key in ``scores.json``.
SCORES = {"seen_miou": "seen mIoU", "unseen_miou": "unseen mIoU", "miou": "mIoU", "hiou": "hIoU"}

#: Those of the seen–unseen curve, where the comparison asks for it.
CURVE_SCORES = {"ausuc": "AUSUC", "best_hiou": "best hIoU"}

#: What makes scores no plain zero-shot scores, by its key in ``scores.json``: what stands beside
#: the method's name in every table and plot, and what that means.
MARKS = {"transductive": ("transductive", "images of unseen classes, without their labels, took "
                                          "part in training"),
         "leaks": ("LEAKS", "labels of unseen classes took part in training; no zero-shot scores")}


@dataclass(frozen=True)
class Row:
    """A cell with its status (``finished``, ``failed`` or ``missing``) and scores in percent."""

    cell: Cell
    status: str
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    class_iou: dict[str, float] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()  # (seen, unseen) mIoU, by rising calibration


@dataclass(frozen=True)
class Results:
    """All rows of a comparison."""

    plan: Plan
    rows: list[Row]

    @classmethod
    def read(cls, plan: Plan) -> "Results":
        """What the folder of ``plan`` holds now."""
        return cls(plan, [_row(cell, read_scores(plan, cell)) for cell in plan.cells()])

    @property
    def scores(self) -> dict[str, str]:
        """The names of the scores that there are, by key."""
        return {**SCORES, **CURVE_SCORES} if self.plan.calibrations else SCORES

    def of(self, split: str, method: str) -> list[Row]:
        """The rows of one split and method."""
        return [row for row in self.rows
                if (row.cell.split, row.cell.method) == (split, method)]

    def finished(self, split: str, method: str) -> list[Row]:
        return [row for row in self.of(split, method) if row.status == "finished"]

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)

    def summary(self, split: str, method: str, key: str) -> Summary:
        return summarize([row.scores[key] for row in self.finished(split, method)])

    def class_summary(self, split: str, method: str, name: str) -> Summary:
        return summarize([row.class_iou.get(name, math.nan)
                          for row in self.finished(split, method)])

    def classes(self, split: str) -> dict[str, bool]:
        """Names of the split's classes by id, and whether they are unseen."""
        row = next((row for row in self.rows
                    if row.cell.split == split and row.status == "finished"), None)
        return {name: name in row.unseen for name in row.class_iou} if row else {}

    def label(self, method: str) -> str:
        """Name of the method with its marks, such as ``zs3net (LEAKS)``."""
        marks = {mark for row in self.rows if row.cell.method == method for mark in row.marks}
        return f"{method} ({', '.join(sorted(marks))})" if marks else method

    def marks(self) -> list[str]:
        """What the marks that occur mean."""
        present = {mark for row in self.rows for mark in row.marks}
        return [f"{mark}: {meaning}." for mark, meaning in MARKS.values() if mark in present]

    def difference(self, method: str, key: str = "hiou") -> PairedDifference:
        """Paired differences of a method to the reference, in points."""
        return paired_difference(self._paired(method, key),
                                 self._paired(self.plan.reference, key))

    def _paired(self, method: str, key: str) -> dict[str, dict[tuple[int, int], float]]:
        return {split: {(row.cell.stage1_seed, row.cell.seed): row.scores[key]
                        for row in self.finished(split, method)} for split in self.plan.splits}


def _row(cell: Cell, record: dict[str, Any]) -> Row:
    if not record:
        return Row(cell, "missing")
    if "error" in record:
        return Row(cell, "failed", record["error"])
    classes, curve = record["classes"], record.get("curve", {})
    return Row(cell, "finished",
               scores={**{key: _percent(record[key]) for key in SCORES},
                       **{key: _percent(curve.get(key)) for key in CURVE_SCORES}},
               class_iou={item["name"]: _percent(item["iou"]) for item in classes},
               unseen=tuple(item["name"] for item in classes if not item["seen"]),
               marks=tuple(mark for key, (mark, _) in MARKS.items() if record.get(key)),
               curve=tuple(zip(map(_percent, curve.get("seen_miou", [])),
                               map(_percent, curve.get("unseen_miou", [])))))


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def paper_table(name: str | None) -> dict[str, Any]:
    """A table of the paper: ``title``, ``notes`` and, by split and method, its four figures."""
    if name is None:
        return {"title": "", "notes": [], "splits": {}}
    path = os.path.join(os.path.dirname(paddle_csrl.__file__), "assets", "paper_tables.yml")
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)[name]
