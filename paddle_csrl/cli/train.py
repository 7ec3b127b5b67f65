"""Train a zero-shot segmentor: all stages, then the GZS3 scores.

stages:
{stages}

examples:
  python tools/train.py -c configs/csrl_shapes.yml
  python tools/train.py -c configs/csrl_voc_unseen4.yml --device gpu --num_workers 8
  python tools/train.py -c configs/csrl_custom.yml --data DIR --opts zero_shot.unseen=tree,car
  python tools/train.py -c configs/spnet/spnet_voc_unseen4.yml --device gpu
  python tools/train.py -c configs/csrl_shapes.yml --stage generator --iters 500
"""

import argparse
from typing import Any

from paddleseg.utils import utils

from paddle_csrl import parallel
from paddle_csrl.cli import make_parser, options
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import train_run
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages import STAGES, Stage


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, (__doc__ or "").format(stages=options.stage_lines()))
    options.add_common(parser)
    options.add_training(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return the content of ``metrics.json``; empty where ``--stage`` ends before that."""
    args = parse_args(argv)
    named = [stage for stage in STAGES if stage.name == args.stage]
    if named and all(_meaningless(args, stage) for stage in named):
        _check_flags(args, named[0])  # before the config, which would not know their keys
    overrides = {**options.overrides(args), **options.stage_overrides(args, args.stage),
                 "save_dir": args.save_dir, "seed": args.seed, "do_eval": args.do_eval,
                 "use_vdl": args.use_vdl, "keep_checkpoint_max": args.keep_checkpoint_max}
    config = ZeroShotConfig(args.config, opts=options.config_opts(args), overrides=overrides)
    run = Run(config, args.resume_model, restart=args.restart, resume=args.resume)
    if args.stage:
        _check_flags(args, run.stage(args.stage))
    utils.show_env_info()
    parallel.start(args.device)
    utils.set_cv2_num_threads(config.settings.num_workers)
    return train_run(run, args.stage)


def _meaningless(args: argparse.Namespace, stage: Stage) -> list[str]:
    """Return the flags given that mean nothing to a stage."""
    return [f"--{flag}" for flag in Stage.flags
            if getattr(args, flag) is not None and flag not in stage.flags]


def _check_flags(args: argparse.Namespace, stage: Stage) -> None:
    wrong = _meaningless(args, stage)
    if wrong:
        raise UserError(f"--stage {stage.name}: leave out {', '.join(wrong)}, for "
                        f"{stage.no_flags}")
