"""Score a segmentor on seen and unseen classes."""

import argparse
from typing import Any

from paddleseg.utils import utils

from paddle_csrl import parallel
from paddle_csrl.cli import options
from paddle_csrl.core.evaluate import evaluate

_EPILOG = """
examples:
  python tools/val.py -c configs/csrl_shapes.yml --model_path output/demo/model.pdparams
  python tools/val.py -c configs/csrl_voc_unseen4.yml --model_path m.pdparams \\
      --aug_eval --scales 0.75 1.0 1.25 --flip_horizontal --out metrics.json
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="val.py", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_common(parser)
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the weights, such as output/demo/model.pdparams")
    parser.add_argument("--out", metavar="FILE", help="write the scores there as JSON")
    parser.add_argument("--picture_dir", metavar="DIR",
                        help="write prediction pictures into this folder")
    options.add_test(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command line ``argv`` and return the content of ``metrics.json``.

    Raises:
        UserError: a mistake in the config, the data, the weights or the flags.
    """
    args = parse_args(argv)
    overrides = {**options.common_overrides(args), **options.test_overrides(args)}
    utils.set_device(args.device)
    parallel.start()
    return evaluate(args.config, args.model_path, opts=args.opts, overrides=overrides,
                    out=args.out, picture_dir=args.picture_dir)
