"""Writing the results of a comparison: Markdown and CSV."""

import os
from typing import Dict

from paddle_csrl.compare import tables
from paddle_csrl.compare.plan import Plan
from paddle_csrl.compare.results import Results
from paddle_csrl.utils import atomic_path


def write_report(plan: Plan) -> Dict[str, int]:
    """Write ``results.*`` and ``class_iou.csv`` from all that is finished.

    Two comparisons may write at a time: what has finished since is written again.

    Returns:
        Numbers of cells that are ``finished``, ``failed`` and ``missing``.
    """
    results = Results.read(plan)
    while True:
        _write(results)
        newer = Results.read(plan)
        if newer.rows == results.rows:
            return {status: results.count(status) for status in ("finished", "failed", "missing")}
        results = newer


def _write(results: Results) -> None:
    folder = results.plan.save_dir
    tables.write_results_csv(results, os.path.join(folder, "results.csv"))
    tables.write_class_csv(results, os.path.join(folder, "class_iou.csv"))
    write_text(os.path.join(folder, "results.md"), tables.markdown(results))


def write_text(path: str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
