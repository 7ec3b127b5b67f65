"""The stages of a run, one file each, in the order in which they run."""

from paddle_csrl.stages import (  # noqa: I001  the order is that of the stages
    segmentor,
    features,
    generator,
    classifier,
    closed_form,
    projection,
    self_training,
)
from paddle_csrl.stages.base import STAGES, Stage, StageContext, register, stage_names, stages_of
