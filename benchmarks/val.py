"""Speed of tools/val.py against PaddleSeg's evaluate.

    OMP_NUM_THREADS=1 python benchmarks/val.py

Both score the same network on the same fabricated images, reading included and one image at a
time, in one process and in turns, so that other load falls on both alike. Prints the median times
per image and their ratio. PaddleSeg's evaluate counts with its own ``calculate_area``, which is
given ``stack`` in the place of ``concat``, for Paddle no longer concatenates its 0-D tensors; and
once more with the one of ``paddle_csrl.compat`` that replaces it on such a Paddle.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import cv2
import numpy as np
import paddle
import paddleseg.core
from paddleseg.datasets import Dataset
from paddleseg.models import DeepLabV3P
from paddleseg.transforms import Normalize
from paddleseg.utils import metrics

#: PaddleSeg's own, before paddle_csrl mends it.
CALCULATE_AREA = metrics.calculate_area

from paddle_csrl.evaluation.evaluate import evaluate  # noqa: E402
from paddle_csrl.metrics import ZeroShotEvaluator  # noqa: E402
from paddle_csrl.models.efficientnet_lite import EfficientNetLite0  # noqa: E402
from paddle_csrl.models.segformer import FusedSegFormer  # noqa: E402
from paddle_csrl.models.tiny_net import CSRLTinyNet  # noqa: E402

CLASSES = 21
#: The networks of configs/csrl_shapes.yml and of configs/csrl_custom.yml, for photographs.
NETWORKS: dict[str, Callable[[], paddle.nn.Layer]] = {
    "shapes": lambda: DeepLabV3P(CLASSES, CSRLTinyNet(), (0, 1), aspp_ratios=(1, 2, 4, 6)),
    "photographs": lambda: FusedSegFormer(CLASSES, EfficientNetLite0(), 256)}


def make_dataset(root: str, count: int, height: int, width: int) -> Dataset:
    """Blurred noise as JPEGs and labels of rectangles, 5 % of them without a class, as PNGs."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        image = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        cv2.imwrite(os.path.join(root, f"{index}.jpg"),
                    cv2.GaussianBlur(cv2.resize(image, (width, height)), (0, 0), 3))
        label = rng.integers(0, CLASSES, (9, 12)).astype(np.uint8)
        label[rng.random(label.shape) < 0.05] = 255
        cv2.imwrite(os.path.join(root, f"{index}.png"),
                    cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST))
        lines.append(f"{index}.jpg {index}.png\n")
    with open(os.path.join(root, "val.txt"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    return Dataset("val", root, [Normalize()], CLASSES, val_path=f"{root}/val.txt")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    with open(os.devnull, "w", encoding="utf-8") as silent, contextlib.redirect_stdout(silent), \
            mock.patch("paddleseg.core.val.progbar"):
        function()
    return time.perf_counter() - start


def compare(name: str, dataset: Dataset, repeats: int) -> None:
    paddle.seed(0)
    network = NETWORKS[name]()

    def ours() -> None:
        evaluate(network, dataset, ZeroShotEvaluator(CLASSES, [3, 7]))

    def mended() -> None:
        paddleseg.core.evaluate(network, dataset, print_detail=False)

    def stock() -> None:
        def counted(*args: object, **options: object) -> tuple:
            with mock.patch.object(paddle, "concat", paddle.stack):
                return CALCULATE_AREA(*args, **options)

        with mock.patch.object(metrics, "calculate_area", counted):
            mended()

    turns = [[seconds(function) / len(dataset) for function in (ours, stock, mended)]
             for _ in range(repeats + 1)][1:]  # the first warms up
    ratios = [statistics.median(turn[0] / turn[other] for turn in turns) for other in (1, 2)]
    times = [1e3 * statistics.median(part) for part in zip(*turns)]
    print(f"network for {name}: PaddleSeg's evaluate {times[1]:.0f} ms an image, tools/val.py "
          f"{times[0]:.0f} ms, ratio {ratios[0]:.2f} (target <= 0.8); with the mended "
          f"calculate_area {times[2]:.0f} ms, ratio {ratios[1]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], help="height and width")
    args = parser.parse_args()

    paddle.set_device("cpu")
    print(f"paddle {paddle.__version__}, images of {args.size[0]} x {args.size[1]}, median of "
          f"{args.repeats} turns of {args.images}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        dataset = make_dataset(root, args.images, *args.size)
        for name in args.networks:
            compare(name, dataset, args.repeats)


if __name__ == "__main__":
    main()
