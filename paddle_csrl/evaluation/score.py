"""The end of a run: the table, ``metrics.json``, pictures and where to look."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.evaluation.pictures import PictureBook
from paddle_csrl.metrics import SCORES, score_table
from paddle_csrl.pretraining import Pretraining, pretraining_of, summary
from paddle_csrl.utils import read_json, write_json
from paddle_csrl.utils.io import json_number
from paddle_csrl.utils.provenance import versions

NUM_PICTURES = 8


def score(builder: ZeroShotBuilder, model: paddle.nn.Layer, out: str | None = None,
          picture_dir: str | None = None, log_dir: str | None = None,
          model_path: str | None = None,
          made_from: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Evaluate ``model`` on the validation set with every class and report.

    Args:
        out: path of the ``metrics.json`` to write, whose content is returned.
        picture_dir: folder for prediction pictures.
        log_dir: folder for a VisualDL record of the scores.
        model_path: the weights of ``model``, where they may be of no run of the config.
        made_from: checksums of model and images, for ``recorded_score`` to know them by.
    """
    config, classes = builder.config, builder.classes
    evaluator, book = new_evaluator(builder), PictureBook(builder, NUM_PICTURES)
    evaluate_as_configured(builder, model, evaluator, on_prediction=book.add)
    scores = evaluator.compute()
    pretraining = pretraining_of(config, classes.unseen_names, model_path)
    metrics = describe(builder, scores, pretraining)
    if made_from:
        metrics["made_from"] = dict(made_from)
    if parallel.is_first():
        _show(builder, scores, pretraining)
        if out:
            write_json(out, metrics)
            logger.info(f"scores: {out}")
        pictures = book.save(picture_dir) if picture_dir else []
        if pictures:
            logger.info(f"pictures: {len(pictures)} in {picture_dir}")
        if log_dir:
            from paddle_csrl.utils.visualdl import StageLogWriter

            with StageLogWriter(log_dir) as writer:
                writer.add_scores(scores, classes.names, 0, book.pictures())
    return metrics


def recorded_score(builder: ZeroShotBuilder, path: str,
                   made_from: Mapping[str, str]) -> dict[str, Any] | None:
    """Show and return the scores in a ``metrics.json`` that scoring again would write again.

    None unless it was made from the same model and images, and all that it says beside the scores
    is what would be said now: config, classes, versions, labels of pretraining.
    """
    metrics = read_json(path)
    if not isinstance(metrics, dict) or metrics.get("made_from") != dict(made_from):
        return None
    scores = {key: _known(value) for key, value in metrics.items()}
    pretraining = pretraining_of(builder.config, builder.classes.unseen_names)
    try:
        scores["class_iou"] = [_known(item["iou"]) for item in metrics["classes"]]
        wanted = {**describe(builder, scores, pretraining), "made_from": dict(made_from)}
    except (KeyError, TypeError):  # somebody has changed the file
        return None
    if metrics != json.loads(json.dumps(wanted)):
        return None
    if parallel.is_first():
        _show(builder, scores, pretraining)
        logger.info(f"scores: up to date: {path}")
    return metrics


def _show(builder: ZeroShotBuilder, scores: Mapping[str, Any], pretraining: Pretraining) -> None:
    classes = builder.classes
    remark = ", ".join(filter(None, (builder.config.remark, pretraining.remark)))
    table = score_table(classes.names, classes.is_unseen, scores, remark, pretraining.named)
    logger.info(f"[EVAL] #Images: {len(builder.val_dataset)}\n{table}")
    logger.info(f"pretraining: {summary(pretraining.describe())}")


def describe(builder: ZeroShotBuilder, scores: dict[str, Any],
             pretraining: Pretraining) -> dict[str, Any]:
    """Return the content of ``metrics.json``: scores in [0, 1], classes, config, versions."""
    means = {key: json_number(scores[key]) for key in (*SCORES, "pixel_accuracy")}
    table = zip(builder.classes.names, scores["class_iou"], builder.classes.is_unseen.tolist())
    classes = [{"name": name, "iou": json_number(iou), "seen": not unseen}
               for name, iou, unseen in table]
    marks = {"leaks": builder.config.leaks, "transductive": builder.config.transductive}
    return {**means, **{key: value for key, value in marks.items() if value},
            "pretraining": pretraining.describe(), "classes": classes,
            "images": len(builder.val_dataset), "config": builder.config.given,
            "seed": builder.config.settings.seed, "versions": versions()}


def audit_line(builder: ZeroShotBuilder) -> str:
    """Say in one line what of the training data was used, what was drawn, and what it knew before.

    Drawn, if stage 1 ran, is what it learned from since it was begun, or taken up where it had been
    stopped.
    """
    audit = builder.train_dataset.audit()
    drawn = builder.train_dataset.labels_drawn()
    if drawn["samples"]:
        audit["labels drawn in stage 1"] = (
            f"{drawn['samples']} ({drawn['pixels_seen']} pixels seen, {drawn['pixels_unlabelled']} "
            f"unlabelled, {drawn['pixels_unseen']} unseen)")
    if builder.config.leaks:
        audit = {"LEAKS": builder.config.leaks, **audit}
    if builder.config.transductive:
        audit["transductive"] = f"{len(builder.unlabelled_dataset)} images without their labels"
    pretraining = pretraining_of(builder.config, builder.classes.unseen_names)
    return ("audit: " + ", ".join(f"{key.replace('_', ' ')}: {value}"
                                  for key, value in audit.items())
            + f"; pretraining: {summary(pretraining.describe())}")


def warn_of_leaks(config: ZeroShotConfig) -> None:
    """Say so, where the config lets labels of unseen classes into training."""
    if config.leaks:
        logger.warning(f"LEAKS: {config.leaks}")


def visualdl_line(save_dir: str) -> str:
    """Return the command that shows the run in VisualDL."""
    return f"visualdl --logdir {os.path.normpath(save_dir)} --port 8040"


def _known(value: Any) -> Any:
    """Give a value out of JSON the NaN back that ``json_number`` took."""
    return math.nan if value is None else value
