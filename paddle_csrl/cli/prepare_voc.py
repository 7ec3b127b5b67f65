"""Prepare Pascal VOC 2012 with SBD: the 10,582 training images of the paper's splits.

downloads:
  http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar
  benchmark.tgz of
  https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/

examples:
  python tools/prepare_voc.py --voc VOCtrainval_11-May-2012.tar --sbd benchmark.tgz
  python tools/prepare_voc.py --voc VOCdevkit --sbd benchmark_RELEASE --dataset_root data/VOCdevkit

A run that was stopped goes on where it was.
"""

import argparse
from typing import Any

from paddle_csrl.cli import make_parser
from paddle_csrl.preparation import prepare_voc


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--voc", default="data/VOCtrainval_11-May-2012.tar", metavar="PATH",
                        help="VOC's archive or the folder it unpacks to (default: %(default)s)")
    parser.add_argument("--sbd", default="data/benchmark.tgz", metavar="PATH",
                        help="SBD's archive or the folder it unpacks to (default: %(default)s)")
    parser.add_argument("--dataset_root", default="data/VOCdevkit", metavar="DIR",
                        help="where VOC2012 is written, as the configs expect it "
                             "(default: %(default)s)")
    add_repeat_flags(parser)
    return parser.parse_args(argv)


def add_repeat_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that both preparing tools have."""
    parser.add_argument("--no_checksum", action="store_true",
                        help="take archives that are not the official files, byte by byte")
    parser.add_argument("--overwrite", action="store_true",
                        help="convert again the labels that are already there")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return what ``paddle_csrl.preparation.prepare_voc`` returns."""
    args = parse_args(argv)
    return prepare_voc(args.voc, args.sbd, args.dataset_root, not args.no_checksum,
                       args.overwrite)
