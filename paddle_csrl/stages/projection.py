"""The last stage of SPNet and SegDeViSE: the projection becomes a stock classification layer."""

from paddleseg.utils import logger

from paddle_csrl.run import Run
from paddle_csrl.stages.fit import load_weights, save_state


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
