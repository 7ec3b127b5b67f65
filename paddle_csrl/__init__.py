"""CSRL: generalized zero-shot semantic segmentation as a PaddleSeg extension.

Importing the package mends what the installed PaddleSeg needs mended (see ``compat``) and
registers the components, so that PaddleSeg's YAML files can name them.
"""

__version__ = "0.1.0"
