"""Stage 3: a new classification layer, put back into the segmentor."""

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import paddle
from paddleseg.utils import logger, utils
from pydantic import Field

from paddle_csrl import parallel
from paddle_csrl.config import StageConfig
from paddle_csrl.config.components import try_losses
from paddle_csrl.config.schema import (
    AUTO,
    Component,
    Count,
    Loss,
    Settings,
    StageSection,
    key,
    section,
)
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.evaluation.pictures import PictureBook
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.pixel_classifier import PixelClassifier, can_be_shared
from paddle_csrl.parallel import Share
from paddle_csrl.run import Run
from paddle_csrl.stages.batches import ClassifierBatches
from paddle_csrl.stages.calibration import Calibration, cost_calibration, margins_of
from paddle_csrl.stages.feature_bank import FeatureBank, Scale
from paddle_csrl.stages.final_layer import final_layer, put_back, save_layer, unit_direction
from paddle_csrl.stages.fit import Fit, StageBuilder, save_state, train_stage
from paddle_csrl.stages.generator import load_bank, load_generator
from paddle_csrl.stages.legacy import label_counts, legacy_batches
from paddle_csrl.stages.segmentor import load_segmentor
from paddle_csrl.utils.visualdl import StageLogWriter


@section("classifier")
class ClassifierSection(StageSection):
    """Stage 3."""

    required = True

    iters: Count = key(..., "iterations; a layer that stops early leans less on seen classes")
    optimizer: Component = key(..., "as at the top level")
    lr_scheduler: Component = key(..., "as at the top level")
    loss: Loss = key(..., "as at the top level; a `weight` of `CrossEntropyLoss` has one number "
                          "per class")
    mode: Literal["clean", "legacy"] = key(
        "clean", "`clean`: generated features of unseen classes, as many as `unseen_share` says. "
        "`legacy`: the sampler of ZS3Net's published code, which **leaks**, see below")
    batch_size: Count = key(..., "features per iteration")
    unseen_share: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = key(
        AUTO, "expected share of generated features, 0 to 1; `auto` gives every class the same "
        "share")
    class_balance: Literal["balanced", "sqrt", "frequency"] = key(
        "balanced", "real features per seen class: `balanced`, `sqrt` (of the pixel count) or "
        "`frequency`")
    num_generated: Count = key(4096, "generated features per unseen class")
    calibration: float | Literal["auto"] = key(
        0.0, "taken off the logits of seen classes (calibrated stacking): a number in logit units; "
        "or `auto`, which takes what costs them `seen_cost`. The value found is in "
        "`calibration.json`")
    seen_cost: Annotated[float, Field(gt=0, lt=1)] = key(
        0.1, "with `calibration: auto`: the share of the features of seen classes, 0 to 1 and "
        "neither, that may go to an unseen class; the mean over the seen classes of the feature "
        "bank. It does not depend on the scale of the logits, so that methods compared at one cost "
        "pay the same")

    def check(self, settings: Settings) -> None:
        """Make the losses once."""
        try_losses(self.loss, "classifier.loss")


DEFAULT_NUM_GENERATED = 4096

#: Makes the data set of section, bank, generated features, ids of the unseen classes and seed.
BatchesOf = Callable[[dict[str, Any], FeatureBank, np.ndarray, np.ndarray, int], paddle.io.Dataset]


def fit_classifier(fit: Fit, section: dict[str, Any], generated: np.ndarray, bank: FeatureBank,
                   unseen_ids: np.ndarray, seed: int,
                   origin: np.ndarray | None = None,
                   batches_of: BatchesOf | None = None) -> PixelClassifier:
    """Make the layer, from Paddle's random state, and have it trained.

    Args:
        fit: trains the model of the builder that it is called with on the data set.
        section: the section ``classifier``.
        generated: float32 [U, P, D], features of the unseen classes.
        bank: real features by class, C classes in all.
        unseen_ids: int64 [U].
        seed: of the batches.
        origin: float32 [D], for a layer without bias: where in ``bank`` the raw zero is, negated.
        batches_of: makes the data set of the others but ``fit``; ``make_batches`` by default.
    """
    batches = (batches_of or make_batches)(section, bank, generated, unseen_ids, seed)
    classifier = PixelClassifier(bank.feature_dim, len(bank.counts), origin)
    config = StageConfig({key: value for key, value in section.items() if key != "batch_size"})
    fit(StageBuilder(config, classifier), batches)
    return classifier


def train_classifier(run: Run) -> None:
    """Train the layer on real seen and generated unseen features."""
    bank, scale = load_bank(run)
    if run.config.leaks:
        train_layer(run, "classifier", bank, scale,
                    partial(legacy_batches, label_counts=label_counts(run)))
    else:
        train_layer(run, "classifier", bank, scale)


def train_layer(run: Run, stage: str, bank: FeatureBank, scale: Scale,
                batches_of: BatchesOf | None = None) -> PixelClassifier:
    """Train the layer with PaddleSeg's trainer; the last stage of a run saves the final model.

    The last iteration is kept: choosing among checkpoints would need unseen pixels.

    Args:
        run: the run.
        stage: the stage, whose folder receives the layer.
        bank: real features, divided by ``scale``.
        scale: goes into the final layer.
        batches_of: as for ``fit_classifier``.
    """
    section, seed, last = run.config.dic["classifier"], run.seed(stage), LastLayer(run, bank, scale)
    generated = generate(load_generator(run, bank), section, seed, seen_too=bool(run.config.leaks))

    def fit(stage_builder: StageBuilder, batches: paddle.io.Dataset) -> None:
        classifier = stage_builder.model
        _share_out(stage_builder, section["batch_size"], stage)
        recorder = _score_recorder(run, stage, last.segmentor, lambda: last.exchange(classifier))
        folder = train_stage(run, stage, stage_builder, batches, batch_size=1,
                             on_logged=recorder, alone=True)
        classifier.set_state_dict(paddle.load(os.path.join(folder, "model.pdparams")))

    classifier = fit_classifier(fit, section, generated, bank, run.builder.unseen_ids, seed,
                                last.origin, batches_of)
    save_state(classifier.state_dict(), run.output(stage))
    if stage == run.stages[-1]:
        last.save(classifier)
    return classifier


def _share_out(builder: StageBuilder, batch_size: int, stage: str) -> None:
    """Have each of several processes train on its part of every batch, where the loss allows."""
    unfit = [loss for loss in builder.loss["types"] if not can_be_shared(loss)]
    if not unfit:
        builder.model.share = Share.of_this_process(batch_size)
        parallel.add_gradients_before(builder.optimizer, builder.model.parameters())
    elif parallel.world_size() > 1:
        logger.info(f"[{stage}] every process trains on whole batches, for the parts of "
                    f"{type(unfit[0]).__name__} do not add up")


class LastLayer:
    """The segmentor of stage 1 with its last layer, which is there to be exchanged.

    Args:
        run: the run.
        bank: real features, divided by ``scale``.
        scale: goes into the layer.

    Attributes:
        segmentor (nn.Layer): the segmentor.
        origin (float32 [D] or None): what a ``PixelClassifier`` needs to be exchanged for it.
    """

    def __init__(self, run: Run, bank: FeatureBank, scale: Scale):
        self.run, self.bank, self.scale = run, bank, scale
        self.segmentor = load_segmentor(run)
        _, self._layer = run.builder.classification_layer(self.segmentor)
        has_bias = self._layer.bias is not None
        self.origin = None if has_bias else scale.origin
        self._unit = None if has_bias else unit_direction(bank, scale)

    def exchange(self, classifier: PixelClassifier) -> None:
        """Make ``classifier`` the layer, calibrated as the config says."""
        put_back(self._layer, self._folded(classifier))

    def save(self, classifier: PixelClassifier) -> None:
        """Write what the run ends with: the segmentor with ``classifier``, or the layer alone."""
        calibration = self.calibration(classifier)
        self.run.record_calibration(calibration)
        if self.run.shared_dir:
            save_layer(self._folded(classifier), self.run.final_layer)
            return
        logger.info(f"[classifier] {calibration:.3g} off the logits of seen classes")
        self.exchange(classifier)
        save_state(self.segmentor.state_dict(), self.run.final_model)
        logger.info(f"final model, a stock {type(self.segmentor).__name__}: "
                    f"{self.run.final_model}")

    def calibration(self, classifier: PixelClassifier) -> float:
        """What the config takes off the logits of seen classes, in logit units."""
        return calibration_of(self.run.config.dic["classifier"], classifier, self.bank,
                              self.scale, self.run.builder.unseen_ids, self._unit)

    def _folded(self, classifier: PixelClassifier) -> dict[str, np.ndarray]:
        return final_layer(classifier, self.scale, self.run.builder.seen_ids,
                           self.calibration(classifier), self._unit)


def calibration_of(section: dict[str, Any], classifier: PixelClassifier, bank: FeatureBank,
                   scale: Scale, unseen_ids: np.ndarray,
                   unit: np.ndarray | None = None) -> float:
    """What the section ``classifier`` takes off the logits of seen classes, in logit units.

    Args:
        section: the section.
        classifier: the trained layer.
        bank, scale, unseen_ids, unit: as for ``margins_of``.
    """
    wanted = Calibration.of(section)
    if not wanted.is_cost:
        return wanted.value
    layer = final_layer(classifier, scale, np.zeros(0, np.int64), 0.0, unit)
    return cost_calibration(margins_of(layer, bank, scale, unseen_ids, unit), wanted.value)


def make_batches(section: dict[str, Any], bank: FeatureBank, generated: np.ndarray,
                 unseen_ids: np.ndarray, seed: int,
                 kind: type[ClassifierBatches] = ClassifierBatches,
                 **options: Any) -> ClassifierBatches:
    """The batches of the section, from real and ``generated`` features [U, P, D].

    Args:
        section, bank, generated, unseen_ids, seed: as for ``fit_classifier``.
        kind: the class of the batches.
        **options: what it takes besides.
    """
    return kind(
        bank, generated, unseen_ids, section["batch_size"],
        section.get("unseen_share", "auto"), section.get("class_balance", "balanced"),
        section["iters"], seed, **options)


def generate(task: GeneratorTask, section: dict[str, Any], seed: int,
             seen_too: bool = False) -> np.ndarray:
    """Features of the unseen classes, float32 [U, P, D], in the bank's scale.

    The generator stays in training mode: the distribution that MMD fitted is the one with
    dropout, whose noise is part of the samples' spread.

    Args:
        task: the trained generator.
        section: the section ``classifier``, whose ``num_generated`` is P.
        seed: of everything random, from here on.
        seen_too: put those of the S seen classes ahead, [S + U, P, D].
    """
    utils.set_seed(seed)
    task.train()
    with paddle.no_grad():
        make = task.generate if seen_too else task.generate_unseen
        features = make(section.get("num_generated", DEFAULT_NUM_GENERATED))
        return features.astype("float32").numpy()


def _score_recorder(run: Run, stage: str, segmentor: paddle.nn.Layer, assemble):
    """Record GZS3 scores and pictures in VisualDL while the layer trains, if ``do_eval``.

    They are there to be watched: nothing in training depends on them.
    """
    if not run.config.option("do_eval", True):
        return None
    builder = run.builder
    interval = run.config.option("save_interval", 1000, stage)
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
                          alone=True, **run.config.test_config).compute()
        paddle.set_rng_state(state)
        writer.add_scores(scores, builder.class_names, iteration)
        for number, picture in enumerate(book.pictures()):
            writer.add_picture(f"Predictions/{number}", picture, iteration)

    return record
