r"""Compare settings of stages 2 and 3 on seen classes held out; unseen classes take no part.

For each fold some seen classes are declared unseen on top of the true ones, stage 1 is trained
without them, and every variant is scored on the fold's classes. The config's policy keeps the true
unseen classes out of training and of scoring: their images (drop) or their labels (ignore).

    python scripts/held_out.py -c configs/csrl_shapes.yml --fold "red striped,green dotted" \
        --fold "blue striped,purple dotted" --variant point=generator.loss.coef=[1,0,0] \
        --variant prototypes=generator.relation=prototypes --seeds 0 1 2 --out output/held_out
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import numpy as np

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import run as run_cli
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import run_stages
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate_as_configured
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.run import Run
from paddle_csrl.run_folder import SHARED_STAGES
from paddle_csrl.tuning.bank_trial import SCORES
from paddle_csrl.utils import write_json


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="the config to choose settings for")
    parser.add_argument("--fold", action="append", required=True, metavar="NAMES",
                        help="seen classes to hold out, by name, with commas; may be repeated")
    parser.add_argument("--variant", action="append", required=True, metavar="NAME=OPT;OPT",
                        help="a name and config overrides of stages 2 and 3, with semicolons")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of stages 2 and 3")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], help="overrides for all")
    parser.add_argument("--out", default="output/held_out", help="folder of all runs and results")
    return parser.parse_args(argv)


def held_out_config(args: argparse.Namespace, fold: str, opts=(), overrides=None) -> ZeroShotConfig:
    """The config with ``fold`` unseen as well; its own unseen classes stay so."""
    config = ZeroShotConfig(args.config, opts=args.opts)
    weights = config.settings.segmentor_weights
    if weights:
        raise UserError(f"`segmentor_weights: {weights}` may know the classes "
                        f"held out; set it to null, so that stage 1 is trained without them")
    own = config.settings.zero_shot.unseen
    own = own.split(",") if isinstance(own, str) else list(own)
    return ZeroShotConfig(args.config, opts=[*args.opts, *opts], overrides={
        "zero_shot.unseen": own + fold.split(","), "use_vdl": False, "do_eval": False,
        **(overrides or {})})


def fold_scores(args: argparse.Namespace, run: Run, fold: str) -> dict:
    """Scores on the seen and the held-out classes over images without true unseen ones."""
    dataset = ZeroShotBuilder(ZeroShotConfig(args.config, opts=args.opts)).selection_dataset
    evaluator = ZeroShotEvaluator(dataset.num_classes, fold.split(","),
                                  ignore_index=dataset.ignore_index,
                                  class_names=run.classes.names)
    evaluate_as_configured(run.builder, run.builder.trained_segmentor(run.final_model), evaluator,
                           dataset)
    iou = evaluator.compute()["class_iou"]
    held_out = evaluator.unseen
    seen = np.isin(np.arange(len(iou)), run.classes.seen_ids)
    s, u = iou[seen].mean(), iou[held_out].mean()
    return {"seen_miou": s, "unseen_miou": u, "hiou": 2 * s * u / (s + u) if s + u else 0.0}


def main(argv=None) -> dict:
    """Run every fold, variant and seed; print and write mean and spread of the scores."""
    args = parse_args(argv)
    variants = {name: opts.split(";") if opts else []
                for name, opts in (variant.split("=", 1) for variant in args.variant)}
    rows = []
    for number, fold in enumerate(args.fold):
        base = os.path.join(args.out, f"fold{number}")
        shared = Run(held_out_config(args, fold, overrides={"save_dir": base}))
        run_stages(shared, [stage for stage in shared.stages if stage in SHARED_STAGES])
        for name, opts in variants.items():
            for seed in args.seeds:
                config = held_out_config(args, fold, opts, {
                    "save_dir": base, "generator.seed": seed, "classifier.seed": seed})
                run = Run(config)
                run_stages(run, [stage for stage in run.stages if stage not in SHARED_STAGES])
                rows.append({"variant": name, "fold": fold, "seed": seed,
                             **fold_scores(args, run, fold)})
                write_json(os.path.join(args.out, "held_out.json"), rows)
    scores = np.array([[row[key] for key in SCORES] for row in rows]).reshape(
        len(args.fold), len(variants), len(args.seeds), len(SCORES))
    summary = {}
    for index, name in enumerate(variants):
        # Folds differ far more than seeds: the spread is over the means of the folds.
        folds = scores[:, index].mean(1)
        summary.update({(name, key): float(mean) for key, mean in zip(SCORES, folds.mean(0))})
        print(f"{name:24s}", *(f" {key} {100 * mean:5.1f} ± {100 * spread:4.1f}" for
                               key, mean, spread in zip(SCORES, folds.mean(0), folds.std(0))))
    return summary


if __name__ == "__main__":
    run_cli(main)
