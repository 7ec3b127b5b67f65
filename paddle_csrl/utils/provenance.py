"""The circumstances of a result: command line, time, device, versions."""

import os
import platform
import shlex
import sys
import time
from typing import Any

import numpy as np
import paddle
import paddleseg

from paddle_csrl import mkl, parallel
from paddle_csrl.version import __version__


def how_made(seconds: float, num_workers: int) -> dict[str, Any]:
    """Return a finished stage's record beside its inputs, of which nothing makes it out of date.

    Args:
        seconds: how long it took.
        num_workers: processes that read images.

    Returns:
        ``command``, the command line of this process as it was typed but for quotes; ``seconds``;
        ``finished_at``, local time; ``device`` and how many ``processes``; ``num_workers``;
        ``omp_num_threads``, the variable of that name or None; ``mkl``, where the setting makes a
        difference; ``versions``.
    """
    made = {"command": shlex.join(sys.orig_argv), "seconds": round(seconds, 1),
            "finished_at": time.strftime("%Y-%m-%d %H:%M:%S"), "device": paddle.get_device(),
            "processes": parallel.world_size(), "num_workers": num_workers,
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"), "versions": versions()}
    return {**made, "mkl": mkl.setting().text} if mkl.setting().is_notable else made


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    return {"paddle_csrl": __version__, "paddlepaddle": paddle.__version__,
            "paddleseg": paddleseg.__version__, "numpy": np.__version__,
            "python": platform.python_version()}
