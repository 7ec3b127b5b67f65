"""Between stages 1 and 2: the frozen segmentor fills the feature bank, once per image."""

from typing import Any

import numpy as np
import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.datasets.transforms import labels_at
from paddle_csrl.evaluation.evaluate import shard
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.run import Run
from paddle_csrl.stages.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.stages.segmentor import load_segmentor
from paddle_csrl.utils import progress

DEFAULT_SAMPLES_PER_CLASS = 8192


def extract_features(run: Run) -> None:
    """Run the segmentor over the training set and save the bank."""
    builder = run.builder
    dataset = builder.feature_dataset
    extractor = builder.feature_extractor(load_segmentor(run))
    sampler = make_sampler(run.config.zero_shot, dataset.num_classes, dataset.ignore_index)
    fill(sampler, extractor, dataset, run.seed("features"), run.config.option("num_workers", 0))
    sampler.merge_processes()
    bank = sampler.bank() if parallel.is_first() else None
    run.begin("features")
    if bank is not None:
        _save(run, bank, len(dataset))
    parallel.barrier()


def make_sampler(zero_shot: dict[str, Any], num_classes: int,
                 ignore_index: int) -> BottomKSampler:
    """The empty sample that the section ``zero_shot.features`` describes."""
    section = zero_shot.get("features") or {}
    return BottomKSampler(
        num_classes, section.get("samples_per_class", DEFAULT_SAMPLES_PER_CLASS), ignore_index,
        section.get("dtype", "float32"))


def _save(run: Run, bank: FeatureBank, num_images: int) -> None:
    builder = run.builder
    bank.save(run.output("features"))
    missing = [builder.class_names[c] for c in builder.seen_ids if not bank.counts[c]]
    if missing:
        logger.warning(f"no training pixel of {', '.join(missing)}: nothing real to learn from")
    logger.info(f"[features] {bank.counts.sum()} features of {bank.feature_dim} channels "
                f"from {num_images} images, {np.count_nonzero(bank.counts)} seen classes")


def fill(sampler: BottomKSampler, extractor: FeatureExtractor, dataset: paddle.io.Dataset,
         seed: int, num_workers: int = 0) -> None:
    """Offer the features of the images of ``dataset`` to ``sampler``: each process its share."""
    images = shard(dataset)
    loader = paddle.io.DataLoader(images, batch_size=1, num_workers=num_workers,
                                  return_list=True)
    for index, data in zip(images.indices, progress(loader, "features")):
        features = extractor(data["img"])
        labels = labels_at(data["label"].numpy().squeeze(), features.shape[2:])
        offer(sampler, features, labels.reshape(-1), [seed, index])


def offer(sampler: BottomKSampler, features: paddle.Tensor, labels: np.ndarray,
          seed: list[int]) -> None:
    """Offer the features [1, D, h, w] of an image with ``labels`` [h·w] to ``sampler``."""
    positions, classes, keys = sampler.candidates(labels, seed)
    if not len(positions):
        return
    pixels = features.reshape([features.shape[1], -1])
    chosen = pixels.index_select(paddle.to_tensor(positions), axis=1)
    sampler.add(chosen.numpy().T, classes, keys)
