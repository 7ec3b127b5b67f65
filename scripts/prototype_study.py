r"""Where classes that a backbone never saw lie among those it did; unseen classes take no part.

For each fold some seen classes are declared unseen on top of the true ones and stage 1 is trained
without them, as in scripts/held_out.py, whose folders are shared. Then the real features of the
held-out classes are looked at: how far their mean lies from the convex hull of the seen
prototypes, which seen classes it is a mixture of, and whether its relations to the seen classes
are those of the class embeddings.

    python scripts/prototype_study.py -c configs/csrl_shapes.yml --out output/held_out \
        --fold "red striped,green dotted,yellow dotted,purple plain"
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import numpy as np

import held_out
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import run as run_cli
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import run_stages
from paddle_csrl.models.convex_hull import project_to_hull
from paddle_csrl.run import Run
from paddle_csrl.run_folder import SHARED_STAGES
from paddle_csrl.stages.features import fill
from paddle_csrl.utils import write_json

SAMPLES_PER_CLASS = 4096


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="the config to look at")
    parser.add_argument("--fold", action="append", required=True, metavar="NAMES",
                        help="seen classes to hold out, by name, with commas; may be repeated")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], help="overrides for all")
    parser.add_argument("--out", default="output/held_out", help="folder of all runs and results")
    return parser.parse_args(argv)


def held_out_bank(args: argparse.Namespace, run: Run) -> FeatureBank:
    """Real features of the seen and the held-out classes, none of a true unseen one."""
    dataset = ZeroShotBuilder(ZeroShotConfig(args.config, opts=args.opts)).feature_dataset
    extractor = run.builder.feature_extractor(run.context.segmentor)
    sampler = BottomKSampler(dataset.num_classes, SAMPLES_PER_CLASS, dataset.ignore_index)
    fill(sampler, extractor, dataset, run.seed("features"))
    return sampler.bank()


def cosines(vectors: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[U, S] cosines seen from the centre of ``seen``."""
    centre = seen.mean(0)
    vectors, seen = vectors - centre, seen - centre
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(seen, axis=1)
    return vectors @ seen.T / np.maximum(lengths, 1e-12)


def study(args: argparse.Namespace, run: Run) -> list:
    """One row for each held-out class."""
    names, embeddings = run.classes.names, run.context.embeddings
    bank = FeatureBank.load(run.output("features"))
    scale, seen = bank.scale(), bank.present_ids
    everything = held_out_bank(args, run).scaled(scale)
    held = np.setdiff1d(everything.present_ids, seen)
    prototypes, real = bank.scaled(scale).prototypes(seen), everything.prototypes(held)
    nearest, weights = project_to_hull(real, prototypes)
    outside = (np.linalg.norm(real - nearest, axis=1)
               / np.linalg.norm(real - prototypes.mean(0), axis=1))
    semantic = cosines(embeddings[held], embeddings[seen])
    visual = cosines(real, prototypes)
    return [{"class": names[class_id], "distance_to_hull": float(distance),
             "mixture": {names[seen[s]]: float(row[s])
                         for s in np.argsort(-row)[:3] if row[s] > 0},
             "semantic_correlation": float(np.corrcoef(a, b)[0, 1])}
            for class_id, distance, row, a, b in zip(held, outside, weights, semantic, visual)]


def main(argv=None) -> list:
    """Study every fold; print and write one row for each held-out class."""
    args = parse_args(argv)
    rows = []
    for number, fold in enumerate(args.fold):
        base = os.path.join(args.out, f"fold{number}")
        run = Run(held_out.held_out_config(args, fold, overrides={"save_dir": base}))
        run_stages(run, SHARED_STAGES)
        rows += study(args, run)
    write_json(os.path.join(args.out, "prototypes.json"), rows)
    for row in rows:
        mixture = ", ".join(f"{name} {share:.2f}" for name, share in row["mixture"].items())
        print(f"{row['class']:20s} distance to hull {row['distance_to_hull']:.2f}   semantic "
              f"correlation {row['semantic_correlation']:5.2f}   mixture: {mixture}")
    return rows


if __name__ == "__main__":
    run_cli(main)
