"""Stage 3 without training: the layer follows from means and a covariance of features."""

from typing import Any

import numpy as np
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank, Moments
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.models.closed_form import Discriminant
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.stages.base import Stage, StageContext, register, section_inputs
from paddle_csrl.stages.classifier import (
    CLOSED_FORM,
    ClassifierSection,
    LastLayer,
    inputs_of_layer,
    keep_layer,
)
from paddle_csrl.stages.generator import is_trained, trained_generator, unseen_prototypes

#: Keys of the section that do something.
_KEYS = {"mode", "shrinkage", "num_generated", "calibration", "seen_cost"}
#: How far, in logit units, a class without any feature stays below another.
_NEVER = 100.0


@register
class ClosedFormStage(Stage):
    """Computes the layer, in every process alike."""

    name, result = "classifier", "layer"
    help = "with `mode: closed_form`: the layer is computed from means and covariance"
    needs, makes_model = ("segmentor", "features", "generator"), True
    flags, no_flags = (), "the layer is computed, not trained"
    resumable = False

    def takes_part(self, config: ZeroShotConfig) -> bool:
        return super().takes_part(config) and config.section(self.name).mode == CLOSED_FORM

    def is_random(self, config: ZeroShotConfig) -> bool:
        return is_trained(config.section("generator"))

    def inputs(self, context: StageContext) -> dict[str, Any]:
        idle = set() if self.is_random(context.config) else {"num_generated"}
        section = section_inputs(context.config.section(self.name))
        return {"classifier": {key: section[key] for key in section if key in _KEYS - idle},
                **inputs_of_layer(context)}

    def check(self, context: StageContext) -> None:
        builder = context.builder
        with paddle.utils.unique_name.guard():
            _, layer = builder.classification_layer(builder.new_segmentor(pretrained=False))
        require_bias(layer.bias is not None)

    def run(self, context: StageContext) -> None:
        section, last = context.config.section(self.name), LastLayer(context)
        prototypes = unseen_prototypes(trained_generator(context), section.num_generated,
                                       context.seed(self.name))
        context.files.begin(self.name)
        with paddle.utils.unique_name.guard():
            keep_layer(context, self.name, last, closed_form_layer(
                section, context.bank, prototypes, context.classes.unseen_ids, context.moments))


def require_bias(has_bias: bool) -> None:
    """Refuse a segmentor whose last layer has no bias for half of what is computed."""
    if not has_bias:
        raise UserError("`classifier.mode: closed_form` computes weights and biases, and the last "
                        "layer of this segmentor has no bias; take `mode: clean`, or another "
                        "segmentor")


def closed_form_layer(section: ClassifierSection, bank: FeatureBank, prototypes: np.ndarray,
                      unseen_ids: np.ndarray, moments: Moments | None = None) -> PixelClassifier:
    """Compute the layer of a section ``classifier`` in closed form.

    Args:
        bank: real features by class, C classes in all.
        prototypes: float64 [U, D], mean features of the unseen classes.
        unseen_ids: int64 [U].
        moments: of the bank, where they are known.

    Raises:
        UserError: the covariance of the bank cannot be solved with.
    """
    means, covariance = moments or bank.moments()
    ids = np.concatenate([bank.present_ids, unseen_ids])
    rows, offsets = Discriminant.of(covariance, section.shrinkage).layer(
        np.concatenate([means, prototypes]))
    # A class of which nothing is known copies one that stays ahead of it everywhere.
    weight = np.repeat(rows[:1], len(bank.counts), axis=0)
    bias = np.full(len(bank.counts), offsets[0] - _NEVER)
    weight[ids], bias[ids] = rows, offsets
    classifier = PixelClassifier(bank.feature_dim, len(bank.counts))
    classifier.conv.weight.set_value(weight[:, :, None, None].astype(np.float32))
    classifier.conv.bias.set_value(bias.astype(np.float32))
    return classifier
