"""Stage 3: a new classification layer, put back into the segmentor."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import paddle
from paddleseg.utils import logger
from pydantic import Field

from paddle_csrl import parallel
from paddle_csrl.bank.batches import ClassifierBatches
from paddle_csrl.bank.feature_bank import FeatureBank, Scale
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.components import try_losses
from paddle_csrl.config.schema import (
    AUTO,
    Count,
    Loss,
    Samples,
    Settings,
    TrainedSection,
    key,
    section,
)
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.evaluation.pictures import PictureBook
from paddle_csrl.models.last_layer import put_back, save_layer
from paddle_csrl.models.pixel_classifier import PixelClassifier, can_be_shared
from paddle_csrl.parallel import Share
from paddle_csrl.stages.base import Stage, StageContext, embeddings_input, register, section_inputs
from paddle_csrl.stages.calibration import Calibration, fold, unit_direction
from paddle_csrl.stages.fit import Fit, TrainingBuilder, check_training, fit, fit_in_folder
from paddle_csrl.stages.generator import generate, trained_generator
from paddle_csrl.stages.legacy import LegacyBatches, label_counts
from paddle_csrl.stages.seen_cost import settled
from paddle_csrl.stages.trial import try_stage
from paddle_csrl.utils import write_json
from paddle_csrl.utils.weights import save_state

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter

#: The mode without training.
CLOSED_FORM = "closed_form"
#: Makes a data set of section, bank, generated features, ids of the unseen classes and seed.
BatchesOf = Callable[..., paddle.io.Dataset]


@section("classifier")
class ClassifierSection(TrainedSection):
    """Stage 3."""

    required = True

    iters: Count = key(..., "iterations; a layer that stops early leans less on seen classes")
    loss: Loss = key(..., "as at the top level; a `weight` of `CrossEntropyLoss` has one number "
                          "per class")
    mode: Literal["clean", "legacy", "closed_form"] = key(
        "clean", "`clean`: generated features of unseen classes, as many as `unseen_share` says. "
        "`legacy`: the sampler of ZS3Net's published code, which **leaks**, see below. "
        "`closed_form`: no training, but the discriminant of Gaussians of one covariance, see "
        "below; of the other keys only `shrinkage`, `num_generated` (for a generator that is "
        "trained), `calibration` and `seen_cost` mean anything to it")
    shrinkage: Annotated[float, Field(ge=0, le=1000)] = key(
        0.1, "with `closed_form`: the share of the covariance's mean diagonal, 0 to 1000, that is "
        "added to its diagonal")
    batch_size: Samples = key(..., "features per iteration")
    unseen_share: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = key(
        AUTO, "expected share of generated features, 0 to 1; `auto` gives every class the same "
        "share")
    class_balance: Literal["balanced", "sqrt", "frequency"] = key(
        "balanced", "real features per seen class: `balanced`, `sqrt` (of the pixel count) or "
        "`frequency`")
    num_generated: Samples = key(4096, "generated features per unseen class")
    calibration: float | Literal["auto"] = key(
        0.0, "taken off the logits of seen classes (calibrated stacking): a number in logit units; "
        "or `auto`, which takes what costs them `seen_cost`. The value found is in "
        "`calibration.json`")
    seen_cost: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = key(
        0.1, "with `calibration: auto`: the share of the features of seen classes, 0 to 1 and "
        "neither, that may go to an unseen class; the mean over the seen classes of the feature "
        "bank. It does not depend on the scale of the logits, so that methods compared at one cost "
        "pay the same. `auto`: the share at which seen classes that are left out of the bank score "
        "best, see below; it is in `calibration.json`")

    def check(self, settings: Settings) -> None:
        """Make the losses once, or insist on features that can vary."""
        try_losses(self.loss, "classifier.loss")
        if self.mode == CLOSED_FORM and settings.zero_shot.features.samples_per_class < 2:
            raise UserError("`classifier.mode: closed_form` needs the covariance within classes, "
                            "and with `zero_shot.features.samples_per_class: 1` there is none; "
                            "raise it")


@register
class ClassifierStage(Stage):
    """Trains the layer on real seen and generated unseen features."""

    name, result = "classifier", "layer"
    help = "a new last layer learns real seen and generated unseen features"
    needs, makes_model = ("segmentor", "features", "generator"), True
    new_inputs = ("normalize", "generator.model", "generator.unseen_prototypes",
                  "generator.outside_hull", "label_names")

    def takes_part(self, config: ZeroShotConfig) -> bool:
        return super().takes_part(config) and config.section(self.name).mode != CLOSED_FORM

    def inputs(self, context: StageContext) -> dict[str, Any]:
        section = section_inputs(context.config.section(self.name))
        del section["shrinkage"]
        inputs = {"classifier": section, **inputs_of_layer(context)}
        if context.config.leaks:
            inputs.update(labels=context.builder.fingerprint("all"),
                          label_names=context.classes.label_names)
        return inputs

    def check(self, context: StageContext) -> None:
        check_classifier(context.config.section(self.name), len(context.classes))
        if context.config.leaks:
            label_counts(context)
            _tell_of_weights(context)

    def run(self, context: StageContext) -> None:
        batches_of = partial(LegacyBatches.of, label_counts=label_counts(context)) \
            if context.config.leaks else ClassifierBatches.of
        last = LastLayer(context)
        keep_layer(context, self.name, last, train_layer(context, self.name, last, batches_of))


def inputs_of_layer(context: StageContext) -> dict[str, Any]:
    """Return the inputs of a last layer made from bank and generator, but for its own section."""
    generator = context.config.section("generator")
    return {"embeddings": embeddings_input(context),
            "normalize": context.settings.zero_shot.features.normalize,
            # How its weights are used, which need not show in them.
            "generator.model": generator.model,
            "generator.unseen_prototypes": generator.unseen_prototypes,
            "generator.outside_hull": generator.outside_hull}


def check_classifier(section: ClassifierSection, num_classes: int) -> None:
    """Build what a section names, and compute its losses on a feature of every class."""
    if section.mode == CLOSED_FORM:
        return
    check_training(section, num_classes, "classifier: ")
    with paddle.utils.unique_name.guard():
        classifier = PixelClassifier(1, num_classes)
    labels = np.arange(num_classes)[:, None]
    try_stage(classifier, [{"img": labels[None].astype(np.float32), "label": labels}], section,
              "classifier: ")


def train_classifier(section: ClassifierSection, bank: FeatureBank, generated: np.ndarray,
                     unseen_ids: np.ndarray, seed: int, *, origin: np.ndarray | None = None,
                     fit: Fit[PixelClassifier] = fit,
                     batches_of: BatchesOf = ClassifierBatches.of) -> PixelClassifier:
    """Make the layer, from Paddle's random state, and train it with the loop ``fit``.

    Args:
        section: the section ``classifier``.
        bank: real features by class, C classes in all.
        generated: float32 [U, P, D], features of the unseen classes.
        unseen_ids: int64 [U].
        seed: of the batches.
        origin: float32 [D], for a layer without bias: where in ``bank`` the raw zero is, negated.
    """
    batches = batches_of(section, bank, generated, unseen_ids, seed)
    classifier = PixelClassifier(bank.feature_dim, len(bank.counts), origin)
    fit(classifier, batches, section)
    return classifier


def train_layer(context: StageContext, stage: str, last: "LastLayer",
                batches_of: BatchesOf = ClassifierBatches.of, **folder: Any) -> PixelClassifier:
    """Train the layer in a stage's folder; ``folder`` is for ``fit_in_folder``.

    The last iteration counts: choosing among checkpoints would need unseen pixels.
    """
    section, seed = context.config.section("classifier"), context.seed(stage)
    generated = generate(trained_generator(context), section.num_generated, seed,
                         seen_too=bool(context.config.leaks))

    def share_out(classifier: PixelClassifier, batches: paddle.io.Dataset, section: Any) -> None:
        classifier.share = _share_of(section, classifier, stage)
        recorder = _score_recorder(context, last, classifier) if context.settings.do_eval else None
        fit_in_folder(context, stage, context.config.section(stage), recorder, **folder)(
            classifier, batches, section)

    # A checkpoint knows parameters by the names that Paddle counts up, here in every round anew.
    with paddle.utils.unique_name.guard():
        return train_classifier(section, context.bank, generated, context.classes.unseen_ids, seed,
                                origin=last.origin, fit=share_out, batches_of=batches_of)


def keep_layer(context: StageContext, stage: str, last: "LastLayer",
               classifier: PixelClassifier) -> None:
    """Save a stage's layer, and the final model if that is the stage's part."""
    save_state(classifier.state_dict(), context.files.output(stage))
    if context.makes_model:
        last.save(classifier)


def _share_of(section: ClassifierSection, classifier: PixelClassifier,
              stage: str) -> Share | None:
    """Have each of several processes train on its part of every batch, where the losses allow."""
    if parallel.world_size() == 1:
        return None
    unfit = [loss for loss in TrainingBuilder(section, classifier).loss["types"]
             if not can_be_shared(loss)]
    if unfit:
        logger.info(f"[{stage}] every process trains on whole batches, for the parts of "
                    f"{type(unfit[0]).__name__} do not add up")
        return None
    return Share.of_this_process(section.batch_size)


class LastLayer:
    """The segmentor of stage 1 with its last layer, which is there to be exchanged.

    ``origin``, float32 [D] or None, is what a ``PixelClassifier`` needs to be exchanged for it.
    """

    def __init__(self, context: StageContext):
        self.context, self.segmentor = context, context.segmentor
        _, self._layer = context.builder.classification_layer(self.segmentor)
        has_bias = self._layer.bias is not None
        self.origin = None if has_bias else context.scale.origin
        self._unit = None if has_bias else unit_direction(context.bank, context.scale)
        self._known: tuple[np.ndarray, Any] | None = None

    def exchange(self, classifier: PixelClassifier) -> None:
        """Make ``classifier`` the layer, calibrated as the config says."""
        put_back(self._layer, self._calibrated(classifier)[0])

    def save(self, classifier: PixelClassifier) -> None:
        """Write what the run ends with: the segmentor with ``classifier``, or the layer alone."""
        files = self.context.files
        values, calibration = self._calibrated(classifier)
        record_calibration(files.calibration_record, calibration, self._wanted)
        if files.shared_dir:
            if parallel.is_first():
                save_layer(values, files.final_layer)
            return
        logger.info(f"[classifier] {calibration:.3g} off the logits of seen classes"
                    f"{self._wanted.at_cost}")
        put_back(self._layer, values)
        save_state(self.segmentor.state_dict(), files.final_model)
        logger.info(f"final model, a stock {type(self.segmentor).__name__}: {files.final_model}")

    def _calibrated(self, classifier: PixelClassifier) -> tuple[dict[str, np.ndarray], float]:
        """As ``calibrated_layer``, which may go over the whole bank: once for the same weights."""
        weights = classifier.conv.weight.numpy()
        if self._known is None or not np.array_equal(self._known[0], weights):
            self._known = weights, calibrated_layer(
                self._wanted, classifier, self.context.bank, self.context.scale,
                self.context.classes.unseen_ids, self._unit)
        return self._known[1]

    @cached_property
    def _wanted(self) -> Calibration:
        context, wanted = self.context, Calibration.of(self.context.config.section("classifier"))
        return settled(wanted, context.bank, context.embeddings, len(context.classes.unseen_ids),
                       context.moments if wanted.is_open else None)


def calibrated_layer(wanted: Calibration, classifier: PixelClassifier, bank: FeatureBank,
                     scale: Scale, unseen_ids: np.ndarray,
                     unit: np.ndarray | None) -> tuple[dict[str, np.ndarray], float]:
    """Fold a layer for raw features, with the settled calibration that is ``wanted``.

    ``bank`` is standardized by ``scale``; ``unit``, of ``unit_direction``, is for a layer without
    bias. Returns the layer, as ``fold`` does, and the calibration in logit units.
    """
    plain = fold(classifier, scale, np.zeros(0, np.int64), 0.0, unit)
    calibration = wanted.found(plain, bank, scale, unseen_ids, unit)
    seen_ids = np.setdiff1d(np.arange(len(bank.counts)), unseen_ids)
    return fold(classifier, scale, seen_ids, calibration, unit), calibration


def record_calibration(path: str, calibration: float, wanted: Calibration) -> None:
    """Write down a calibration that the config does not say, with what it costs."""
    if parallel.is_first() and wanted.is_cost:
        write_json(path, {"calibration": calibration, "seen_cost": wanted.value})


def _score_recorder(context: StageContext, last: LastLayer, classifier: PixelClassifier
                    ) -> Callable[["StageLogWriter", int], None]:
    """Record GZS3 scores and pictures in VisualDL while the layer trains.

    They are there to be watched: nothing in training depends on them.
    """

    def record(writer: "StageLogWriter", iteration: int) -> None:
        builder = context.builder
        last.exchange(classifier)
        book = PictureBook(builder, limit=4)
        scores = evaluate_as_configured(builder, last.segmentor, new_evaluator(builder),
                                        on_prediction=book.add, alone=True).compute()
        writer.add_scores(scores, context.classes.names, iteration, book.pictures())

    return record


def _tell_of_weights(context: StageContext) -> None:
    """Warn of class weights that stand where other classes are unseen, as after copying them."""
    for loss in context.config.section("classifier").loss["types"]:
        weight = np.asarray(loss.get("weight") or [0])
        heavy = np.flatnonzero(weight > weight.min())
        if len(heavy) and not np.array_equal(heavy, context.classes.unseen_ids):
            names = [context.classes.names[c] for c in heavy]
            logger.warning(f"[classifier] {loss['type']} has larger weights for "
                           f"{', '.join(names)}, not for the unseen classes; ZS3Net's are 100 for "
                           f"those and 1 for all others")
