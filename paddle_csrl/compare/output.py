"""The files of a comparison's results: Markdown, CSV, HTML and plots."""

import os

from paddle_csrl.compare import tables
from paddle_csrl.compare.plan import Plan
from paddle_csrl.compare.plots import all_plots
from paddle_csrl.compare.results import Results
from paddle_csrl.utils import write_text
from paddle_csrl.utils.html import render


def write_results(plan: Plan) -> dict[str, int]:
    """Write ``results.*``, ``class_iou.csv`` and the plots from all that is finished.

    Two comparisons may write at a time: what has finished since is written again.

    Returns:
        Numbers of cells that are ``finished``, ``failed`` and ``missing``.
    """
    results = Results.read(plan)
    while True:
        _write(results)
        newer = Results.read(plan)
        if newer == results:
            return {status: results.count(status) for status in ("finished", "failed", "missing")}
        results = newer


def _write(results: Results) -> None:
    folder = results.plan.save_dir
    cells = results.cells.rename(columns={"seen_miou": "seen", "unseen_miou": "unseen"})
    tables.write_csv(cells, os.path.join(folder, "results.csv"))
    tables.write_csv(results.class_iou, os.path.join(folder, "class_iou.csv"))
    write_text(os.path.join(folder, "results.md"), tables.markdown(results))
    plots = all_plots(results)
    for name, text in plots.items():
        write_text(os.path.join(folder, name), text)
    found, num_splits = tables.all_tables(results), len(results.plan.splits)
    write_text(os.path.join(folder, "results.html"), render(
        "comparison.html", title=results.plan.name, notes=tables.notes(results),
        scores=found[:num_splits], plots=list(plots.values()), others=found[num_splits:]))
