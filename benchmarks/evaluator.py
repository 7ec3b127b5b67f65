"""Speed of ZeroShotEvaluator.update against PaddleSeg's calculate_area and np.bincount.

    python benchmarks/evaluator.py

All count the same predictions and labels in one process, turn by turn, so that other load falls
on all alike. Prints the median times and their ratios, of random ids, int64, and of regions as in
an image that is scored: int32 and uint8, of which PaddleSeg's loop makes an int64 label first.
``calculate_area`` is PaddleSeg's own, not the mended one of ``paddle_csrl.compat``: it concatenates
0-D tensors, which Paddle no longer takes, so that it is given ``stack`` in the place of ``concat``.
``np.bincount`` counts pairs of a label and a prediction as is usual, without a look at the ids: all
labels below C, pairs ``label * C + pred`` to be made first, or there already.
"""

import argparse
import statistics
import sys
from unittest import mock

import _path  # noqa: F401
import cv2
import numpy as np
import paddle
from _measure import at_least, at_most, seconds, status
from paddleseg.utils.metrics import calculate_area  # before paddle_csrl mends it
from PIL import Image  # noqa: F401  Paddle 2 must be imported after it and cv2

from paddle_csrl.metrics import ZeroShotEvaluator


def random_ids(rng: np.random.Generator, classes: int, size: int) -> tuple[np.ndarray, ...]:
    """Prediction and label, int64 [1, size, size], no two pixels of which belong together."""
    shape = (1, size, size)
    label = np.where(rng.random(shape) < 0.05, 255, rng.integers(0, classes, shape))
    return rng.integers(0, classes, shape), label


def regions(rng: np.random.Generator, classes: int, size: int) -> tuple[np.ndarray, ...]:
    """Prediction, int32, and label, uint8 [1, size, size]: ellipses with their edges unlabelled.

    The prediction is the argmax of their blurred masks with noise at an eighth of the size, as of a
    network, so that its regions end elsewhere, and some are of another class.
    """
    label = np.zeros((size, size), np.uint8)
    for class_id in rng.integers(1, classes, 5).tolist():
        center, axes = rng.integers(0, size, 2), rng.integers(size // 16, size // 3, 2)
        ellipse = (center.tolist(), axes.tolist(), rng.uniform(0, 360), 0, 360)
        cv2.ellipse(label, *ellipse, class_id, -1)
        cv2.ellipse(label, *ellipse, 255, 4)
    coarse = cv2.resize(label, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_NEAREST)
    present = np.setdiff1d(label, [255])
    logits = np.stack([coarse == class_id for class_id in present], axis=2)
    logits = cv2.resize(logits + rng.normal(0, 0.3, logits.shape), (size, size))
    return present[logits.argmax(axis=2)].astype(np.int32)[None], label[None]


def compare(kind: str, classes: int, pred: np.ndarray, label: np.ndarray, repeats: int) -> None:
    tensors = paddle.to_tensor(pred), paddle.to_tensor(label.astype(np.int64))
    evaluator = ZeroShotEvaluator(classes, [0])
    known = np.where(label == 255, 0, label).astype(np.int64)
    pairs = (known * classes + pred).ravel()

    def stock() -> None:
        with mock.patch.object(paddle, "concat", paddle.stack):
            calculate_area(*tensors, classes)

    counted = [lambda: evaluator.update(pred, label), stock,
               lambda: np.bincount((known * classes + pred).ravel(), minlength=classes**2),
               lambda: np.bincount(pairs, minlength=classes**2)]
    turns = [[seconds(count) for count in counted] for _ in range(repeats)]
    ours, theirs, naive, ready = map(statistics.median, zip(*turns))
    print(f"{kind}, {classes:3d} classes: calculate_area {1e3 * theirs:6.2f} ms, ZeroShotEvaluator "
          f"{1e3 * ours:.2f} ms, {theirs / ours:.0f} times faster "
          f"({at_least(theirs / ours, 100)}); {ours / naive:.2f} of np.bincount "
          f"({at_most(ours / naive, 1.2)}), {ours / ready:.2f} of it with the pairs there",
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 60, 150])
    parser.add_argument("--size", type=int, default=512, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    paddle.device.set_device("cpu")
    print(f"paddle {paddle.__version__}, {args.size} x {args.size}, median of {args.repeats}")
    for kind, make in (("random ids", random_ids), ("regions", regions)):
        for classes in args.classes:
            compare(kind, classes, *make(np.random.default_rng(0), classes, args.size),
                    args.repeats)


if __name__ == "__main__":
    main()
    sys.exit(status())
