"""Stages 2 and 3 on a finished bank against the inner loop of ZS3Net.

    make benchmark-zs3net        # with PyTorch, which the loop is in: tests/helpers/zs3_loop.py

Ours are the generator and the classifier of configs/csrl_voc_unseen2.yml, on a bank of the size of
Pascal VOC's: read and standardize it, train the generator, generate, train the last layer, and
calibrate it. Of a run only the files are left out: logs, checkpoints, pictures, the segmentor. With
``--full`` a turn does all of it; else it leaves out most iterations, for each of which it takes the
mean time of the others.

ZS3Net's loop does a batch at a turn: 8 images, features of 78 × 78 at stride 4 of 312 × 312. All
batches cost the same and are multiplied. Where its description leaves a choice, the cheaper one is
taken: the background and two objects an image (Pascal VOC has 1.5 on average, and fewer classes
mean fewer steps for as many pixels), none unseen (such images train no generator), and the last
layer's loss at stride 4. The pass of DeepLabV3+ on ResNet-101 (tests/helpers/zs3_network.py; no
gradient, output stride 16), which gives the features and which the loop repeats for every batch, is
timed apart.

Both get the same embeddings, 300-d, and the loop as many batches as have the feature samples of
ours. There are two ways to count those of the generator, and the ratio depends on it:

compared: features that the loss compares with real ones. Ours are 128 for each seen class and
    update, ZS3Net's 128 for each class of an image.
generated: all features made. Ours are 128 for each class and update, and those for the last layer;
    ZS3Net's one for every pixel, most of which no loss sees.

The last layer's are those in its loss, with both counts. Backbone passes are those of the
generator's batches. Both sides take turns in one process, with as many threads as OMP_NUM_THREADS
says; what ``paddle_csrl`` sets for the allocation of memory there serves both. Ratios are medians
over the turns.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from _measure import seconds
from _path import ROOT

import paddle_csrl  # noqa: F401  (first: it sets up the MKL that Paddle loads)

# isort: split
import paddle

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.classifier import calibrated_layer, train_classifier
from paddle_csrl.stages.fit import fit
from paddle_csrl.stages.generator import generate, train_generator
from paddle_csrl.stages.seen_cost import settled

CLASSES, UNSEEN_IDS, EMBED, FEATURE = 21, np.array([10, 14]), 300, 256
SEEN_IDS = np.setdiff1d(np.arange(CLASSES), UNSEEN_IDS)
#: Of ZS3Net: images of a batch, their size, and that of their features.
BATCH, IMAGE, MAP = 8, 312, 78
#: How many iterations of ours a turn does without ``--full``.
SHORT = 40
MILLION = 10 ** 6


class Samples(NamedTuple):
    """Feature samples: compared and generated in training the generator, and classified."""
    compared: int
    generated: int
    classified: int


def make_bank(samples: int) -> FeatureBank:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(SEEN_IDS), samples, FEATURE), np.float32)
    features += rng.standard_normal((len(SEEN_IDS), 1, FEATURE), np.float32)
    counts = np.where(np.isin(np.arange(CLASSES), SEEN_IDS), samples, 0)
    return FeatureBank(features.reshape(-1, FEATURE), counts, counts)


class Ours:
    """Stages 2 and 3 as ``config`` says."""

    def __init__(self, config: ZeroShotConfig, embeddings: np.ndarray, folder: str, full: bool):
        self.embeddings, self.full = embeddings, full
        self.sections = {name: config.section(name) for name in ("generator", "classifier")}
        self.path = os.path.join(folder, "bank.npz")
        make_bank(config.settings.zero_shot.features.samples_per_class).save(self.path)

    @property
    def samples(self) -> Samples:
        generator, classifier = self.sections.values()
        updates = generator.iters * generator.num_samples
        return Samples(updates * len(SEEN_IDS),
                       updates * CLASSES + classifier.num_generated * len(UNSEEN_IDS),
                       classifier.iters * classifier.batch_size)

    def turn(self) -> float:
        """Seconds of both stages."""
        start, times = time.perf_counter(), {}
        generator, classifier = (self._section(name) for name in self.sections)
        raw = FeatureBank.load(self.path)
        scale = raw.scale()
        bank = raw.scaled(scale)
        task = train_generator(generator, self.embeddings, bank, UNSEEN_IDS, 0,
                               fit=self._timed("generator", times))
        generated = generate(task, classifier.num_generated, 0)
        layer = train_classifier(classifier, bank, generated, UNSEEN_IDS, 0,
                                 fit=self._timed("classifier", times))
        wanted = settled(Calibration.of(classifier), bank, self.embeddings, len(UNSEEN_IDS),
                         bank.moments())
        calibrated_layer(wanted, layer, bank, scale, UNSEEN_IDS, None)
        return time.perf_counter() - start + sum(
            (section.iters - len(times[name])) * np.diff(times[name]).mean()
            for name, section in self.sections.items())

    def _section(self, name: str) -> Any:
        section = self.sections[name]
        return section if self.full else section.model_copy(
            update={"iters": min(SHORT, section.iters)})

    @staticmethod
    def _timed(name: str, times: dict[str, list[float]]) -> Callable[..., None]:
        """``fit``, which notes the time after every iteration."""
        times[name] = []
        return partial(fit, callbacks=[lambda _: times[name].append(time.perf_counter())])


class ZS3Net:
    """The loop on one batch, over and over."""

    def __init__(self, embeddings: np.ndarray):
        import torch

        sys.path.insert(0, os.path.join(ROOT, "tests"))
        from helpers import zs3_loop, zs3_network

        self.torch = torch
        torch.manual_seed(0)
        self.loop = zs3_loop.Loop(torch.from_numpy(embeddings), UNSEEN_IDS)
        self.network = zs3_network.DeepLab()
        self.network.decoder.pred_conv = torch.nn.Identity()
        self.images = torch.randn(BATCH, 3, IMAGE, IMAGE)
        self.real = 0.3 * torch.randn(BATCH, FEATURE, MAP, MAP).relu()
        self.labels = torch.zeros(BATCH, MAP, MAP, dtype=torch.int64)
        rng = np.random.default_rng(0)
        for label in self.labels:
            label[:MAP // 2, :MAP // 2], label[MAP // 2:, MAP // 2:] = rng.choice(
                SEEN_IDS[1:], 2, replace=False)
        pixels = self.labels.numel()
        self.steps = self.loop.generator_steps(self.real, self.labels)  # and it is warm
        self.samples = Samples(self.steps * zs3_loop.COMPARED, pixels, pixels)

    def generator_steps(self) -> None:
        self.loop.generator_steps(self.real, self.labels)

    def layer_step(self) -> None:
        self.loop.layer_step(self.real, self.labels)

    def backbone(self) -> None:
        """In training mode, as the loop has it."""
        with self.torch.no_grad():
            low, high = self.network.backbone(self.images)
            features = self.network.decoder(low, self.network.aspp(high))
        assert features.shape == self.real.shape


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=3, help="repetitions (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="all iterations of ours in every turn")
    args = parser.parse_args(argv)
    if not importlib.util.find_spec("torch"):
        print("ZS3Net's loop: skipped, for it needs PyTorch: make benchmark-zs3net")
        return
    paddle.set_device("cpu")
    embeddings = np.random.default_rng(1).standard_normal((CLASSES, EMBED), np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    config = ZeroShotConfig(os.path.join(ROOT, "configs", "csrl_voc_unseen2.yml"))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Ours(config, embeddings, folder, args.full), ZS3Net(embeddings)
        table = np.array([[ours.turn(), *map(seconds, (
            theirs.generator_steps, theirs.layer_step, theirs.backbone))]
            for _ in range(args.turns)])
    report(table, ours.samples, theirs.samples, theirs.steps)


def report(table: np.ndarray, ours: Samples, theirs: Samples, steps: int) -> None:
    """Print ratios, of seconds [turns, 4]: ours whole; of a batch of the loop its three parts."""
    whole, generator, layer, backbone = table.T
    middle = statistics.median
    print(f"stages 2 and 3: {middle(whole):.0f} s; a batch of ZS3Net's loop: generator "
          f"{middle(generator):.2f} s ({1e3 * middle(generator) / steps:.0f} ms a class), last "
          f"layer {middle(layer):.2f} s, backbone {middle(backbone):.1f} s")
    of_layer = layer * ours.classified / theirs.classified
    for count in ("compared", "generated"):
        wanted = getattr(ours, count)
        batches = wanted / getattr(theirs, count)
        loop = generator * batches + of_layer
        both = loop + backbone * batches
        million = (wanted + ours.classified) / MILLION
        print(f"  for {wanted / MILLION:.2f} million features {count} and "
              f"{ours.classified / MILLION:.2f} classified, {batches:,.0f} batches; seconds a "
              f"million: ours {middle(whole) / million:.1f}, loop {middle(loop) / million:.1f}, "
              f"with backbone passes {middle(both) / million:.0f}; ratios "
              f"{middle(loop / whole):.1f} (target >= 20) and {middle(both / whole):.0f} "
              f"(target >= 100)")


if __name__ == "__main__":
    main()
