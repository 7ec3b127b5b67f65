"""Speed of ZeroShotEvaluator.update against PaddleSeg's calculate_area.

    python benchmarks/evaluator.py

Both count the same predictions and labels in one process, turn by turn, so that other load
falls on both alike. Prints the median times and their ratio. ``calculate_area`` is PaddleSeg's
own, not the mended one of ``paddle_csrl.compat``: it concatenates 0-D tensors, which Paddle no
longer takes, so that it is given ``stack`` in the place of ``concat``.
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
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(args.repeats):
            ours.append(seconds(lambda: evaluator.update(pred, label)))
            with mock.patch.object(paddle, "concat", paddle.stack):
                theirs.append(seconds(lambda: calculate_area(*tensors, classes)))
        fast, slow = statistics.median(ours), statistics.median(theirs)
        print(f"{classes:4d} classes: calculate_area {1e3 * slow:7.2f} ms, "
              f"ZeroShotEvaluator {1e3 * fast:5.2f} ms, {slow / fast:.0f} times faster")


if __name__ == "__main__":
    main()
