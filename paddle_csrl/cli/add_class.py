r"""Add classes to a finished run by their names: no pixels and no training of the segmentor.

A NAME is a class whose word is in the run's word vectors; NAME=WORD takes the vector of another
word, NAME=WORD1,WORD2 that of the first that is there. On AttributeShapes with its attributes a
name is made of colours and patterns, such as "both=red dotted striped".

The trained generator makes features of the new classes, and the last layer is trained anew on
them and on the run's feature bank. --remove and --rename alone train nothing. The new folder is a
finished run: every tool that takes --run or --model_path takes it, this one too. The old run
stays as it is.

examples:
  python tools/add_class.py --run output/voc zebra "fire hydrant" pony=horse
  python tools/add_class.py --run output/voc zebra --save_dir output/safari --do_eval
  python tools/add_class.py --run output/demo "red checkered" --remove "red checkered"
  python tools/add_class.py --run output/voc --remove sheep --rename sofa=couch
  python tools/add_class.py --run output/voc hedgehog --opts \
      zero_shot.embeddings.path=glove.6B.100d.txt
"""

import argparse
import os
import re

from paddleseg.utils import logger, utils

from paddle_csrl.add_class.change import ClassChange, add_classes
from paddle_csrl.cli import make_parser, options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="class to add, or NAME=WORD")
    options.add_run(parser)
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME",
                        help="classes to take away")
    parser.add_argument("--rename", nargs="+", default=[], metavar="OLD=NEW",
                        help="classes to give another name")
    parser.add_argument("--save_dir", metavar="DIR",
                        help="folder of the new run (default: that of the old one with _v2, _v3 "
                             "and so on, the first that is free)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="random seed (default: the run's)")
    parser.add_argument("--do_eval", action="store_true",
                        help="also score the old and the new model on the validation set")
    options.add_opts(parser)
    options.add_computing(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> ClassChange:
    """Return what was done."""
    args = parse_args(argv)
    utils.set_device(args.device)
    change = add_classes(args.run, args.names, args.save_dir or _next_folder(args.run),
                         remove=args.remove, rename=args.rename, seed=args.seed,
                         opts=options.all_opts(args), evaluate=args.do_eval)
    _report(change)
    return change


def _next_folder(run: str) -> str:
    """``run`` with the next version number that is free."""
    path = os.path.normpath(run)
    number = re.search(r"_v(\d+)\Z", path)
    stem, version = (path[:number.start()], int(number[1]) + 1) if number else (path, 2)
    while os.path.exists(f"{stem}_v{version}"):
        version += 1
    return f"{stem}_v{version}"


def _report(change: ClassChange) -> None:
    if change.before or change.iou_before:
        logger.info(f"how the seen classes moved\n{change.table()}")
    for name, share in change.taken.items():
        logger.info(f"{name}: takes {100 * share:.2f} % of the seen classes' features")
    done = [f"added {', '.join(change.added)}"] * bool(change.added)
    done += [f"removed {', '.join(change.removed)}"] * bool(change.removed)
    done += ["renamed " + ", ".join(f"{old} to {new}" for old, new in change.renamed.items())
             ] * bool(change.renamed)
    logger.info(f"{'; '.join(done)}: {len(change.classes)} classes, {len(change.unseen)} of them "
                f"unseen, in {change.seconds:.1f} s")
    logger.info(f"new run: {change.save_dir}")
