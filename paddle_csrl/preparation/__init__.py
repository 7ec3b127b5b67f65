"""Bringing official downloads into the layout that PaddleSeg's data sets read."""

from paddle_csrl.preparation.context import prepare_context
from paddle_csrl.preparation.voc import prepare_voc
