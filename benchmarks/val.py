"""Speed of tools/val.py against PaddleSeg's evaluate.

    OMP_NUM_THREADS=1 python benchmarks/val.py

Both score the same network on the same fabricated images, reading included and one image at a
time, in turns, so that other load falls on both alike. PaddleSeg's runs twice: in a process as it
comes, and in one with the settings of `import paddle_csrl` for MKL and malloc, which ours has. It
counts with its own ``calculate_area``, which is given ``stack`` in the place of ``concat``, for
Paddle no longer concatenates its 0-D tensors. Prints the median times per image and their ratios.
"""

import argparse
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from unittest import mock

import _path  # noqa: F401

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import cv2
import numpy as np
import paddle
import paddleseg.core
from _measure import at_most, status
from _processes import AS_IT_COMES, Side, turns
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize
from paddleseg.utils import metrics
from predict import CLASSES, NETWORKS, start

from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator


def make_dataset(root: str, count: int, height: int, width: int) -> None:
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


def scorer(side: str, name: str, root: str, size: Sequence[int]) -> Callable[[], None]:
    """What scores the images at ``root``, for a process of its own."""
    paddle.set_device("cpu")
    paddle.seed(0)
    network = NETWORKS[name]()
    dataset = Dataset("val", root, [Normalize()], CLASSES, val_path=f"{root}/val.txt")
    if side == "ours":
        return lambda: evaluate(network, dataset, ZeroShotEvaluator(CLASSES, [3, 7]))

    # PaddleSeg's own, which paddle_csrl has replaced in the module that is loaded.
    calculate_area = runpy.run_path(metrics.__file__)["calculate_area"]

    def counted(*args: object, **options: object) -> tuple:
        with mock.patch.object(paddle, "concat", paddle.stack):
            return calculate_area(*args, **options)

    mock.patch.object(metrics, "calculate_area", counted).start()
    mock.patch("paddleseg.core.val.progbar").start()
    return lambda: paddleseg.core.evaluate(network, dataset, print_detail=False)


def compare(name: str, root: str, args: argparse.Namespace) -> None:
    common = name, root, args.size
    with (Side(scorer, "ours", *common) as ours,
          Side(scorer, "stock", *common, environ=AS_IT_COMES) as stock,
          Side(scorer, "stock", *common) as with_settings):
        table = np.array(turns([ours, stock, with_settings], [()] * (args.repeats + 1)))
    ratios = [np.median(table[:, 0] / table[:, column]) for column in (1, 2)]
    times = 1e3 * np.median(table, axis=0) / args.images
    print(f"network for {name}: PaddleSeg's evaluate {times[1]:.0f} ms an image, tools/val.py "
          f"{times[0]:.0f} ms, ratio {ratios[0]:.2f} ({at_most(ratios[0], 0.8)}); with our "
          f"settings of the process PaddleSeg's {times[2]:.0f} ms, ratio {ratios[1]:.2f}",
          flush=True)


def main() -> None:
    args = start(__doc__)
    with tempfile.TemporaryDirectory() as root:
        make_dataset(root, args.images, *args.size)
        for name in args.networks:
            compare(name, root, args)


if __name__ == "__main__":
    main()
    sys.exit(status())
