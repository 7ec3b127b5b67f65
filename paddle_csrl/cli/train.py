"""Train a zero-shot segmentor: all stages, then the GZS3 scores."""

import argparse
from typing import Any

from paddleseg.utils import utils

from paddle_csrl import parallel
from paddle_csrl.cli import options
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import run_pipeline
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run

_EPILOG = """
stages:
  segmentor   a stock PaddleSeg segmentor learns the seen classes
  features    the frozen segmentor fills a bank with real features, once per image
  generator   learns to make features from class embeddings (CSRL's losses)
  classifier  a new last layer learns real seen and generated unseen features
  self_training  (with a section of that name) the layer once more, with its own confident
              predictions on images without labels

A config with a `projection` (SPNet, SegDeViSE) has two of them:
  segmentor   a PaddleSeg segmentor learns to project pixels onto the class embeddings
  classifier  embeddings and calibration are folded into a stock last layer

examples:
  python tools/train.py -c configs/csrl_shapes.yml
  python tools/train.py -c configs/csrl_voc_unseen4.yml --device gpu --num_workers 8
  python tools/train.py -c configs/csrl_custom.yml --opts zero_shot.unseen=tree,car
  python tools/train.py -c configs/spnet/spnet_voc_unseen4.yml --device gpu
  python tools/train.py -c configs/csrl_shapes.yml --stage generator --iters 500
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_common(parser)
    options.add_training(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command line ``argv``.

    Returns:
        The content of ``metrics.json``; empty where ``--stage`` ends before the final model.

    Raises:
        UserError: a mistake in the config, the data or the flags.
    """
    args = parse_args(argv)
    if args.stage == "self_training" and (args.iters or args.batch_size or args.learning_rate):
        raise UserError("--stage self_training trains the layer as the section `classifier` says: "
                        "leave out --iters, --batch_size and --learning_rate")
    overrides = {**options.common_overrides(args), **options.stage_overrides(args, args.stage),
                 "save_dir": args.save_dir, "seed": args.seed, "do_eval": args.do_eval,
                 "use_vdl": args.use_vdl, "keep_checkpoint_max": args.keep_checkpoint_max}
    config = ZeroShotConfig(args.config, opts=args.opts, overrides=overrides)
    run = Run(config, args.resume_model)
    if args.stage and not run.trains(args.stage) and (
            args.iters or args.batch_size or args.learning_rate):
        raise UserError(f"--stage {args.stage} trains nothing: leave out --iters, --batch_size "
                        f"and --learning_rate")
    utils.show_env_info()
    utils.set_device(args.device)
    parallel.start()
    utils.set_cv2_num_threads(config.option("num_workers", 0))
    return run_pipeline(run, args.stage)
