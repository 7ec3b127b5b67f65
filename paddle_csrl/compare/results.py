"""The records of a comparison's cells, in percent, as data frames for tables and plots."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import yaml

from paddle_csrl.compare import statistics
from paddle_csrl.compare.cells import read_scores
from paddle_csrl.compare.curve import points
from paddle_csrl.compare.plan import Cell, Plan
from paddle_csrl.metrics import SCORES
from paddle_csrl.pretraining import UNKNOWN, Pretraining, pretraining_of, recorded, summary
from paddle_csrl.utils.io import asset

#: Further scores, of the seen–unseen curve, where the comparison asks for it.
CURVE_SCORES = {"ausuc": "AUSUC", "best_hiou": "best hIoU"}

#: What makes scores no plain zero-shot scores, by its key in ``scores.json``: what stands beside
#: the method's name in every table and plot, and what that means.
MARKS = {"transductive": ("transductive", "images of unseen classes, without their labels, took "
                                          "part in training"),
         "leaks": ("LEAKS", "labels of unseen classes took part in training; no zero-shot scores"),
         "named": ("named", "unseen classes were among the labels of the pretraining; which ones "
                            "stands below the tables"),
         "unknown": ("unknown", "nothing tells which labels the pretrained weights saw")}
_OF_PRETRAINING = {"named", "unknown"}
_NOTHING = Pretraining().describe()


@dataclass(frozen=True)
class Results:
    """The records of a comparison's cells, by ``cells.read_scores``."""

    plan: Plan
    records: dict[Cell, dict[str, Any]]

    @classmethod
    def read(cls, plan: Plan) -> "Results":
        """Read the folder of ``plan`` as it is now."""
        records = {cell: read_scores(plan, cell) for cell in plan.cells()}
        wanted = points(plan.calibrations)
        for record in records.values():
            if not wanted.items() <= record.get("curve", {}).items():
                record.pop("curve", None)  # of other calibrations, no match for the other cells'
        _complete(plan, records)
        return cls(plan, records)

    @property
    def scores(self) -> dict[str, str]:
        """The names of the scores that there are, by key."""
        return {**SCORES, **CURVE_SCORES} if self.plan.calibrations else SCORES

    @property
    def compared(self) -> list[str]:
        """All methods but the reference."""
        return [method for method in self.plan.methods if method != self.plan.reference]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """A row per cell: ``PAIR`` and ``method``, the scores by key, ``status``, ``marks``, ...

        The status is ``finished``, ``failed`` (then ``reason`` says why) or ``missing``. Scores
        that there are none of are nan.
        """
        return pd.DataFrame([
            {**_place(cell),
             **{key: _percent({**record.get("curve", {}), **record}.get(key))
                for key in self.scores},
             "status": ("failed" if "error" in record else "finished") if record else "missing",
             "marks": _marks(record), "pretraining": _pretraining(record),
             "reason": record.get("error", "")}
            for cell, record in self.records.items()])

    @cached_property
    def class_iou(self) -> pd.DataFrame:
        """A row per finished cell and class: ``kind`` is ``seen`` or ``unseen``.

        ``named`` has the labels of the pretraining that named it.
        """
        rows = [{**_place(cell), "class": item["name"],
                 "kind": "seen" if item["seen"] else "unseen", "iou": _percent(item["iou"]),
                 "marks": _marks(record),
                 "named": (recorded(record) or _NOTHING)["named"].get(item["name"], "")}
                for cell, record in self.records.items() for item in record.get("classes", [])]
        return pd.DataFrame(rows, columns=[*statistics.PAIR, "method", "class", "kind", "iou",
                                           "marks", "named"])

    def finished(self, split: str, method: str) -> pd.DataFrame:
        """The rows of ``cells`` that are finished, of one split and method."""
        cells = self.cells
        return cells[(cells.split == split) & (cells.method == method)
                     & (cells.status == "finished")]

    def count(self, status: str) -> int:
        return int((self.cells.status == status).sum())

    def summary(self, split: str, method: str, key: str) -> statistics.Summary:
        return statistics.summarize(self.finished(split, method)[key])

    def curve(self, split: str, method: str) -> np.ndarray | None:
        """float64 [K, 2]: (seen, unseen) mIoU by rising calibration, means over the cells."""
        curves = [(record["curve"]["seen_miou"], record["curve"]["unseen_miou"])
                  for cell, record in self.records.items()
                  if (cell.split, cell.method) == (split, method) and "curve" in record]
        return 100 * np.array(curves, np.float64).mean(0).T if curves else None

    def classes(self, split: str) -> dict[str, bool]:
        """Names of the split's classes by id, and whether they are unseen."""
        found = (record["classes"] for cell, record in self.records.items()
                 if cell.split == split and "classes" in record)
        return {item["name"]: not item["seen"] for item in next(found, [])}

    def label(self, method: str, split: str | None = None) -> str:
        """Name of the method with its marks, such as ``zs3net (LEAKS)``.

        Of a ``split`` those of its own pretraining, which names other classes elsewhere.
        """
        cells = self.cells[self.cells.method == method]
        marks = _split_up(cells.marks)
        if split is not None:
            marks -= _OF_PRETRAINING - _split_up(cells.marks[cells.split == split])
        return f"{method} ({', '.join(sorted(marks))})" if marks else method

    def pretraining(self, split: str) -> dict[str, list[str]]:
        """Return the labels of pretraining, in words, and the methods that began with them."""
        cells = self.cells[(self.cells.split == split) & (self.cells.status == "finished")]
        return {told: [method for method in self.plan.methods if method in set(found)]
                for told, found in cells.groupby("pretraining", sort=False).method}

    def named(self, split: str) -> set[str]:
        """The unseen classes of a split that were named in the pretraining of a method."""
        return set(self.class_iou["class"][(self.class_iou.split == split)
                                           & (self.class_iou.named != "")])

    def marks(self) -> list[str]:
        """The meaning of the marks that occur."""
        present = _split_up(self.cells.marks)
        return [f"{mark}: {meaning}." for mark, meaning in MARKS.values() if mark in present]

    def difference(self, method: str, key: str = "hiou") -> statistics.PairedDifference:
        """Paired differences of a method to the reference, in points."""
        own, reference = (self.cells[self.cells.method == name].set_index(statistics.PAIR)[key]
                          for name in (method, self.plan.reference))
        return statistics.paired_difference(own, reference)


def _place(cell: Cell) -> dict[str, Any]:
    return {**{name: getattr(cell, name) for name in statistics.PAIR}, "method": cell.method}


def _marks(record: dict[str, Any]) -> str:
    told = recorded(record) or _NOTHING
    present = {**record, "named": told["named"], "unknown": UNKNOWN in told["labels"]}
    return " ".join(mark for key, (mark, _) in MARKS.items() if present.get(key))


def _split_up(marks: pd.Series) -> set[str]:
    return set(" ".join(marks).split())


def _pretraining(record: dict[str, Any]) -> str:
    told = recorded(record)
    return summary(told) if told else ""


def _complete(plan: Plan, records: dict[Cell, dict[str, Any]]) -> None:
    """Say in records of earlier versions what the pretraining was; seeds have no part in it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for cell, record in records.items():
        if "classes" in record and recorded(record) is None:
            if (cell.split, cell.method) not in found:
                unseen = [item["name"] for item in record["classes"] if not item["seen"]]
                found[cell.split, cell.method] = pretraining_of(plan.cell_config(cell), unseen
                                                                ).describe()
            record["pretraining"] = found[cell.split, cell.method]


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def paper_table(name: str | None) -> dict[str, Any]:
    """A table of the paper: ``title``, ``notes`` and, by split and method, its four figures."""
    if name is None:
        return {"title": "", "notes": [], "splits": {}}
    with open(asset("paper_tables.yml"), encoding="utf-8") as file:
        return yaml.safe_load(file)[name]
