"""Speed and memory of tools/predict.py against PaddleSeg's predict.

    OMP_NUM_THREADS=1 python benchmarks/predict.py

Both predict the same fabricated photographs with the same weights, a few images at a turn, so that
other load falls on both alike; loading weights is left out on both sides. PaddleSeg's runs twice:
in a process as it comes, and in one with the settings of `import paddle_csrl` for MKL and malloc,
which ours has. For each network it prints the median times per image, and how many of ours go to
the network alone. Ours are more: a picture of the class ids, a legend, all of an image's files or
none, and a PNG for the overlay where PaddleSeg writes a JPEG. Last comes the growth of resident
memory over 10 times as many images; with more than half of the smaller one added, the exit status
is 1.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import _path  # noqa: F401

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import cv2
import numpy as np
import paddle
import paddleseg.core
from _measure import at_most, resident, status
from _processes import AS_IT_COMES, Side, turns
from paddleseg.models import DeepLabV3P
from paddleseg.transforms import Compose, Normalize

from paddle_csrl import visualize
from paddle_csrl.classes import ClassTable
from paddle_csrl.deploy.images import ImageReader
from paddle_csrl.deploy.predict import ResultFiles, SegmentorPredictor, predict_images
from paddle_csrl.models.efficientnet_lite import EfficientNetLite0
from paddle_csrl.models.segformer import FusedSegFormer
from paddle_csrl.models.tiny_net import CSRLTinyNet

CLASSES = 21
#: The networks of configs/csrl_shapes.yml and of configs/csrl_custom.yml, for photographs.
NETWORKS: dict[str, Callable[[], paddle.nn.Layer]] = {
    "shapes": lambda: DeepLabV3P(CLASSES, CSRLTinyNet(), (0, 1), aspp_ratios=(1, 2, 4, 6)),
    "photographs": lambda: FusedSegFormer(CLASSES, EfficientNetLite0(), 256)}


def photographs(folder: str, count: int, height: int, width: int) -> list[str]:
    """Write JPEGs of blurred noise, which JPEG and PNG compress about as well as photographs."""
    rng = np.random.default_rng(0)
    paths = [os.path.join(folder, f"{index:04d}.jpg") for index in range(count)]
    for path in paths:
        small = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        cv2.imwrite(path, cv2.GaussianBlur(cv2.resize(small, (width, height)), (0, 0), 3))
    return paths


def list_of(paths: Sequence[str], folder: str) -> str:
    path = os.path.join(folder, "list.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(paths))
    return path


class Tools:
    """Both tools with one network; their pictures go to a folder."""

    def __init__(self, network: paddle.nn.Layer, folder: str):
        network.eval()
        self.network, self.folder = network, folder
        classes = ClassTable([f"class {index}" for index in range(CLASSES)], np.array([3, 7]),
                             visualize.palette(CLASSES))
        self.transforms = Compose([Normalize()])
        self.results = ResultFiles(os.path.join(folder, "ours"), classes)

    def ours(self, paths: Sequence[str]) -> None:
        done = predict_images(list_of(paths, self.folder), self.results,
                              ImageReader(self.transforms), SegmentorPredictor(self.network))
        assert not done["failed"], done

    def stock(self, paths: Sequence[str]) -> None:
        with mock.patch("paddleseg.utils.utils.load_entire_model"):
            paddleseg.core.predict(self.network, "", self.transforms, list(paths),
                                   save_dir=os.path.join(self.folder, "stock"))

    def bare(self, paths: Sequence[str]) -> None:
        """The network and PaddleSeg's choice of the class alone."""
        predictor, reader = SegmentorPredictor(self.network), ImageReader(self.transforms)
        sample = reader(paths[0])
        for _ in paths:
            predictor(sample)


def tool(side: str, name: str, folder: str) -> Callable[[Sequence[str]], None]:
    """A function of ``Tools``, for a process of its own."""
    paddle.set_device("cpu")
    paddle.seed(0)
    mock.patch("paddleseg.core.predict.progbar").start()
    return getattr(Tools(NETWORKS[name](), folder), side)


def compare_speed(name: str, folder: str, batches: Sequence[Sequence[str]]) -> None:
    arguments = [(paths,) for paths in batches]
    with (Side(tool, "ours", name, folder) as ours, Side(tool, "bare", name, folder) as bare,
          Side(tool, "stock", name, folder, environ=AS_IT_COMES) as stock,
          Side(tool, "stock", name, folder) as with_settings):
        table = np.array(turns([ours, stock, with_settings, bare], arguments)) / len(batches[0])
    ratios = [np.median(table[:, 0] / table[:, column]) for column in (1, 2)]
    times = 1e3 * np.median(table, axis=0)
    print(f"network for {name}: PaddleSeg's predict {times[1]:.0f} ms an image, tools/predict.py "
          f"{times[0]:.0f} ms, of them the network {times[3]:.0f} ms; ratio {ratios[0]:.2f} "
          f"({at_most(ratios[0], 0.7)}); with our settings of the process PaddleSeg's "
          f"{times[2]:.0f} ms, ratio {ratios[1]:.2f}", flush=True)


def peak_growth(tools: Tools, paths: Sequence[str]) -> float:
    """Peak growth of resident memory in MiB while ``paths`` are predicted."""
    start = peak = resident()
    write = tools.results.write

    def watched(*args: object) -> None:
        nonlocal peak
        write(*args)
        peak = max(peak, resident())

    with mock.patch.object(tools.results, "write", watched):
        tools.ours(paths)
    return (peak - start) / 2**20


def compare_memory(folder: str, count: int) -> bool:
    """Print peak growth over ``count`` small images and 10 times as many; whether it stays."""
    paths = photographs(folder, 10 * count, 96, 128)
    tools = Tools(NETWORKS["shapes"](), folder)
    peak_growth(tools, paths[:count])  # what Paddle's allocator keeps is no growth of ours
    few, many = peak_growth(tools, paths[:count]), peak_growth(tools, paths)
    print(f"peak growth of resident memory: {few:.1f} MiB over {count} images, {many:.1f} MiB "
          f"over {10 * count}")
    return many <= 1.5 * few + 2


def checks(args: argparse.Namespace) -> Iterator[bool]:
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            paths = photographs(folder, args.images * (args.repeats + 1), *args.size)
            batches = [paths[start::args.repeats + 1] for start in range(args.repeats + 1)]
            compare_speed(name, folder, batches)
    with tempfile.TemporaryDirectory() as folder:
        yield compare_memory(folder, 30)


def start(description: str) -> argparse.Namespace:
    """Read the command line, which val.py has, too, and print what is measured."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=8, help="images of a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], help="height and width")
    args = parser.parse_args()

    paddle.set_device("cpu")
    print(f"paddle {paddle.__version__}, images of {args.size[0]} x {args.size[1]}, median of "
          f"{args.repeats} turns of {args.images}", flush=True)
    return args


def main() -> int:
    return status() if all(list(checks(start(__doc__)))) else 1


if __name__ == "__main__":
    sys.exit(main())
