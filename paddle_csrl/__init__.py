"""CSRL: generalized zero-shot semantic segmentation as a PaddleSeg extension.

Importing the package mends what the installed PaddleSeg needs mended (see ``compat``) and
registers the components, so that PaddleSeg's YAML files can name them.
"""

__version__ = "0.1.0"

from paddle_csrl import mkl

mkl.apply()  # before paddle is imported

from paddle_csrl import compat  # noqa: E402  before the others: it orders cv2 and paddle

compat.mend_paddleseg()
compat.mend_data_loader()

from paddle_csrl import datasets, losses, metrics, models  # noqa: E402

__all__ = ["compat", "datasets", "losses", "metrics", "models"]
