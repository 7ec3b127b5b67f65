"""Growth of time and memory with the number of classes.

    OMP_NUM_THREADS=1 python benchmarks/growth.py
    OMP_NUM_THREADS=1 python benchmarks/growth.py --classes 20 60 171 847 2000 \
        --figure docs/images/speed_growth.svg

For C classes, a tenth of them unseen, and features of 256 channels, prints the time and the peak
memory of

- an update of the generator, as configs/_base_/csrl.yml has it: batch, forward, all losses,
  backward and Adam;
- the same without relations, of which there are C (C + 1) / 2 between classes and U S from unseen
  to seen ones: products of prototypes instead, and MMD alone as the loss;
- the sampling of a bank of 256 features a class from four times as many;
- the last layer in closed form, from that bank.

Each runs in a process of its own, more than once, and the fastest counts: the first run also takes
memory from the machine, which can double its time. Its memory is that of the whole process; what
the process takes before it begins is told apart for the growth. ``~ C^p`` is how either grows
between the last two numbers of classes. The exit status is 1 if p of a time is above 2.2, or above
1.2 where there are no relations, if p of a memory is above 1.1, or if a process takes more than
4 GiB.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from _measure import at_most, peak_memory, resident, seconds, status
from _path import ROOT
from closed_form import GIB, SHRINKAGE, Size, make_bank

import paddle_csrl  # noqa: F401  (first: it sets up MKL and orders the imports)

# isort: split

import paddle

from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.config import load_yaml
from paddle_csrl.models import structural_generator
from paddle_csrl.models.closed_form import Discriminant
from paddle_csrl.stages.features import offer
from paddle_csrl.stages.fit import fit
from paddle_csrl.stages.generator import GeneratorSection, train_generator
from paddle_csrl.utils import write_text
from paddle_csrl.visualize import drawing

CONFIG = os.path.join(ROOT, "configs", "_base_", "csrl.yml")
CHANNELS, EMBED, SAMPLES, SIDE = 256, 300, 256, 64
RUNS = 3
MOST_GIB, MOST_MEMORY_POWER = 4, 1.1


def unseen_of(classes: int) -> int:
    return classes // 10


def bank_of(classes: int, samples: int) -> FeatureBank:
    return make_bank(Size("", classes, unseen_of(classes), samples, CHANNELS))


def update(classes: int, losses: int = 3) -> float:
    """Seconds of the fastest of some updates, with the first ``losses`` of the config."""
    content = load_yaml(CONFIG)["generator"]
    content["loss"] = {key: value[:losses] for key, value in content["loss"].items()}
    content["iters"] = max(3, min(5, 400 // classes))
    section = GeneratorSection(**content, seed=0, save_interval=1, log_iters=1)
    bank = bank_of(classes, section.num_samples)
    embeddings = np.random.default_rng(2).standard_normal((classes, EMBED)).astype(np.float32)
    times: list[float] = []

    def timed_fit(*arguments) -> None:
        times.append(time.perf_counter())
        fit(*arguments, callbacks=[lambda step: times.append(time.perf_counter())])

    train_generator(section, embeddings, bank, np.arange(classes - unseen_of(classes), classes), 0,
                    timed_fit)
    return float(np.diff(times).min())


def update_without_relations(classes: int) -> float:
    """As ``update``, with products of prototypes where the relations are and with MMD alone."""
    def products(mlp: paddle.nn.Layer, prototypes: paddle.Tensor, share: object) -> paddle.Tensor:
        return paddle.matmul(prototypes, prototypes, transpose_y=True)

    with mock.patch.object(structural_generator, "_pair_scores", products):
        return update(classes, losses=1)


def sampling(classes: int) -> float:
    """Seconds for images of ``SIDE`` x ``SIDE`` features, that of making them left out."""
    seen = classes - unseen_of(classes)
    features = paddle.randn([1, CHANNELS, SIDE, SIDE])

    def sample() -> float:
        rng, sampler, spent = np.random.default_rng(0), BottomKSampler(classes, SAMPLES), 0.0
        for image in range(-(-4 * seen * SAMPLES // SIDE**2)):
            labels = rng.integers(seen, size=SIDE**2)
            spent += seconds(lambda: offer(sampler, features, labels, [0, image]))
        return spent + seconds(sampler.bank)

    return min(sample() for _ in range(RUNS))


def layer(classes: int) -> float:
    bank = bank_of(classes, SAMPLES)
    prototypes = np.random.default_rng(1).standard_normal((unseen_of(classes), CHANNELS))

    def compute() -> None:
        means, covariance = bank.moments()
        Discriminant.of(covariance, SHRINKAGE).layer(np.concatenate([means, prototypes]))

    return min(seconds(compute) for _ in range(RUNS))


class Part(NamedTuple):
    title: str
    run: Callable[[int], float]
    power: float  # of C, that time may grow with


PARTS = {"update": Part("update of the generator", update, 2.2),
         "rest": Part("update without relations", update_without_relations, 1.2),
         "bank": Part("sampling of the bank", sampling, 1.2),
         "layer": Part("layer in closed form", layer, 1.2)}


def watched(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int, int]:
    """What ``function`` returns, and the bytes by which memory grew and that it had at its peak."""
    before = resident()
    result = function(*arguments)
    return result, peak_memory() - before, peak_memory()


def in_fork(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int, int]:
    """As ``watched``, in a process of its own, forked off this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(watched, function, *arguments).result()


def growth(classes: Sequence[int], values: Sequence[float]) -> float:
    """p of ``values ~ C^p`` between the last two."""
    return float(np.log(values[-1] / values[-2]) / np.log(classes[-1] / classes[-2]))


def check(part: Part, classes: Sequence[int], rows: np.ndarray) -> None:
    """Print how a part grows, and its targets."""
    time_power, memory_power = (growth(classes, rows[:, column]) for column in (0, 1))
    most = rows[:, 2].max() / GIB
    print(f"{part.title}: time ~ C^{time_power:.2f} ({at_most(time_power, part.power)}), memory ~ "
          f"C^{memory_power:.2f} ({at_most(memory_power, MOST_MEMORY_POWER)}), at most "
          f"{most:.2f} GiB ({at_most(most, MOST_GIB)})", flush=True)


@drawing.style()
def figure(classes: Sequence[int], tables: dict[str, np.ndarray]) -> str:
    """SVG of time and memory over the classes, with faint lines of what their targets allow."""
    width, gap = 330, 1.25
    first = drawing.new_axes(width, 260, "seconds")
    second = first.figure.add_axes((gap, 0, 1, 1))
    second.set_title("peak memory of the process, GiB", loc="left")
    for index, table in enumerate(tables.values()):
        look = drawing.line(index) | {"markevery": 1}
        first.plot(classes, table[:, 0], **look)
        second.plot(classes, table[:, 2] / GIB, **look)
    for axes, powers in ((first, {1: "C", 2: "C²"}), (second, {1: "C"})):
        axes.set(xscale="log", yscale="log", xlabel="classes, C")
        axes.set_xticks(classes, map(str, classes))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        low, high = axes.get_ylim()
        for power, text in powers.items():
            line = high * (np.array(classes) / classes[-1]) ** power
            axes.plot(classes, line, color=drawing.FAINT, linewidth=0.8, zorder=1)
            axes.annotate(f"∝ {text}", (classes[-2], line[-2]), (-4, 4), ha="right",
                          textcoords="offset points", color=drawing.FAINT)
        axes.set_ylim(low, high)
    second.set_yticks([0.25, 0.5, 1, 2, 4])
    drawing.legend_above(first, [PARTS[name].title for name in tables], range(len(tables)),
                         2 * gap * width)
    return drawing.Picture(first, "Time and memory by the number of classes").svg


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 60, 171, 500],
                        help="at least two numbers (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--figure", metavar="FILE", help="draw what was measured, as SVG")
    args = parser.parse_args()

    paddle.set_device("cpu")
    print(f"paddle {paddle.__version__}, {CHANNELS} channels, a tenth of the classes unseen",
          flush=True)
    tables: dict[str, np.ndarray] = {}
    for name in args.parts:
        rows = []
        for classes in args.classes:
            rows.append(in_fork(PARTS[name].run, classes))
            seconds, growth_bytes, peak = rows[-1]
            print(f"{PARTS[name].title:24s} C={classes:5d}: {seconds:8.3f} s, "
                  f"{growth_bytes / GIB:.2f} GiB beside the imports, {peak / GIB:.2f} in all",
                  flush=True)
        tables[name] = np.array(rows)
        check(PARTS[name], args.classes, tables[name])
    if args.figure:
        write_text(args.figure, figure(args.classes, tables))
    return status()


if __name__ == "__main__":
    sys.exit(main())
