"""Speed, memory and size of the feature bank.

    OMP_NUM_THREADS=1 python benchmarks/feature_bank.py

Three checks on fabricated images; the exit status is 1 if one fails:

1. Extraction, reading of the image files and sampling included, next to the bare forward pass of
   the same network over the same images, already in memory; a few images at a turn, in one
   process. The median of bare / extraction is at least 0.97. Extraction leaves out what lies
   behind the features, so that the ratio may be above 1; next to the forward pass up to there
   alone, printed beside it, it cannot.
2. The peak growth of resident memory over 6,000 images is at most 1.2 times that over 60.
3. The bank of Pascal VOC, 21 classes of 8192 features of 256 channels, as a file: <= 1 GiB.
"""

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable

import _path  # noqa: F401
import numpy as np
from _measure import at_least, at_most, status
from growth import in_fork

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import cv2
import paddle
from paddleseg.datasets import Dataset
from paddleseg.models import DeepLabV3P, ResNet50_vd
from paddleseg.transforms import Normalize

from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.config.schema import Features
from paddle_csrl.models.efficientnet_lite import EfficientNetLite0
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.models.segformer import FusedSegFormer
from paddle_csrl.stages.features import fill

SAMPLES_PER_CLASS = Features().samples_per_class
CLASSES, FEATURE, TARGET_RATIO, MAX_GIB = 21, 256, 0.97, 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
BOUND = 2048  # for the check of memory, whose 60 images have four times as many of each class
#: The network of configs/csrl_custom.yml, and a large one as of Pascal VOC; their images' size.
NETWORKS: dict[str, tuple[Callable[[], paddle.nn.Layer], tuple[int, int]]] = {
    "photographs": (lambda: FusedSegFormer(CLASSES, EfficientNetLite0(), 256), (375, 500)),
    "ResNet-50": (lambda: DeepLabV3P(CLASSES, ResNet50_vd()), (256, 256))}


class Repeated(paddle.io.Dataset):
    """``count`` items of a data set, from its beginning again when it ends."""

    def __init__(self, dataset: paddle.io.Dataset, count: int):
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index % len(self.dataset)]


def make_dataset(root: str, count: int, height: int, width: int,
                 classes: int = CLASSES) -> Dataset:
    """Images of noise and labels of squares, all classes in each, as files."""
    rng = np.random.default_rng(0)
    os.makedirs(root)
    lines = []
    for index in range(count):
        image = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
        label = cv2.resize(rng.integers(0, classes, (8, 8)).astype(np.uint8), (width, height),
                           interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(os.path.join(root, f"{index}.jpg"), cv2.resize(image, (width, height)))
        cv2.imwrite(os.path.join(root, f"{index}.png"), label)
        lines.append(f"{index}.jpg {index}.png\n")
    with open(os.path.join(root, "train.txt"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    return Dataset("train", root, [Normalize()], classes, train_path=f"{root}/train.txt")


def compare_speed(name: str, root: str, images: int, repeats: int) -> None:
    """Print the times of extraction and of the bare forward pass, and their ratio."""
    make_model, size = NETWORKS[name]
    model = make_model()
    dataset = make_dataset(os.path.join(root, name), images * (repeats + 1), *size)
    extractor = FeatureExtractor(model, CLASSES)
    sampler = BottomKSampler(CLASSES, SAMPLES_PER_CLASS, dataset.ignore_index)

    def seconds(function: Callable[[paddle.Tensor], object]) -> float:
        start = time.perf_counter()
        for tensor in tensors:
            function(tensor)
        return (time.perf_counter() - start) / images

    turns = []
    for first in range(0, len(dataset), images):
        part = paddle.io.Subset(dataset, list(range(first, first + images)))
        tensors = [paddle.to_tensor(item["img"][None]) for item in part]
        with paddle.no_grad():
            model.eval()
            turns.append([seconds(model), seconds(extractor)])
        start = time.perf_counter()
        fill(sampler, extractor, part, seed=0)
        turns[-1].append((time.perf_counter() - start) / images)
    turns = np.array(turns[1:])  # the first warms up
    whole, partial = np.median(turns[:, :2] / turns[:, 2:], axis=0)
    times = "{:.0f} ms, up to the features {:.0f} ms, extraction {:.0f} ms".format(
        *1e3 * np.median(turns, axis=0))
    print(f"network {name}, {size[0]} x {size[1]}: bare forward {times} an image; bare / "
          f"extraction {whole:.2f} ({at_least(whole, TARGET_RATIO)}), up to the features "
          f"{partial:.2f}", flush=True)


class Pixels(paddle.nn.Layer):
    """A model that costs little, so that many images can be fed: a feature for each pixel."""

    def __init__(self):
        super().__init__()
        self.features = paddle.nn.Conv2D(3, FEATURE, 1)
        self.classes = paddle.nn.Conv2D(FEATURE, CLASSES, 1)

    def forward(self, images: paddle.Tensor) -> list:
        return [self.classes(self.features(images))]


def fill_small(dataset: Dataset, count: int) -> None:
    """Fill a bank of ``BOUND`` features a class from ``count`` images."""
    # Arrays of 256 KiB and more go back to the system when they are freed: what glibc's heap
    # keeps, more of it the longer a process runs, is no memory that is in use.
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(option, 2**18)
    sampler = BottomKSampler(CLASSES, BOUND, dataset.ignore_index)
    fill(sampler, FeatureExtractor(Pixels(), CLASSES), Repeated(dataset, count), seed=0)
    sampler.bank()


def compare_memory(root: str, few: int, many: int) -> None:
    """Print peak growth over ``few`` and over ``many`` small images."""
    dataset = make_dataset(os.path.join(root, "small"), few, 64, 64)
    growth = [in_fork(fill_small, dataset, count)[1] / 2**20 for count in (few, many)]
    print(f"peak growth of resident memory: {growth[0]:.0f} MiB over {few} images, "
          f"{growth[1]:.0f} MiB over {many}, ratio {growth[1] / growth[0]:.2f} "
          f"({at_most(growth[1] / growth[0], 1.2)}), for a bank of "
          f"{CLASSES * BOUND * FEATURE * 4 / 2**20:.0f} MiB", flush=True)


def save_bank_of_voc(root: str) -> None:
    """Save a bank of Pascal VOC's size; print the GiB of its file."""
    counts = np.full(CLASSES, SAMPLES_PER_CLASS)
    path = os.path.join(root, "bank.npz")
    features = np.zeros((counts.sum(), FEATURE), np.float32)
    FeatureBank(features, counts, counts).save(path)
    size = os.path.getsize(path) / 2**30
    print(f"bank of {CLASSES} classes x {SAMPLES_PER_CLASS} x {FEATURE}: {size:.3f} GiB "
          f"({at_most(size, MAX_GIB)})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=12, help="images of a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--many", type=int, default=6000, help="images of the check of memory")
    args = parser.parse_args()

    paddle.set_device("cpu")
    print(f"paddle {paddle.__version__}, median of {args.repeats} turns of {args.images}",
          flush=True)
    with tempfile.TemporaryDirectory() as root:
        compare_memory(root, 60, args.many)
        paddle.seed(0)
        for name in args.networks:
            compare_speed(name, root, args.images, args.repeats)
        save_bank_of_voc(root)
    return status()


if __name__ == "__main__":
    sys.exit(main())
