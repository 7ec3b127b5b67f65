"""CSRL: generalized zero-shot semantic segmentation as a PaddleSeg extension.

Importing the package mends what the installed PaddleSeg needs mended (see ``compat``) and
registers the components, so that PaddleSeg's YAML files can name them. Where Paddle is not
installed there is ``__version__`` alone; the tools then say what to install.
"""

import importlib.util
import os
import sys

__version__ = "0.1.0"

from paddle_csrl import mkl

mkl.apply()  # before paddle is imported


def _is_doctor() -> bool:
    """Return whether the doctor runs, which looks at installations unfit for what follows."""
    program = getattr(sys, "argv", [""])[0]
    tools = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "tools")
    return (os.path.splitext(os.path.basename(program))[0] == "csrl-doctor"
            or os.path.realpath(program) == os.path.join(tools, "doctor.py"))


if importlib.util.find_spec("paddle") and not _is_doctor():
    from paddle_csrl import compat  # before the others: it orders the imports of cv2 and paddle

    #: Names of the faults of the installed PaddleSeg that are mended.
    mended = compat.mend_paddleseg()
    compat.mend_data_loader()

    from paddle_csrl import datasets, losses, metrics, models, stages

    __all__ = ["compat", "datasets", "losses", "metrics", "models", "stages"]
