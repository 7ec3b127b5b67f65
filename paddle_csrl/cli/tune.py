r"""Choose settings of stages 2 and 3 without looking at the unseen classes.

Some seen classes are held out of the feature bank in turn; generator and classification layer are
trained without them and scored on them, in rows of the bank that nothing was trained on. Stage 1
is not trained again: the backbone did see these classes, so their features are better separated
than those of truly unseen ones, and the scores are higher. What is compared is settings.
scripts/held_out.py trains stage 1 per fold, at the price of that.

A setting is a generator (--budget of them), a classifier (--classifier_draws per generator) and a
calibration; every method gets the same number. The first is the config as it stands.

examples:
  python tools/tune.py -c configs/csrl_shapes.yml --save_dir output/demo --method csrl
  python tools/tune.py -c configs/csrl_shapes.yml --save_dir output/demo --method point \
      --budget 24 --folds 4 --finalists 3 --out output/demo/point.yml

then a config that begins with the file:
  _base_: [point.yml, ../../configs/csrl_shapes.yml]
"""

import argparse
import os
from dataclasses import astuple
from typing import Any

from paddleseg.utils import logger, utils

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import make_parser, options
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import run_stages
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.run_folder import SHARED_STAGES
from paddle_csrl.tuning import Budget, Search, SeenClasses, Space
from paddle_csrl.tuning.search import table, write_settings
from paddle_csrl.utils import make_folder_of

#: The flags of a ``Budget``, in the order of its fields.
_BUDGET = {
    "budget": "generator settings to try",
    "classifier_draws": "classifier settings to try on each generator",
    "folds": "groups of seen classes to hold out in turn, each as large as the group of unseen "
             "ones",
    "seeds": "trainings per setting and fold",
    "finalists": "train the best N generators with --final_seeds more seeds and choose among them, "
                 "0 for none",
    "final_seeds": "further seeds of the finalists"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__name__, __doc__)
    options.add_common(parser)
    parser.add_argument("--save_dir", metavar="DIR",
                        help="folder of the run whose bank is used; its stages segmentor and "
                             "features run if they have not (default: output/NAME of the config)")
    parser.add_argument("--method", required=True, metavar="NAME",
                        help="the method, by its name in --space")
    parser.add_argument("--space", default="configs/_base_/tune_space.yml", metavar="FILE",
                        help="what is searched, per method (default: %(default)s)")
    for flag, default in zip(_BUDGET, astuple(Budget())):
        parser.add_argument(f"--{flag}", type=int, default=default, metavar="N",
                            help=f"{_BUDGET[flag]} (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="seed of folds and draws (default: the config's)")
    parser.add_argument("--out", metavar="FILE",
                        help="where the chosen settings go, a .yml for `_base_` (default: "
                             "SAVE_DIR/tuning/METHOD.yml)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return what ``Search.run`` does: ``chosen``, the settings, and ``ranking``, the scores."""
    args = parse_args(argv)
    config = ZeroShotConfig(args.config, opts=options.config_opts(args), overrides={
        **options.overrides(args), "save_dir": args.save_dir})
    if config.projection:
        raise UserError(f"{args.config} has a `projection`, which makes no feature bank to tune "
                        f"at; scripts/held_out.py compares its settings")
    space = Space(args.space, args.method)
    space.start(config.dic)  # looks at what does not fit, before stage 1 trains
    utils.set_device(args.device)
    folder = os.path.join(config.save_dir, "tuning")
    out = os.path.normpath(args.out or os.path.join(folder, f"{args.method}.yml"))
    if not out.endswith((".yml", ".yaml")):
        raise UserError(f"--out {args.out} must end in .yml, so that a config can name it")
    make_folder_of(out, "--out")
    seed = config.settings.seed if args.seed is None else args.seed
    if seed < 0:
        raise UserError(f"--seed {seed} must be at least 0")
    budget = Budget(*(getattr(args, flag) for flag in _BUDGET))
    run = Run(config)
    with run.held():
        search = Search(_seen_classes(run), space, config.dic, budget, seed,
                        os.path.join(folder, f"{args.method}.json"))
        summary = search.run()
        write_settings(out, summary, os.path.basename(args.config))
    logger.info(f"[tune] {args.method}, in percent:\n{table(summary)}")
    logger.info(f"[tune] all trials: {search.record}")
    logger.info(f"[tune] chosen settings: {out}; begin a config with `_base_: "
                f"[{os.path.basename(out)}, {os.path.basename(args.config)}]`")
    return summary


def _seen_classes(run: Run) -> SeenClasses:
    """The seen classes of the run: all that goes on to the search.

    The validation set is not read, unless stage 1 has yet to run and chooses its checkpoint.
    """
    if not all(map(run.is_current, SHARED_STAGES)):
        run_stages(run, SHARED_STAGES)
    builder, classes = run.builder, run.classes
    _, layer = builder.classification_layer(builder.new_segmentor(pretrained=False))
    return SeenClasses.from_bank(
        FeatureBank.load(run.output("features")), builder.embeddings, classes.names,
        classes.unseen_ids, run.config.settings.zero_shot.features.normalize,
        has_bias=layer.bias is not None)
