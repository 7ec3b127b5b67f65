"""Time of an iteration of stage 1 against PaddleSeg's trainer with its own data set.

    OMP_NUM_THREADS=1 python benchmarks/stage1.py

Both train the network of a config on the same images in one process, a few iterations at a turn,
so that other load falls on both alike. Ours is what tools/train.py runs: the zero-shot data set
with its policy `ignore`, which changes labels and looks for unseen ones, counts what it gives out,
and the checks of every iteration. Theirs is ``paddleseg.core.train`` on the data set as it is;
only what ends it on this Paddle is mended. Time runs from the end of one iteration to the end of
the next; start, checkpoints and evaluation are left out on both sides. Prints the median times
and the median of the turns' ratios.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from unittest import mock

import _path  # noqa: F401
from _measure import at_most, status

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import paddle
import paddleseg.core

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.train import run_stages
from paddle_csrl.run import Run


def seconds_per_iteration(train: Callable[[], object]) -> float:
    ends: list[float] = []
    with mock.patch("paddleseg.utils.train_profiler.add_profiler_step",
                    lambda _: ends.append(time.perf_counter())):
        train()
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def ours(config: ZeroShotConfig) -> Callable[[], object]:
    def train() -> None:
        run_stages(Run(config, restart=True), ["segmentor"])

    return train


def theirs(config: ZeroShotConfig, folder: str) -> Callable[[], object]:
    def train() -> None:
        builder, settings = ZeroShotBuilder(config), config.settings
        builder.model = builder.new_segmentor()
        paddleseg.core.train(
            builder.model, builder.build_component(config.train_dataset_cfg), save_dir=folder,
            optimizer=builder.optimizer, losses=builder.loss, iters=settings.iters,
            batch_size=settings.batch_size, num_workers=settings.num_workers,
            log_iters=settings.log_iters, save_interval=settings.iters)

    return train


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/csrl_shapes.yml")
    parser.add_argument("--iters", type=int, default=20, help="iterations of a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--opts", nargs="+", default=[], help="overrides of the config")
    args = parser.parse_args(argv)

    paddle.set_device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        own = [f"{name}_dataset.{item}" for name in ("train", "val") for item in (
            f"dataset_root={folder}/data", "num_train=200", "num_val=10")]
        config = ZeroShotConfig(args.config, opts=[
            *(own if args.config == parser.get_default("config") else ()),
            f"iters={args.iters}", f"save_interval={args.iters}", "do_eval=False",
            "zero_shot.policy=ignore", *args.opts], overrides={"save_dir": f"{folder}/ours"})
        sides = ours(config), theirs(config, os.path.join(folder, "theirs"))
        turns = []
        with open(os.devnull, "w", encoding="utf-8") as silent, \
                contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            for order in itertools.islice(itertools.cycle([(0, 1), (1, 0)]), args.repeats + 1):
                turns.append([seconds for _, seconds in sorted(
                    (side, seconds_per_iteration(sides[side])) for side in order)])
    ratio = statistics.median(our / their for our, their in turns[1:])  # the first warms up
    our, their = (1e3 * statistics.median(part) for part in zip(*turns[1:]))
    print(f"paddle {paddle.__version__}, {args.repeats} turns of {args.iters} iterations: "
          f"PaddleSeg's trainer {their:.1f} ms an iteration, stage 1 {our:.1f} ms, ratio "
          f"{ratio:.3f} ({at_most(ratio, 1.02)})")


if __name__ == "__main__":
    main()
    sys.exit(status())
