"""See `python tools/prepare_voc.py --help`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from paddle_csrl.cli import programs  # noqa: E402

if __name__ == "__main__":
    programs.prepare_voc()
