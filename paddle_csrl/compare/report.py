"""Writing the results of a comparison: Markdown, CSV, HTML and plots."""

import os
from typing import Dict

from paddle_csrl.compare import page, tables
from paddle_csrl.compare.plan import Plan
from paddle_csrl.compare.plots import all_plots
from paddle_csrl.compare.results import Results
from paddle_csrl.utils import atomic_path


def write_report(plan: Plan) -> Dict[str, int]:
    """Write ``results.*``, ``class_iou.csv`` and the plots from all that is finished.

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
    _write_text(os.path.join(folder, "results.md"), tables.markdown(results))
    plots = all_plots(results)
    for name, text in plots.items():
        _write_text(os.path.join(folder, name), text)
    _write_text(os.path.join(folder, "results.html"), page.html(results, plots))


def _write_text(path: str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
