"""Speed of ZeroShotEvaluator.update against PaddleSeg's calculate_area and np.bincount.

    python benchmarks/evaluator.py

All count the same predictions and labels in one process, turn by turn, so that other load falls
on all alike. Prints the median times and their ratios. ``calculate_area`` is PaddleSeg's own, not
the mended one of ``paddle_csrl.compat``: it concatenates 0-D tensors, which Paddle no longer
takes, so that it is given ``stack`` in the place of ``concat``. ``np.bincount`` counts pairs of a
label and a prediction as is usual, without a look at the ids: all labels below C, pairs
``label * C + pred`` to be made first, or there already.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import cv2  # noqa: F401  Paddle 2 must be imported after cv2 and PIL
import numpy as np
import paddle
from paddleseg.utils.metrics import calculate_area  # before paddle_csrl mends it
from PIL import Image  # noqa: F401

from paddle_csrl.metrics import ZeroShotEvaluator


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 60, 150])
    parser.add_argument("--size", type=int, default=512, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    paddle.device.set_device("cpu")
    print(f"paddle {paddle.__version__}, {args.size} x {args.size}, median of {args.repeats}")
    rng = np.random.default_rng(0)
    for classes in args.classes:
        shape = (1, args.size, args.size)
        pred = rng.integers(0, classes, shape)
        label = np.where(rng.random(shape) < 0.05, 255, rng.integers(0, classes, shape))
        tensors = paddle.to_tensor(pred), paddle.to_tensor(label)
        evaluator = ZeroShotEvaluator(classes, [0])
        known = np.where(label == 255, 0, label)
        pairs = (known * classes + pred).ravel()

        def stock() -> None:
            with mock.patch.object(paddle, "concat", paddle.stack):
                calculate_area(*tensors, classes)

        counted = [lambda: evaluator.update(pred, label), stock,
                   lambda: np.bincount((known * classes + pred).ravel(), minlength=classes**2),
                   lambda: np.bincount(pairs, minlength=classes**2)]
        turns = [[seconds(count) for count in counted] for _ in range(args.repeats)]
        ours, theirs, naive, ready = map(statistics.median, zip(*turns))
        print(f"{classes:4d} classes: calculate_area {1e3 * theirs:7.2f} ms, "
              f"ZeroShotEvaluator {1e3 * ours:5.2f} ms, {theirs / ours:.0f} times faster (target "
              f">= 100); {ours / naive:.2f} of np.bincount (target <= 1.2), {ours / ready:.2f} "
              f"of it with the pairs there")


if __name__ == "__main__":
    main()
