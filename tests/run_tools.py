"""Runs command lines of the tools one after the other, in each process of a launch.

    python -m paddle.distributed.launch --nproc_per_node 2 tests/run_tools.py LINES.json

The file holds a list of [tool, argument, ...]. One launch serves several tests, for it takes
seconds to start.
"""

import json
import sys
import time
from types import SimpleNamespace

import paddle_csrl  # noqa: F401  before paddle
from paddle_csrl.cli import train, val

if __name__ == "__main__":
    sys.modules["paddleseg.core.train"].time = SimpleNamespace(
        time=time.time, sleep=lambda seconds: None)  # see conftest.impatient_trainer
    with open(sys.argv[1], encoding="utf-8") as file:
        for tool, *argv in json.load(file):
            {"train": train, "val": val}[tool].main(argv)
