r"""Score a segmentor on seen and unseen classes.

examples:
  python tools/val.py -c configs/csrl_shapes.yml --model_path output/demo/model.pdparams
  python tools/val.py -c configs/csrl_voc_unseen4.yml --model_path m.pdparams \
      --aug_eval --scales 0.75 1.0 1.25 --flip_horizontal --out metrics.json
"""

import argparse
from typing import Any

from paddle_csrl import parallel
from paddle_csrl.cli import make_parser, options
from paddle_csrl.core.evaluate import evaluate


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_common(parser)
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the weights, such as output/demo/model.pdparams")
    parser.add_argument("--out", metavar="FILE", help="write the scores there as JSON")
    parser.add_argument("--picture_dir", metavar="DIR",
                        help="write prediction pictures into this folder")
    options.add_test(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    args = parse_args(argv)
    parallel.start(args.device)
    return evaluate(args.config, args.model_path, opts=options.config_opts(args),
                    overrides=options.overrides(args), out=args.out, picture_dir=args.picture_dir)
