"""What a run ends with: the table, ``metrics.json``, pictures and where to look."""

import math
import os
from typing import Any

import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.evaluation.pictures import PictureBook
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.provenance import versions
from paddle_csrl.utils import write_json
from paddle_csrl.utils.visualdl import StageLogWriter

NUM_PICTURES = 8


def score(builder: ZeroShotBuilder, model: paddle.nn.Layer, out: str | None = None,
          picture_dir: str | None = None, log_dir: str | None = None) -> dict[str, Any]:
    """Evaluate ``model`` on the validation set with every class and report.

    Args:
        builder: of the run's config.
        model: the segmentor.
        out: path of the ``metrics.json`` to write, if any.
        picture_dir: folder for prediction pictures, if wanted.
        log_dir: folder for a VisualDL record of the scores, if wanted.

    Returns:
        What ``metrics.json`` holds.
    """
    config, dataset = builder.config, builder.val_dataset
    evaluator = ZeroShotEvaluator(dataset.num_classes, builder.unseen_ids,
                                  ignore_index=dataset.ignore_index,
                                  class_names=builder.class_names)
    book = PictureBook(builder, NUM_PICTURES)
    evaluate(model, dataset, evaluator, config.option("num_workers", 0),
             config.option("precision", "fp32"), config.option("amp_level", "O1"),
             on_prediction=book.add, **config.test_config)
    scores = evaluator.compute()
    metrics = describe(builder, scores)
    if parallel.is_first():
        logger.info(f"[EVAL] #Images: {len(dataset)}\n{evaluator.table(config.remark)}")
        if out:
            write_json(out, metrics)
            logger.info(f"scores: {out}")
        pictures = book.save(picture_dir) if picture_dir else []
        if pictures:
            logger.info(f"pictures: {len(pictures)} in {picture_dir}")
        if log_dir:
            with StageLogWriter(log_dir, []) as writer:
                writer.add_scores(scores, builder.class_names, 0)
                for number, picture in enumerate(book.pictures()):
                    writer.add_picture(f"Predictions/{number}", picture, 0)
    return metrics


def describe(builder: ZeroShotBuilder, scores: dict[str, Any]) -> dict[str, Any]:
    """The content of ``metrics.json``: scores as fractions, classes, config, seed, versions."""
    unseen = set(builder.unseen_ids.tolist())
    summary = {key: _number(scores[key])
               for key in ("seen_miou", "unseen_miou", "miou", "hiou", "pixel_accuracy")}
    classes = [{"name": name, "iou": _number(iou), "seen": class_id not in unseen}
               for class_id, (name, iou) in enumerate(zip(builder.class_names,
                                                          scores["class_iou"]))]
    marks = {"leaks": builder.config.leaks, "transductive": builder.config.transductive}
    return {**summary, **{key: value for key, value in marks.items() if value},
            "classes": classes, "images": len(builder.val_dataset),
            "config": builder.config.given, "seed": builder.config.seed, "versions": versions()}


def audit_line(builder: ZeroShotBuilder) -> str:
    """One line that says what of the training data was used."""
    audit = builder.train_dataset.audit()
    if builder.config.leaks:
        audit = {"LEAKS": builder.config.leaks, **audit}
    if builder.config.transductive:
        audit["transductive"] = f"{len(builder.unlabelled_dataset)} images without their labels"
    return ("audit: " + ", ".join(f"{key.replace('_', ' ')}: {value}"
                                  for key, value in audit.items()))


def warn_of_leaks(config: ZeroShotConfig) -> None:
    """Say so, where the config lets labels of unseen classes into training."""
    if config.leaks:
        logger.warning(f"LEAKS: {config.leaks}")


def visualdl_line(save_dir: str) -> str:
    """The command that shows the run in VisualDL."""
    return f"visualdl --logdir {os.path.normpath(save_dir)} --port 8040"


def _number(value: float) -> float | None:
    """A float for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)
