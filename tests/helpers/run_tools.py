"""Runs command lines of the tools one after the other, in each process of a launch.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/helpers/run_tools.py LINES.json

The file holds a list of [tool, argument, ...]. One launch serves several tests, for it takes
seconds to start. "train in blocks" has the generator take its pairs of classes in several
blocks, for which they are too few otherwise.
"""

import json
import sys
import time
from types import SimpleNamespace

from helpers.tiny_runs import undrawn
from paddle_csrl import cli
from paddle_csrl.cli import predict, train, val
from paddle_csrl.models import structural_generator

FEATURE_DIM, PAIRS_IN_A_BLOCK = 256, 4


def train_in_blocks(argv):
    """train.py with a generator of ``FEATURE_DIM`` whose blocks hold ``PAIRS_IN_A_BLOCK``."""
    size = structural_generator.PAIR_BLOCK_SIZE
    structural_generator.PAIR_BLOCK_SIZE = FEATURE_DIM * PAIRS_IN_A_BLOCK
    try:
        train.main(argv)
    finally:
        structural_generator.PAIR_BLOCK_SIZE = size


def predict_in_part(argv):
    """predict.py as a program, which has to end with status 1: it has passed images over."""
    try:
        cli.run(lambda: predict.main(argv), many=True)
    except SystemExit as end:
        assert end.code == 1, end.code
    else:
        raise AssertionError("all images were predicted")


TOOLS = {"train": train.main, "val": val.main, "predict": predict.main,
         "train in blocks": train_in_blocks, "predict in part": predict_in_part,
         "val as a program": lambda argv: cli.run(lambda: val.main(argv), many=True)}

if __name__ == "__main__":
    sys.modules["paddleseg.core.train"].time = SimpleNamespace(
        time=time.time, sleep=lambda seconds: None)  # see conftest.impatient_trainer
    with open(sys.argv[1], encoding="utf-8") as file, undrawn():
        for tool, *argv in json.load(file):
            TOOLS[tool](argv)
