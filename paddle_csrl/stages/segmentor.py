"""Stage 1: a PaddleSeg segmentor, stock or with a projection, trained on seen classes only."""

import os

import paddle
from paddleseg.utils import logger, utils

from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.run import Run
from paddle_csrl.stages.fit import keep_checkpoint, load_weights, train_stage


def train_segmentor(run: Run) -> None:
    """Train the top-level config with PaddleSeg's trainer.

    With ``do_eval`` the best checkpoint is kept, as judged by the mean IoU over seen classes
    on the validation set under the training policy: no unseen pixel takes part in the choice.
    Without it, or where the policy leaves no validation image, the last one is kept. With
    ``segmentor_weights`` nothing is trained: that checkpoint becomes the result as it is.
    """
    config = run.config
    if config.segmentor_weights:
        _adopt(run, config.segmentor_weights)
        return
    utils.set_seed(run.seed("segmentor"))
    builder = run.builder.projecting() if config.projection else run.builder
    model = utils.convert_sync_batchnorm(builder.model, paddle.get_device().split(":")[0])
    builder.model = model
    folder = train_stage(run, "segmentor", builder, builder.train_dataset, config.batch_size,
                         val_dataset=_selection_dataset(run),
                         evaluate=lambda *args, **kwargs: _selection_score(run, *args, **kwargs))
    best = os.path.join(run.folder("segmentor"), "best_model")
    chosen = best if os.path.isdir(best) else folder
    keep_checkpoint(os.path.join(chosen, "model.pdparams"), run.output("segmentor"))


def _adopt(run: Run, path: str) -> None:
    """Make a trained segmentor the result of the stage."""
    folder = os.path.realpath(run.folder("segmentor"))
    if os.path.commonpath([folder, os.path.realpath(path)]) == folder:
        raise UserError(f"`segmentor_weights: {path}` lies in {run.folder('segmentor')}, which the "
                        f"stage clears; move it elsewhere or choose another --save_dir")
    load_weights(run.builder.model, path)
    run.begin("segmentor")
    keep_checkpoint(path, run.output("segmentor"))
    logger.info("[segmentor] not trained: whether these weights know the unseen classes is for "
                "you to say")


def load_segmentor(run: Run) -> paddle.nn.Layer:
    """The trained segmentor of stage 1."""
    with paddle.utils.unique_name.guard():  # its parameters are not to count in a later stage
        model = run.builder.model
    load_weights(model, run.output("segmentor"))
    return model


def _selection_dataset(run: Run):
    if not run.config.option("do_eval", True):
        return None
    try:
        return run.builder.selection_dataset
    except UserError as error:
        logger.warning(f"the last checkpoint is taken, for none can be chosen: {error}")
        return None


def _selection_score(run: Run, model, dataset, **kwargs) -> tuple:
    """Stand in for ``paddleseg.core.evaluate`` in the trainer, with its return values."""
    builder = run.builder
    evaluator = ZeroShotEvaluator(dataset.num_classes, builder.unseen_ids,
                                  ignore_index=dataset.ignore_index)
    scores = evaluate(model, dataset, evaluator, title="seen classes", **kwargs).compute()
    logger.info(f"[EVAL] #Images: {len(dataset)} seen mIoU: {scores['selection_miou']:.4f} "
                f"(unseen classes hidden)")
    return scores["selection_miou"], scores["pixel_accuracy"], scores["class_iou"], None, None
