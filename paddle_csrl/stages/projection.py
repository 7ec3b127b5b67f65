"""The last stage of SPNet and SegDeViSE: the projection becomes a stock classification layer."""

from typing import Any, Literal

import paddle
from paddleseg.utils import logger

from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.schema import AUTO, Section, Settings, key, section
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import read_layer
from paddle_csrl.stages.base import Stage, StageContext, embeddings_input, register
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.classifier import record_calibration
from paddle_csrl.stages.seen_cost import settled
from paddle_csrl.utils.weights import save_state


@section("projection")
class ProjectionSection(Section):
    """In place of stages 2 and 3: SPNet and SegDeViSE."""

    replaces = ("generator", "classifier")

    similarity: Literal["dot", "cosine"] = key(
        ..., "`dot` (SPNet): logits are products of projection and embeddings; train them with "
        "`CrossEntropyLoss` or any loss on logits. `cosine` (SegDeViSE): training gets cosines, "
        "for `CosineRegressionLoss`, which is 1 − cos; embeddings are scaled to length 1")

    def check(self, settings: Settings) -> None:
        """Refuse what a projection cannot have."""
        if settings.segmentor_weights:
            raise UserError(f"`segmentor_weights` stands for a trained stage 1, but a `projection` "
                            f"has to be trained; to start from these weights set "
                            f"`model.pretrained: {settings.segmentor_weights}`")
        if settings.section("self_training"):
            raise UserError("`self_training` trains the layer of stage 3, which a `projection` "
                            "has none of; leave one of the two out")
        classifier = settings.section("classifier")
        if classifier and classifier.mode != "clean":
            raise UserError(f"`classifier.mode: {classifier.mode}` works on generated features, "
                            f"of which a `projection` has none; leave one of the two out")


@register
class FoldingStage(Stage):
    """Folds embeddings and calibration into the last layer and saves the final model."""

    name, result = "classifier", "layer"
    help = "with a `projection`: embeddings and calibration are folded into a stock last layer"
    needs, makes_model = ("segmentor", "features"), True
    flags, no_flags = (), "it trains nothing"
    resumable = False

    def takes_part(self, config: ZeroShotConfig) -> bool:
        return config.projection is not None

    def inputs(self, context: StageContext) -> dict[str, Any]:
        wanted, embeddings = _wanted(context), embeddings_input(context)
        if not wanted.is_cost:
            return {"calibration": wanted.value, "embeddings": embeddings}
        return {"calibration": AUTO, "seen_cost": AUTO if wanted.is_open else wanted.value,
                "normalize": context.settings.zero_shot.features.normalize,
                "embeddings": embeddings}

    def check(self, context: StageContext) -> None:
        """Build an untrained segmentor: its last layer has to take the calibration."""
        wanted = _wanted(context)
        with paddle.utils.unique_name.guard():
            model = context.builder.new_projection(pretrained=False)
        model.require_bias(AUTO if wanted.is_cost else wanted.value)

    def run(self, context: StageContext) -> None:
        wanted = _wanted(context)
        model = context.builder.trained_projection(context.files.output("segmentor"))
        calibration = wanted.value
        if wanted.is_cost:
            wanted = settled(wanted, context.bank, context.embeddings,
                             len(context.classes.unseen_ids))
            calibration = wanted.found(read_layer(model.folded_layer()), context.bank,
                                       context.scale, context.classes.unseen_ids)
        segmentor = model.fold(calibration)
        context.files.begin(self.name)
        record_calibration(context.files.calibration_record, calibration, wanted)
        layer = dict(segmentor.named_sublayers())[model.layer_name]
        save_state(layer.state_dict(), context.files.output(self.name))
        save_state(segmentor.state_dict(), context.files.final_model)
        logger.info(f"[classifier] {calibration:.3g} off the logits of seen classes"
                    f"{wanted.at_cost}")
        logger.info(f"[classifier] final model, a stock {type(segmentor).__name__}: "
                    f"{context.files.final_model}")


def _wanted(context: StageContext) -> Calibration:
    return Calibration.of(context.config.section("classifier"))
