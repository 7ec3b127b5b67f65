"""Compare methods over splits and seeds: train, score, tables.

The YAML file names a config, the splits (unseen classes), the seeds and the methods; see
configs/compare_shapes.yml. Stage 1 is trained once per split and stage-1 seed and shared. A
second call goes on where the first ended; finished cells are skipped unless their settings or
inputs changed. Calls with different --splits may run at the same time.

exit status: 0, or 1 if a cell failed, or 2 for a mistake in the file or the flags

examples:
  python tools/compare.py -c configs/compare_shapes.yml
  python tools/compare.py -c configs/compare_shapes.yml --splits diagonal --seeds 0 1
  python tools/compare.py -c configs/compare_shapes.yml --tables_only
  python tools/compare.py -c configs/compare_camvid.yml --data DIR
  python tools/compare.py -c configs/compare_voc.yml --device gpu --num_workers 8
"""

import argparse
from typing import Any

from paddleseg.utils import logger, utils

from paddle_csrl.cli import make_parser, options
from paddle_csrl.compare.cells import run_cells
from paddle_csrl.compare.output import write_results
from paddle_csrl.compare.plan import Plan
from paddle_csrl.utils import make_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_common(parser)
    parser.add_argument("--save_dir", metavar="DIR",
                        help="folder of all runs and results (default: as the file says)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="run these methods alone")
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="run these splits alone")
    parser.add_argument("--stage1_seeds", nargs="+", type=int, metavar="N",
                        help="run these seeds of stage 1 alone")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N",
                        help="run these seeds of stages 2 and 3 alone")
    parser.add_argument("--retry_failed", action="store_true",
                        help="run cells again that failed with the same settings")
    parser.add_argument("--tables_only", action="store_true",
                        help="run nothing, write the tables from what is finished")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return how many cells are ``finished``, ``failed`` and ``missing``, of the whole comparison.

    What goes wrong in a cell is recorded there.
    """
    args = parse_args(argv)
    plan = Plan.read(args.config, options.all_opts(args), args.save_dir)
    cells = plan.cells(args.methods, args.splits, args.stage1_seeds, args.seeds)
    plan.check()
    make_folder(plan.save_dir, "save_dir")
    if not args.tables_only:
        utils.set_device(args.device)
        utils.set_cv2_num_threads(args.num_workers or 0)
        run_cells(plan, cells, args.retry_failed, lambda: write_results(plan))
    counts = write_results(plan)
    logger.info(f"[compare] {counts['finished']} cells finished, {counts['failed']} failed, "
                f"{counts['missing']} not run: {plan.save_dir}/results.md")
    return counts
