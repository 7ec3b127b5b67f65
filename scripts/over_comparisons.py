r"""Paired differences over the splits of several comparisons together.

Each comparison of tools/compare.py writes a results.csv; this reads several and takes the mean of
every split as one value, so that splits of different data sets count alike.

    python scripts/over_comparisons.py output/compare_shapes/results.csv \
        output/compare_custom/results.csv --reference point --methods csrl_hull point_hull
"""

import argparse
import csv
import os
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from paddle_csrl.cli import run as run_cli  # noqa: E402
from paddle_csrl.compare.statistics import PairedDifference, paired_difference  # noqa: E402
from paddle_csrl.compare.tables import show_interval  # noqa: E402
from paddle_csrl.errors import UserError  # noqa: E402


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


def read(paths: list[str], method: str, score: str) -> dict[str, dict[tuple, float]]:
    """Scores in percent of a method's finished cells, by split and by (stage-1 seed, seed).

    Raises:
        UserError: a file that is no such CSV.
    """
    scores: dict[str, dict[tuple, float]] = defaultdict(dict)
    for path in paths:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({error}); give a comparison's "
                            f"results.csv") from None
        for row in rows:
            missing = {"split", "method", "stage1_seed", "seed", "status", score} - set(row)
            if missing:
                raise UserError(f"{path} has no column {', '.join(sorted(missing))}; give a "
                                f"comparison's results.csv")
            if (row["method"], row["status"]) == (method, "finished") and row[score]:
                place = scores[f"{os.path.dirname(path)}: {row['split']}"]
                place[row["stage1_seed"], row["seed"]] = float(row[score])
    return scores


def main(argv: list[str] | None = None) -> dict[str, PairedDifference]:
    """Print the differences of every method, by split and over all splits."""
    args = parse_args(argv)
    reference = read(args.results, args.reference, args.score)
    differences = {}
    for method in args.methods:
        found = paired_difference(read(args.results, method, args.score), reference)
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
