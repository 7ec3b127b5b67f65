"""Stage 3: a new classification layer, put back into the segmentor."""

import os
from typing import Any, Dict, Optional

import numpy as np
import paddle
from paddleseg.utils import logger, utils

from paddle_csrl.config import StageConfig
from paddle_csrl.core.evaluate import evaluate
from paddle_csrl.core.feature_bank import FeatureBank
from paddle_csrl.core.final_layer import final_layer, put_back, unit_direction
from paddle_csrl.core.generator import load_bank, load_generator
from paddle_csrl.core.monitor import StageLogWriter
from paddle_csrl.core.pictures import PictureBook
from paddle_csrl.core.run import Run
from paddle_csrl.core.segmentor import load_segmentor
from paddle_csrl.core.stage_data import ClassifierBatches
from paddle_csrl.core.trainer import Fit, StageBuilder, save_state, train_stage
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.pixel_classifier import PixelClassifier

DEFAULT_NUM_GENERATED = 4096


def fit_classifier(fit: Fit, section: Dict[str, Any], generated: np.ndarray, bank: FeatureBank,
                   unseen_ids: np.ndarray, seed: int,
                   origin: Optional[np.ndarray] = None) -> PixelClassifier:
    """Make the layer, from Paddle's random state, and have it trained.

    Args:
        fit: trains the model of the builder that it is called with on the data set.
        section: the section ``classifier``.
        generated: float32 [U, P, D], features of the unseen classes.
        bank: real features by class, C classes in all.
        unseen_ids: int64 [U].
        seed: of the batches.
        origin: float32 [D], for a layer without bias: where in ``bank`` the raw zero is, negated.
    """
    batches = make_batches(section, bank, generated, unseen_ids, seed)
    classifier = PixelClassifier(bank.feature_dim, len(bank.counts), origin)
    config = StageConfig({key: value for key, value in section.items() if key != "batch_size"})
    fit(StageBuilder(config, classifier), batches)
    return classifier


def train_classifier(run: Run) -> None:
    """Train the layer with PaddleSeg's trainer and save the final model.

    The last iteration is kept: choosing among checkpoints would need unseen pixels.
    """
    builder, section = run.builder, run.config.dic["classifier"]
    seed = run.seed("classifier")
    segmentor = load_segmentor(run)
    _, layer = builder.classification_layer(segmentor)
    bank, scale = load_bank(run)
    generated = generate(load_generator(run, bank), section, seed)
    has_bias = layer.bias is not None
    unit = None if has_bias else unit_direction(bank, scale)

    def assemble(classifier: PixelClassifier) -> None:
        put_back(layer, final_layer(classifier, scale, builder.seen_ids, run.calibration, unit))

    def fit(stage_builder: StageBuilder, batches: ClassifierBatches) -> None:
        classifier = stage_builder.model
        recorder = _score_recorder(run, segmentor, lambda: assemble(classifier))
        folder = train_stage(run, "classifier", stage_builder, batches, batch_size=1,
                             on_logged=recorder)
        classifier.set_state_dict(paddle.load(os.path.join(folder, "model.pdparams")))

    classifier = fit_classifier(fit, section, generated, bank, builder.unseen_ids, seed,
                                None if has_bias else scale.origin)
    assemble(classifier)
    save_state(classifier.state_dict(), run.output("classifier"))
    save_state(segmentor.state_dict(), run.final_model)
    logger.info(f"[classifier] final model, a stock {type(segmentor).__name__}: "
                f"{run.final_model}")


def make_batches(section: Dict[str, Any], bank: FeatureBank, generated: np.ndarray,
                 unseen_ids: np.ndarray, seed: int) -> ClassifierBatches:
    """The batches of the section, from real and ``generated`` features [U, P, D]."""
    return ClassifierBatches(
        bank, generated, unseen_ids, section["batch_size"],
        section.get("unseen_share", "auto"), section.get("class_balance", "balanced"),
        section["iters"] * paddle.distributed.get_world_size(), seed)


def generate(task: GeneratorTask, section: Dict[str, Any], seed: int) -> np.ndarray:
    """Features of the unseen classes, float32 [U, P, D], in the bank's scale.

    The generator stays in training mode: the distribution that MMD fitted is the one with
    dropout, whose noise is part of the samples' spread.

    Args:
        task: the trained generator.
        section: the section ``classifier``, whose ``num_generated`` is P.
        seed: of everything random, from here on.
    """
    utils.set_seed(seed)
    task.train()
    with paddle.no_grad():
        features = task.generate_unseen(section.get("num_generated", DEFAULT_NUM_GENERATED))
        return features.astype("float32").numpy()


def _score_recorder(run: Run, segmentor: paddle.nn.Layer, assemble):
    """Record GZS3 scores and pictures in VisualDL while the layer trains, if ``do_eval``.

    They are there to be watched: nothing in training depends on them.
    """
    if not run.config.option("do_eval", True):
        return None
    builder = run.builder
    interval = run.config.option("save_interval", 1000, "classifier")
    iters = run.config.dic["classifier"]["iters"]

    def record(writer: StageLogWriter, iteration: int) -> None:
        if iteration % interval and iteration != iters:
            return
        assemble()
        evaluator = ZeroShotEvaluator(builder.val_dataset.num_classes, builder.unseen_ids,
                                      ignore_index=builder.val_dataset.ignore_index)
        book = PictureBook(builder, limit=4)
        state = paddle.get_rng_state()
        scores = evaluate(segmentor, builder.val_dataset, evaluator,
                          run.config.option("num_workers", 0), on_prediction=book.add,
                          **run.config.test_config).compute()
        paddle.set_rng_state(state)
        writer.add_scores(scores, builder.class_names, iteration)
        for number, picture in enumerate(book.pictures()):
            writer.add_picture(f"Predictions/{number}", picture, iteration)

    return record
