r"""Paired differences over the splits of several comparisons together.

Each comparison of tools/compare.py writes a results.csv; this reads several and takes the mean of
every split as one value, so that splits of different data sets count alike.

    python scripts/over_comparisons.py output/compare_shapes/results.csv \
        output/compare_camvid/results.csv --reference point --methods csrl_hull point_hull
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
    parser.add_argument("--methods", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--score", default="hiou", metavar="COLUMN",
                        help="such as hiou, unseen, seen or ausuc")
    return parser.parse_args(argv)


def read(paths: list[str], score: str) -> pd.DataFrame:
    """The finished cells of all files: ``method``, ``PAIR`` and ``score``, in percent.

    Raises:
        UserError: a file that is no such CSV.
    """
    tables = []
    for path in paths:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); give a comparison's "
                            f"results.csv") from None
        missing = {"method", *PAIR, "status", score} - set(table)
        if missing:
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}; give a "
                            f"comparison's results.csv")
        table["split"] = f"{os.path.dirname(path)}: " + table["split"]
        table[score] = pd.to_numeric(table[score], errors="coerce")
        tables.append(table[table["status"] == "finished"])
    return pd.concat(tables).drop_duplicates(["method", *PAIR])


def main(argv: list[str] | None = None) -> dict[str, PairedDifference]:
    """Print the differences of every method, by split and over all splits."""
    args = parse_args(argv)
    scores = read(args.results, args.score).set_index(["method", *PAIR])[args.score]
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
