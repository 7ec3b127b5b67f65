"""CSRL: generalized zero-shot semantic segmentation as a PaddleSeg extension.

``Run``, ``train``, ``evaluate``, ``predict``, ``add_classes`` and ``export`` do what the tools do
(docs/api.md). Importing the package mends what the installed PaddleSeg needs mended (see
``compat``) and registers the components, so that PaddleSeg's YAML files can name them. Where
Paddle is not installed there is ``__version__`` alone; the tools then say what to install.
"""

import importlib
import importlib.util
import os
import sys
from typing import Any

from paddle_csrl import heap, limits, mkl
from paddle_csrl.version import __version__ as __version__

limits.apply()  # before cv2 is imported
heap.apply()
mkl.apply()  # before paddle is imported


def _needs_no_paddle() -> bool:
    """Return whether a tool runs that can do without what follows.

    That is the doctor, which looks at installations unfit for it, and ``--help``, at once.
    """
    program, *flags = getattr(sys, "argv", None) or [""]  # an embedded Python may have none
    tools = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "tools")
    name = os.path.splitext(os.path.basename(program))[0]
    is_tool = name.startswith("csrl-") or os.path.dirname(os.path.realpath(program)) == tools
    return is_tool and (name in ("csrl-doctor", "doctor") or "-h" in flags or "--help" in flags)


if importlib.util.find_spec("paddle") and not _needs_no_paddle():
    # compat before all that loads Paddle: it orders the imports of cv2 and paddle.
    from paddle_csrl import compat, stopping

    compat.mend_paddleseg()
    compat.mend_data_loader(stopping.put_off())

    from paddle_csrl.utils import bilinear, depthwise
    from paddle_csrl.utils.weights import read_weights

    compat.mend_convolution(depthwise.is_fast_filter, depthwise.convolve_depthwise)
    compat.mend_interpolation(bilinear.is_fast_enlargement, bilinear.enlarge)
    compat.mend_trust(read_weights)

    from paddle_csrl import datasets, losses, metrics, models, stages  # noqa: F401  to register

#: The Python API, by the module of each name; imported when it is first asked for.
_API = {"Run": "run", "train": "core.train", "evaluate": "core.evaluate",
        "predict": "core.predict", "add_classes": "add_class.change", "export": "deploy.export"}

__all__ = ["Run", "add_classes", "evaluate", "export", "predict", "train"]


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)
