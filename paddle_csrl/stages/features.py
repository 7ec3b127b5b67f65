"""Between stages 1 and 2: the frozen segmentor fills the feature bank, once per image."""

from typing import Any

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.bank.feature_bank import BottomKSampler
from paddle_csrl.builder import without_pretrained
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.transforms import labels_at
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import read_in_turn, shard
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.stages.base import Stage, StageContext, dataset_input, register
from paddle_csrl.stages.calibration import Calibration


@register
class FeaturesStage(Stage):
    """Runs the segmentor over the training set and saves the bank."""

    name, result, output = "features", "bank", "bank.npz"
    help = "the frozen segmentor fills a bank with real features, once per image"
    needs = ("segmentor",)
    new_inputs = ("model", "train_dataset", "class_names", "label_names")
    flags, no_flags = (), "it trains nothing"
    resumable = False

    def takes_part(self, config: ZeroShotConfig) -> bool:
        """A ``projection`` needs features for the price of its calibration alone."""
        if config.projection:
            return Calibration.of(config.section("classifier")).is_cost
        return super().takes_part(config)

    def inputs(self, context: StageContext) -> dict[str, Any]:
        settings, given, builder = context.settings, context.config.given, context.builder
        # The weights alone do not say how the network uses them, nor what a label means.
        dataset = dataset_input(given["train_dataset"], builder.files("all"))
        dataset.pop("transforms", None)
        labels = context.classes.label_names
        features = settings.zero_shot.features.model_dump(exclude={"normalize", "transforms"})
        inputs = {"features": features, "transforms": builder.feature_transforms or None,
                  "data": builder.fingerprint(), "train_dataset": dataset,
                  "model": without_pretrained(given["model"]),
                  "label_names": labels, "class_names": labels and context.classes.names}
        if settings.precision != "fp32":
            inputs.update(precision=settings.precision, amp_level=settings.amp_level)
        if settings.zero_shot.classifier_layer:
            inputs["classifier_layer"] = settings.zero_shot.classifier_layer
        return inputs

    def check(self, context: StageContext) -> None:
        place = "zero_shot.features" if context.settings.zero_shot.features.transforms \
            else "val_dataset"
        try:
            context.builder.feature_dataset.tried()
        except UserError as error:
            raise UserError(f"`{place}.transforms`, by which features are taken of training "
                            f"images: {error}") from error

    def run(self, context: StageContext) -> dict[str, Any]:
        dataset, features = context.builder.feature_dataset, context.settings.zero_shot.features
        sampler = BottomKSampler(len(context.classes), features.samples_per_class,
                                 dataset.ignore_index, features.dtype)
        fill(sampler, context.builder.feature_extractor(context.segmentor), dataset,
             context.seed(self.name), context.settings.num_workers)
        sampler.merge_processes()
        bank = sampler.bank() if parallel.is_first() else None
        context.files.begin(self.name)
        if bank is not None:
            bank.save(context.files.output(self.name))
            absent = context.classes.absent(bank.counts)
            if absent:
                logger.warning(f"no training pixel of {', '.join(absent)}: nothing real to learn "
                               f"from")
            logger.info(f"[features] {bank.counts.sum()} features of {bank.feature_dim} channels "
                        f"from {len(dataset)} images, {np.count_nonzero(bank.counts)} seen classes")
        parallel.barrier()
        return {"labels_drawn": dataset.labels_drawn()}


def fill(sampler: BottomKSampler, extractor: FeatureExtractor, dataset: paddle.io.Dataset,
         seed: int, num_workers: int = 0) -> None:
    """Offer the features of the images of ``dataset`` to ``sampler``: each process its share."""
    for index, data in read_in_turn(shard(dataset), num_workers, "features"):
        features = extractor(data["img"])
        label = data["label"].numpy()
        labels = labels_at(label.reshape(label.shape[-2:]), features.shape[2:])
        offer(sampler, features, labels.reshape(-1), [seed, index])


def offer(sampler: BottomKSampler, features: paddle.Tensor, labels: np.ndarray,
          seed: list[int]) -> None:
    """Offer the features [1, D, h, w] of an image with ``labels`` [h·w] to ``sampler``."""
    positions, classes, keys = sampler.candidates(labels, seed)
    if not len(positions):
        return
    pixels = features.reshape([features.shape[1], -1])
    chosen = pixels.gather(paddle.to_tensor(positions), axis=1)
    sampler.add(chosen.numpy().T, classes, keys)
