"""The MMD of all classes at once against a loop over the classes; the memory that it takes.

    OMP_NUM_THREADS=1 python benchmarks/mmd.py

The loop is the formula as one writes it down, class by class, with Paddle's gradient: one matrix
of squared distances over generated and real features, one exponential for each bandwidth. Both get
the same features and are timed in turns in one process; values and gradients are compared. Memory
is the growth of the process's peak during an update, in a process of its own for each number of
classes.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import _path  # noqa: F401
import numpy as np
from _measure import at_least, peak_memory, status

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import paddle
from paddle import Tensor

from paddle_csrl.losses import MMDLoss
from paddle_csrl.losses.mmd_loss import ZS3NET_BANDWIDTHS
from paddle_csrl.losses.mmd_on_host import BLOCK_SIZE

SAMPLES, FEATURE = 128, 256


def loop(generated: Tensor, real: Tensor) -> Tensor:
    """Return the mean over classes of the squared MMD, class by class."""
    values = []
    for x, y in zip(generated, real):
        both, count = paddle.concat([x, y]), len(x)
        norms = (both * both).sum(axis=1, keepdim=True)
        distances = (norms + norms.t() - 2 * paddle.matmul(both, both, transpose_y=True)).clip(0)
        kernel = sum(paddle.exp(-distances / (2 * v)) for v in ZS3NET_BANDWIDTHS)
        values.append(kernel[:count, :count].mean() + kernel[count:, count:].mean()
                      - 2 * kernel[:count, count:].mean())
    return paddle.stack(values).mean()


def features(classes: int) -> tuple[Tensor, Tensor]:
    # Distances about as large as the bandwidths, as those of standardized features of ZS3Net.
    made, real = (0.2 * paddle.randn([classes, SAMPLES, FEATURE]) for _ in range(2))
    made.stop_gradient = False
    return made, real


def step(loss: Callable[[Tensor, Tensor], Tensor], made: Tensor, real: Tensor) -> float:
    """Compute a loss and its gradient; return the seconds that took."""
    made.clear_gradient()
    start = time.perf_counter()
    loss(made, real).backward()
    return time.perf_counter() - start


def compare(classes: int, turns: int) -> None:
    made, real = features(classes)
    losses, results = (MMDLoss(), loop), []
    for loss in losses:
        step(loss, made, real)
        results.append((float(loss(made, real)), made.grad.numpy()))
    error = np.abs(results[0][1] - results[1][1]).max() / np.abs(results[1][1]).max()
    times = [[step(loss, made, real) for loss in losses] for _ in range(turns)]
    ours, theirs = (1e3 * statistics.median(column) for column in zip(*times))
    ratio = statistics.median(slow / fast for fast, slow in times)
    print(f"MMD, {classes} classes: {ours:.1f} ms, class by class {theirs:.1f} ms, {ratio:.1f} "
          f"times as long ({at_least(ratio, 4)}); values {results[0][0]:.6f} and "
          f"{results[1][0]:.6f}, gradients within {error:.0e}")


def peak(classes: int) -> None:
    """Print the growth of the peak, in MiB, during one update; for a process of its own."""
    loss, (made, real) = MMDLoss(), features(classes)
    step(loss, *features(2))
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak is what is held now
    before = peak_memory()
    step(loss, made, real)
    print((peak_memory() - before) / 2**20)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--peak", type=int, metavar="CLASSES", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    paddle.set_device("cpu")
    paddle.seed(0)
    if args.peak:
        peak(args.peak)
        return
    for classes in (21, 60):
        compare(classes, args.turns)
    for classes in (60, 600):
        found = subprocess.run([sys.executable, __file__, "--peak", str(classes)], check=True,
                               capture_output=True, text=True).stdout
        size = 4 * classes * SAMPLES * FEATURE / 2**20
        print(f"memory of an update, {classes} classes: {float(found.split()[-1]):.0f} MiB beside "
              f"{2 * size:.0f} MiB of features; their gradient is {size:.0f} MiB, kernels are held "
              f"for {BLOCK_SIZE * 4 / 2**20:.1f} MiB of classes at a time")


if __name__ == "__main__":
    main()
    sys.exit(status())
