"""Self-training: the layer learns its own most confident predictions of unseen classes, too.

This is the transductive setting: the images that the policy took out are there without their
labels. With ``policy: drop`` it was labels that told which images show an unseen class, and that
much the setting grants; with ``policy: ignore`` they are those with unlabelled pixels.
"""

import os
from functools import partial
from typing import Annotated, Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddleseg.utils import logger
from pydantic import Field

from paddle_csrl.bank.batches import ClassifierBatches
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.schema import Count, Samples, Settings, StageSection, key, section
from paddle_csrl.datasets.transforms import labels_at
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import read_in_turn, shard
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.stages.base import Stage, StageContext, embeddings_input, register, section_inputs
from paddle_csrl.stages.checkpoints import iterations_done
from paddle_csrl.stages.classifier import LastLayer, keep_layer, train_layer
from paddle_csrl.stages.features import offer
from paddle_csrl.utils.weights import load_weights

_NO_LABEL = -1
#: In a checkpoint: the layer that labelled the images of its round.
_LABELLER = "labeller.pdparams"


class PseudoLabelledBatches(ClassifierBatches):
    """As ``ClassifierBatches``, with real features among the generated ones.

    ``pseudo`` has them by pseudo-label, an unseen class; ``pseudo_share`` is their expected share
    of what is drawn of an unseen class. A class without any is generated.
    """

    def __init__(self, *args: Any, pseudo: FeatureBank, pseudo_share: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pseudo, self.pseudo_share = pseudo, pseudo_share
        self.first_pseudo = sum(map(len, self.tables))
        self.tables = [*self.tables, pseudo.features]

    def draw_unseen(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = super().draw_unseen(number, rng)
        real = (rng.random(number) < self.pseudo_share) & (self.pseudo.counts[labels] > 0)
        rows[real] = self.first_pseudo + self.pseudo.draw(labels[real], rng)
        return rows, labels


@section("self_training")
class SelfTrainingSection(StageSection):
    """The optional last stage."""

    share: Annotated[float, Field(gt=0, le=1)] = key(
        0.25, "of the pixels predicted as an unseen class, the most confident ones that are taken, "
        "above 0 and up to 1")
    pseudo_share: Annotated[float, Field(gt=0, le=1)] = key(
        0.5, "expected share of them, in place of generated ones, among what the layer learns an "
        "unseen class from")
    rounds: Count = key(
        1, "how often images are labelled and the layer trained anew; each round labels with the "
        "layer of the one before")
    samples_per_class: Samples = key(
        8192, "bound of the uniform sample of predicted pixels, per class, from which `share` is "
        "taken")

    def check(self, settings: Settings) -> None:
        """Insist on the clean mode."""
        why = {"legacy": "legacy draws by labels, of which its images have none",
               "closed_form": "a layer in closed form is not trained"}
        mode = settings.section("classifier").mode
        if mode in why:
            raise UserError(f"`self_training` needs `classifier.mode: clean`, for {why[mode]}; "
                            f"leave one of the two out")


@register
class SelfTrainingStage(Stage):
    """Labels the unlabelled images and trains the layer anew, ``rounds`` times.

    Iterations are counted over all rounds.
    """

    name = result = "self_training"
    help = "with a section of that name: the layer once more, with its own confident predictions"
    needs, makes_model = ("classifier", "segmentor", "features", "generator"), True
    flags = ("save_interval", "log_iters")
    no_flags = "it trains the layer as the section `classifier` says"

    def iterations(self, config: ZeroShotConfig) -> int:
        return config.section(self.name).rounds * config.section("classifier").iters

    def inputs(self, context: StageContext) -> dict[str, Any]:
        section = context.config.section
        return {"self_training": section_inputs(section(self.name)),
                "classifier": section_inputs(section("classifier")),
                "embeddings": embeddings_input(context),
                "transforms": context.builder.feature_transforms or None,
                **self._of_padding(context),
                "unlabelled": context.builder.fingerprint("unlabelled")}

    def _of_padding(self, context: StageContext) -> dict[str, Any]:
        pads = any("Padding" in step["type"] for step in context.builder.feature_transforms)
        return {"padding": "left out"} if pads else {}  # where it was labelled once

    def check(self, context: StageContext) -> None:
        context.builder.unlabelled_dataset  # noqa: B018  raises if there is none

    def run(self, context: StageContext) -> None:
        section, bank = context.config.section(self.name), context.bank
        iters, given = context.config.section("classifier").iters, context.resume_model
        last = LastLayer(context)
        classifier = PixelClassifier(bank.feature_dim, len(context.classes), last.origin)
        load_weights(classifier, os.path.join(given, _LABELLER) if given
                     else context.files.output("classifier"))
        first = (iterations_done(given) - 1) // iters if given else 0
        for number in range(first, section.rounds):
            last.exchange(classifier)
            sample = sample_predictions(context, last.segmentor, section.samples_per_class)
            pseudo = most_confident(sample, section.share)
            _report(context, number + 1, pseudo)
            classifier = train_layer(
                context, self.name, last, partial(
                    PseudoLabelledBatches.of, pseudo=pseudo.scaled(context.scale),
                    pseudo_share=section.pseudo_share),
                offset=number * iters, beside={_LABELLER: classifier.state_dict()})
        keep_layer(context, self.name, last, classifier)


def sample_predictions(context: StageContext, segmentor: paddle.nn.Layer,
                       samples_per_class: int) -> FeatureBank:
    """Draw a bounded, uniform sample of the pixels that are predicted as each unseen class.

    Every image goes through the segmentor once, up to its last layer. The bank's features are
    [K, D + 1], in the last column the confidence: the probability of the predicted class.
    ``pixel_counts`` are the pixels predicted.
    """
    builder, stage = context.builder, SelfTrainingStage.name
    extractor = builder.feature_extractor(segmentor)
    sampler = BottomKSampler(len(context.classes), samples_per_class, _NO_LABEL)
    for index, data in read_in_turn(shard(builder.unlabelled_dataset),
                                    context.settings.num_workers, "pseudo-labels"):
        features = extractor(data["img"])
        with paddle.no_grad():
            probabilities = F.softmax(extractor.layer(features), axis=1)
            confidence, predicted = probabilities.max(1, keepdim=True), probabilities.argmax(1)
        ids = predicted.numpy().reshape(-1)
        shown = labels_at(data["shown"].numpy()[0], features.shape[2:]).reshape(-1)
        labels = np.where(shown & np.isin(ids, context.classes.unseen_ids), ids, _NO_LABEL)
        offer(sampler, paddle.concat([features, confidence], axis=1), labels,
              [context.seed(stage), index])
    sampler.merge_processes(everywhere=True)
    if not sampler.pixel_counts.any():
        return FeatureBank(np.zeros((0, extractor.feature_dim + 1), np.float32),
                           sampler.pixel_counts, sampler.pixel_counts)
    return sampler.bank()


def most_confident(sample: FeatureBank, share: float) -> FeatureBank:
    """Keep the ``share`` in (0, 1] of each class with the highest confidence, rounded up.

    ``sample`` is as ``sample_predictions`` draws it; the confidence is cut off, [K', D]. As the
    sample is uniform, so is this among the most confident.
    """
    counts = np.ceil(share * sample.counts).astype(np.int64)
    labels = np.repeat(np.arange(len(counts)), sample.counts)
    order = np.lexsort((-sample.features[:, -1], labels))
    rank = np.arange(len(order)) - sample.starts[labels]
    kept = order[rank < counts[labels]]
    return FeatureBank(sample.features[kept, :-1], counts, sample.pixel_counts)


def _report(context: StageContext, number: int, pseudo: FeatureBank) -> None:
    names, missing = context.classes.names, []
    for class_id in context.classes.unseen_ids:
        if pseudo.counts[class_id]:
            logger.info(f"[self_training] round {number}, {names[class_id]}: "
                        f"{pseudo.counts[class_id]} of {pseudo.pixel_counts[class_id]} pixels "
                        f"predicted in {len(context.builder.unlabelled_dataset)} images")
        else:
            missing.append(names[class_id])
    if missing:
        logger.warning(f"[self_training] round {number}: no pixel is predicted as "
                       f"{', '.join(missing)}, whose features are all generated")
