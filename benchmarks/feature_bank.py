"""Speed, memory and size of the feature bank.

    OMP_NUM_THREADS=1 python benchmarks/feature_bank.py

Three checks on fabricated images, with a stock DeepLabV3+ on ResNet-50; the exit status is 1 if
one fails:

1. Extraction, reading the image file and sampling included, next to the bare forward pass of the
   whole model on the same tensor, already in memory; in turns, image by image, in one process.
   The median of bare / extraction is at least 0.85.
2. The peak growth of resident memory over 10 times the images is the same, but for half a bank.
3. The bank of Pascal VOC, 21 classes of 8192 features of 256 channels, as a file: <= 1 GiB.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import cv2  # noqa: E402
import paddle  # noqa: E402
from paddleseg.datasets import Dataset  # noqa: E402
from paddleseg.models import DeepLabV3P, ResNet50_vd  # noqa: E402
from paddleseg.transforms import Normalize  # noqa: E402

import paddle_csrl  # noqa: E402, F401  (first: it orders the imports of cv2 and paddle)
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank  # noqa: E402
from paddle_csrl.config.schema import Features  # noqa: E402
from paddle_csrl.models.last_layer import FeatureExtractor  # noqa: E402
from paddle_csrl.stages.features import fill  # noqa: E402

SAMPLES_PER_CLASS = Features().samples_per_class
CLASSES, FEATURE, TARGET_RATIO, MAX_GIB = 21, 256, 0.85, 1.0


class Repeated(paddle.io.Dataset):
    """``count`` items of a data set, from its beginning again when it ends."""

    def __init__(self, dataset: paddle.io.Dataset, count: int):
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index % len(self.dataset)]


def make_dataset(root: str, count: int, size: int) -> Dataset:
    """Images of noise and labels of squares, all classes in each, as files."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        image = cv2.resize(rng.integers(0, 256, (size // 8, size // 8, 3)).astype(np.uint8),
                           (size, size))
        label = cv2.resize(rng.integers(0, CLASSES, (8, 8)).astype(np.uint8), (size, size),
                           interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(os.path.join(root, f"{index}.jpg"), image)
        cv2.imwrite(os.path.join(root, f"{index}.png"), label)
        lines.append(f"{index}.jpg {index}.png\n")
    with open(os.path.join(root, "train.txt"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    return Dataset("train", root, [Normalize()], CLASSES, train_path=f"{root}/train.txt")


def compare_speed(model: paddle.nn.Layer, dataset: Dataset) -> float:
    """Print the time of extraction and of the bare forward pass; return bare / extraction."""
    extractor = FeatureExtractor(model, CLASSES)
    sampler = BottomKSampler(CLASSES, SAMPLES_PER_CLASS, dataset.ignore_index)
    bare: list[float] = []
    extraction: list[float] = []
    for index in range(-1, len(dataset)):  # the first turn warms up
        tensor = paddle.to_tensor(dataset[index]["img"][None])
        start = time.perf_counter()
        with paddle.no_grad():
            model.eval()
            model(tensor)
        middle = time.perf_counter()
        fill(sampler, extractor, paddle.io.Subset(dataset, [index]), seed=0)
        extraction.append(time.perf_counter() - middle)
        bare.append(middle - start)
    bare, extraction = np.array(bare[1:]), np.array(extraction[1:])
    ratio = float(np.median(bare / extraction))
    print(f"per image: bare forward {1e3 * np.median(bare):.0f} ms, extraction "
          f"{1e3 * np.median(extraction):.0f} ms; bare / extraction {ratio:.2f} "
          f"(target >= {TARGET_RATIO})", flush=True)
    return ratio


def resident() -> float:
    """Resident memory of this process in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Cells(paddle.nn.Layer):
    """A model that costs little, so that many images can be fed: 4×4 pixels to a feature."""

    def __init__(self):
        super().__init__()
        self.features = paddle.nn.Conv2D(3, FEATURE, 4, stride=4)
        self.classes = paddle.nn.Conv2D(FEATURE, CLASSES, 1)

    def forward(self, images: paddle.Tensor) -> list:
        return [self.classes(self.features(images))]


def peak_growth(dataset: Dataset, count: int, bound: int) -> float:
    """Peak growth of resident memory in MiB while ``count`` images fill a bank."""
    start, peak = resident(), 0.0

    class Watched(Repeated):
        def __getitem__(self, index: int) -> dict:
            nonlocal peak
            peak = max(peak, resident() - start)
            return super().__getitem__(index)

    sampler = BottomKSampler(CLASSES, bound, dataset.ignore_index)
    fill(sampler, FeatureExtractor(Cells(), CLASSES), Watched(dataset, count), seed=0)
    sampler.bank()
    return max(peak, resident() - start)


def compare_memory(dataset: Dataset, count: int) -> bool:
    """Print peak growth over ``count`` and 10 times as many images; whether it stays."""
    bound = 2048
    peak_growth(dataset, count, bound)  # what Paddle's allocator keeps is no growth of ours
    few, many = (peak_growth(dataset, images, bound) for images in (count, 10 * count))
    size = CLASSES * bound * FEATURE * 4 / 2**20
    flat = many <= few + 0.5 * size
    print(f"peak growth of resident memory: {few:.0f} MiB over {count} images, {many:.0f} MiB "
          f"over {10 * count}, for a bank of {size:.0f} MiB", flush=True)
    return flat


def voc_size(root: str) -> float:
    """Save a bank of Pascal VOC's size; print and return the GiB of its file."""
    counts = np.full(CLASSES, SAMPLES_PER_CLASS)
    path = os.path.join(root, "bank.npz")
    features = np.zeros((counts.sum(), FEATURE), np.float32)
    FeatureBank(features, counts, counts).save(path)
    size = os.path.getsize(path) / 2**30
    print(f"bank of {CLASSES} classes x {SAMPLES_PER_CLASS} x {FEATURE}: {size:.3f} GiB "
          f"(target <= {MAX_GIB:g})")
    return size


def checks(args: argparse.Namespace) -> Iterator[bool]:
    with tempfile.TemporaryDirectory() as root:
        dataset = make_dataset(root, args.images, args.size)
        yield compare_memory(dataset, 60)
        paddle.seed(0)
        model = DeepLabV3P(CLASSES, ResNet50_vd())
        yield compare_speed(model, dataset) >= TARGET_RATIO
        yield voc_size(root) <= MAX_GIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--size", type=int, default=256, help="image side in pixels")
    args = parser.parse_args()

    paddle.set_device("cpu")
    print(f"paddle {paddle.__version__}, {args.images} images of {args.size} x {args.size}",
          flush=True)
    return 0 if all(list(checks(args))) else 1


if __name__ == "__main__":
    sys.exit(main())
