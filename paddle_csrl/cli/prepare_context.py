"""Prepare Pascal-Context: 59 classes and the background, 4,998 + 5,105 images of VOC 2010.

downloads:
  http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar
  and the labels, either
  trainval.tar.gz and labels.txt of https://cs.stanford.edu/~roozbeh/pascal-context/
  or https://codalabuser.blob.core.windows.net/public/trainval_merged.json

examples:
  python tools/prepare_context.py --voc VOCtrainval_03-May-2010.tar --labels trainval.tar.gz
  python tools/prepare_context.py --voc VOCdevkit/VOC2010 --labels trainval_merged.json

A run that was stopped goes on where it was.
"""

import argparse
from typing import Any

from paddle_csrl.cli import make_parser
from paddle_csrl.cli.prepare_voc import add_repeat_flags
from paddle_csrl.preparation import prepare_context


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("--voc", default="data/VOCtrainval_03-May-2010.tar", metavar="PATH",
                        help="VOC 2010's archive or the folder it unpacks to "
                             "(default: %(default)s)")
    parser.add_argument("--labels", default="data/trainval.tar.gz", metavar="PATH",
                        help="archive or folder of the 459-class .mat files, or "
                             "trainval_merged.json (default: %(default)s)")
    parser.add_argument("--label_names", metavar="FILE",
                        help="labels.txt with the 459 names, for .mat files (default: the one in "
                             "or beside --labels)")
    for split in ("train", "val"):
        parser.add_argument(f"--{split}_list", metavar="FILE",
                            help=f"names of the {split} images, one a line (default: of the JSON, "
                                 f"else VOC 2010's ImageSets/Main/{split}.txt)")
    parser.add_argument("--dataset_root", default="data/VOC2010", metavar="DIR",
                        help="where it is written, as the configs expect it "
                             "(default: %(default)s)")
    add_repeat_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return what ``paddle_csrl.preparation.prepare_context`` returns."""
    args = parse_args(argv)
    return prepare_context(args.voc, args.labels, args.dataset_root, args.label_names,
                           {"train": args.train_list, "val": args.val_list},
                           not args.no_checksum, args.overwrite)
