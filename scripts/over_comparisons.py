r"""Paired differences over the splits of several comparisons together.

Each comparison of tools/compare.py writes a results.csv; this reads several and takes the mean of
every split as one value, so that splits of different data sets count alike.

    python scripts/over_comparisons.py output/compare_shapes/results.csv \
        output/compare_camvid/results.csv --reference point --methods csrl_hull point_hull

Without --methods it prints, as Markdown, the means of every comparison and of all splits, and how
far hIoU stays below the best on the seen-unseen curve: on average and at worst.
"""

import argparse
import os
import sys

import pandas as pd

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from paddle_csrl.cli import run as run_cli
from paddle_csrl.compare.statistics import PAIR, PairedDifference, paired_difference
from paddle_csrl.compare.tables import show_interval
from paddle_csrl.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="results.csv",
                        help="what comparisons wrote")
    parser.add_argument("--reference", default="point", metavar="NAME",
                        help="the method to compare with")
    parser.add_argument("--methods", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--score", default="hiou", metavar="COLUMN",
                        help="such as hiou, unseen, seen or ausuc")
    return parser.parse_args(argv)


def read(paths: list[str], *scores: str) -> pd.DataFrame:
    """The finished cells of all files: ``method``, ``PAIR``, ``file`` and ``scores``, in percent.

    Raises:
        UserError: a file that is no such CSV, or files without a finished cell.
    """
    tables = []
    for path in paths:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); give a comparison's "
                            f"results.csv") from None
        missing = {"method", *PAIR, "status", *scores} - set(table)
        if missing:
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}; give a "
                            f"comparison's results.csv")
        table = table[table["status"] == "finished"].copy()
        table["file"] = os.path.dirname(path)
        table["split"] = f"{os.path.dirname(path)}: " + table["split"]
        for score in scores:
            table[score] = pd.to_numeric(table[score], errors="coerce")
        tables.append(table)
    cells = pd.concat(tables).drop_duplicates(["method", *PAIR])
    if cells.empty:
        raise UserError(f"no cell is finished in {', '.join(paths)}; run its comparison first")
    return cells


def means(paths: list[str]) -> str:
    """A table of all methods: scores of each file and of all, and what the calibration costs.

    A file's score is the mean over its splits of the mean over a split's cells, for the splits
    where the method has been run.
    """
    cells = read(paths, "seen", "unseen", "hiou", "best_hiou", "ausuc")
    files, methods = cells["file"].unique(), cells["method"].unique()
    by_split = cells.groupby(["file", "split", "method"], sort=False)[
        ["seen", "unseen", "hiou", "best_hiou", "ausuc"]].mean()
    by_split["below"] = by_split["best_hiou"] - by_split["hiou"]
    numbers = by_split["hiou"].unstack().count()
    rows = [["method", "splits", *(f"{os.path.basename(file)}: seen / unseen / hIoU / best"
                                   for file in files),
             "all: hIoU / best / AUSUC", "below the best: mean / most"]]
    rows.append(["---"] * len(rows[0]))
    for method in methods:
        own = by_split.xs(method, level="method")
        texts = [_shares(own[own.index.get_level_values("file") == file],
                         ["seen", "unseen", "hiou", "best_hiou"]) for file in files]
        rows.append([method, str(numbers[method]), *texts,
                     _shares(own, ["hiou", "best_hiou", "ausuc"]),
                     f"{own['below'].mean():.1f} / {own['below'].max():.1f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _shares(table: pd.DataFrame, columns: list[str]) -> str:
    return " / ".join(f"{table[column].mean():.1f}" for column in columns) if len(table) else "–"


def main(argv: list[str] | None = None) -> dict[str, PairedDifference]:
    """Print the differences of every method, by split and over all splits."""
    args = parse_args(argv)
    if not args.methods:
        print(means(args.results))
        return {}
    scores = read(args.results, args.score).set_index(["method", *PAIR])[args.score]
    if scores.isna().all():
        raise UserError(f"--score {args.score}: no finished cell has a number there in "
                        f"{', '.join(args.results)}; give hiou, unseen, seen, miou or, where the "
                        f"comparison has `calibrations`, best_hiou or ausuc")
    known = scores.index.unique("method")
    for flag, name in [("--reference", args.reference),
                       *(("--methods", name) for name in args.methods)]:
        if name not in known:
            raise UserError(f"{flag} {name}: there is no finished cell of it in "
                            f"{', '.join(args.results)}; give one of {', '.join(known)}")
    differences = {}
    for method in args.methods:
        found = paired_difference(*(scores[scores.index.get_level_values("method") == name]
                                    .droplevel("method") for name in (method, args.reference)))
        if not found.splits:
            raise UserError(f"no finished cell of {method} has one of {args.reference} beside it "
                            f"in {', '.join(args.results)}")
        differences[method] = found
        print(f"{method} - {args.reference}, {args.score} in points")
        for split, interval in found.splits.items():
            print(f"  {split:50s} {show_interval(interval)}")
        print(f"  {'over splits':50s} {show_interval(found.over_splits)}")
        print(f"  {'pooled':50s} {show_interval(found.pooled)}")
    return differences


if __name__ == "__main__":
    run_cli(main)
