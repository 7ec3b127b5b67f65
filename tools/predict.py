"""See `python tools/predict.py --help`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from paddle_csrl.cli import run  # noqa: E402
from paddle_csrl.cli.predict import main  # noqa: E402

if __name__ == "__main__":
    run(main, many=True)
