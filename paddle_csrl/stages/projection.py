"""The last stage of SPNet and SegDeViSE: the projection becomes a stock classification layer."""

from typing import Literal

from paddleseg.utils import logger

from paddle_csrl.config.schema import AUTO, Section, Settings, key, section
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages.fit import load_weights, save_state


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
        if classifier and classifier.calibration == AUTO:
            raise UserError("`classifier.calibration: auto` needs features of seen classes, which "
                            "a `projection` does not keep; give a number")
        if classifier and classifier.mode != "clean":
            raise UserError(f"`classifier.mode: {classifier.mode}` is a way to generate features, "
                            f"which a `projection` does not; leave one of the two out")


def fold_projection(run: Run) -> None:
    """Fold embeddings and calibration into the last layer and save the final model."""
    model = run.builder.projecting().model
    load_weights(model, run.output("segmentor"))
    segmentor = model.fold(run.calibration)
    run.begin("classifier")
    layer = dict(segmentor.named_sublayers())[model.layer_name]
    save_state(layer.state_dict(), run.output("classifier"))
    save_state(segmentor.state_dict(), run.final_model)
    logger.info(f"[classifier] final model, a stock {type(segmentor).__name__}: "
                f"{run.final_model}")
