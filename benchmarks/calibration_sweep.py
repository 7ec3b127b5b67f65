"""Time of a seen–unseen curve against that of scoring the layer at each of its calibrations.

    OMP_NUM_THREADS=1 python benchmarks/calibration_sweep.py

Scores layers on images of the embedded data set, once with all calibrations told by the logits
of each layer, and once with every calibration as a layer of its own, which gives the same counts
up to rounding. Both run in one process, turn by turn, so that other load falls on both alike.
Prints the median times, their ratio and the largest share of pixels that is counted otherwise. The
exit status is 1 if the ratio is below 2 or that share above 1e-4.
"""

import argparse
import statistics
import sys
import tempfile

import _path  # noqa: F401

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import numpy as np
import paddle
from _measure import at_least, at_most, status, timed

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.evaluation.layers import score_layers
from paddle_csrl.models.last_layer import read_layer


def shifted(layer: dict[str, np.ndarray], seen_ids: np.ndarray, shift: float) -> dict:
    bias = layer["bias"].copy()
    bias[seen_ids] -= shift
    return {**layer, "bias": bias}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--calibrations", type=int, default=16)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", type=int, default=320, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    paddle.device.set_device("cpu")
    paddle.seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        builder = ZeroShotBuilder(ZeroShotConfig("configs/csrl_shapes.yml", {
            "val_dataset.dataset_root": folder, "train_dataset.dataset_root": folder,
            "val_dataset.num_val": args.images, "val_dataset.image_size": args.size}))
        segmentor, seen_ids = builder.new_segmentor(pretrained=False), builder.classes.seen_ids
        layer = read_layer(builder.classification_layer(segmentor)[1])
        layers = [{name: value + rng.normal(0, 0.1, value.shape).astype(np.float32)
                   for name, value in layer.items()} for _ in range(args.layers)]
        shifts = np.linspace(-0.3, 0.3, args.calibrations)
        one_by_one = [[item, *(shifted(item, seen_ids, shift) for shift in shifts)]
                      for item in layers]
        fast, slow, other = [], [], 0.0
        for _ in range(args.repeats):
            swept, seconds = timed(lambda: score_layers(
                builder, segmentor, layers, [shifts] * len(layers)))
            fast.append(seconds)
            scored, seconds = timed(lambda: score_layers(builder, segmentor, sum(one_by_one, [])))
            slow.append(seconds)
            counts = [item.confusion for own, *points in swept for item in (own, *points[1:-1])]
            for found, (expected,) in zip(counts, scored, strict=True):
                moved = np.abs(found - expected.confusion).sum() / 2
                other = max(other, moved / found.sum())
    ratio = statistics.median(slow) / statistics.median(fast)
    print(f"{args.layers} layers, {args.calibrations} calibrations, {args.images} images of "
          f"{args.size}²: layer by layer {statistics.median(slow):6.2f} s, swept "
          f"{statistics.median(fast):5.2f} s, {ratio:.1f} times faster ({at_least(ratio, 2)}); "
          f"{other:.1e} of the pixels counted otherwise ({at_most(other, 1e-4)})")
    return status()


if __name__ == "__main__":
    sys.exit(main())
