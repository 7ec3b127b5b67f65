"""Two processes against one, on two cores: bank, generator and evaluation.

    python benchmarks/two_processes.py

Runs the command lines of tools/train.py and tools/val.py on fabricated photographs, in turns by
one process and by the two that ``paddle.distributed.launch`` starts; each computes on one thread,
and of the two each on a core of its own, for a scheduler may leave processes that wake each other
on one. Times are those of a whole command but for the start of the
processes. Prints them and how many times faster two are; the exit status is 1 if a target is
missed. Of 60 classes, as on Pascal-Context, 6 are unseen; 128 features a class and iteration, of
256 channels. The bank keeps 1,024 features a class: of so few images the usual 8,192 would be most
that there are, and two processes wait while one writes them. Idle cores alone tell: two processes
meet 14 times in an update of the generator, and other work, whatever its priority, may have them
wait for a few milliseconds each time.
"""

import argparse
import itertools
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from _measure import at_least, status
from _path import ROOT
from feature_bank import make_dataset

from paddle_csrl import parallel
from paddle_csrl.cli import train, val

CONFIG = os.path.join(ROOT, "configs", "_base_", "custom.yml")
TOOLS = {"train": train.main, "val": val.main}
TARGETS = {"bank": 1.7, "generator": 1.4, "evaluation": 1.7}
CLASSES, UNSEEN, EMBED = 60, 6, 300


class Commands:
    """The command lines, on data that are fabricated in ``root``."""

    def __init__(self, root: str, images: int, size: Sequence[int], iters: int):
        data, vectors = os.path.join(root, "data"), os.path.join(root, "vectors.npz")
        names = ["".join(letters) for letters in itertools.islice(
            itertools.product(string.ascii_lowercase, repeat=3), CLASSES)]
        make_dataset(data, images, *size, CLASSES)
        shutil.copy(os.path.join(data, "train.txt"), os.path.join(data, "val.txt"))
        with open(os.path.join(data, "classes.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(names))
        np.savez(vectors, names=names, vectors=np.random.default_rng(0).standard_normal(
            (CLASSES, EMBED)).astype(np.float32))
        self.root, self.run = root, os.path.join(root, "run")
        self.common = ["-c", CONFIG, "--device", "cpu", "--data", data, "--opts",
                       f"zero_shot.unseen={','.join(names[-UNSEEN:])}",
                       f"zero_shot.embeddings.path={vectors}", f"zero_shot.cache_dir={root}/cache",
                       "model.backbone.pretrained=null", "iters=1", "batch_size=1",
                       "zero_shot.features.samples_per_class=1024",
                       f"generator.iters={iters}", "generator.num_samples=128",
                       "generator.relation=edges"]

    def stage(self, name: str) -> list[str]:
        return ["train", "--save_dir", self.run, "--stage", name, *self.common]

    def evaluation(self) -> list[str]:
        model = os.path.join(self.run, "segmentor", "model.pdparams")
        return ["val", "--model_path", model, *self.common]

    def seconds(self, processes: int, lines: Sequence[Sequence[str]]) -> list[float]:
        """Of each line, run by so many processes; the stages make anew what they have made."""
        for name in ("features", "generator"):
            shutil.rmtree(os.path.join(self.run, name), ignore_errors=True)
        path = os.path.join(self.root, "lines.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(lines, file)
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes),
                    "--log_dir", os.path.join(self.root, "logs")] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, os.path.abspath(__file__), "--lines", path],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PADDLE_DISTRI_BACKEND": "gloo"},
            capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
        with open(f"{path}.seconds", encoding="utf-8") as file:
            return json.load(file)


def run_lines(path: str) -> None:
    """Run the command lines of a file; the first process writes how long each took."""
    with open(path, encoding="utf-8") as file:
        lines = json.load(file)
    times = []
    parallel.start("cpu")
    if parallel.world_size() > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[parallel.rank()]})
    for tool, *argv in lines:
        parallel.barrier()  # the other process may have started later
        start = time.perf_counter()
        TOOLS[tool](argv)
        times.append(time.perf_counter() - start)
    if parallel.is_first():
        with open(f"{path}.seconds", "w", encoding="utf-8") as file:
            json.dump(times, file)


def compare(commands: Commands, repeats: int) -> None:
    """Print times, ratios and targets."""
    lines = [commands.stage("features"), commands.stage("generator"), commands.evaluation()]
    commands.seconds(1, [commands.stage("segmentor")])
    turns = np.array([[commands.seconds(processes, lines) for processes in (1, 2)]
                      for _ in range(repeats)])
    times, ratios = np.median(turns, axis=0), np.median(turns[:, 0] / turns[:, 1], axis=0)
    for (name, target), one, two, ratio in zip(TARGETS.items(), *times, ratios):
        print(f"{name}: one process {one:.1f} s, two {two:.1f} s, ratio {ratio:.2f} "
              f"({at_least(ratio, target)})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], help="height and width")
    parser.add_argument("--iters", type=int, default=100, help="updates of the generator")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--lines", help=argparse.SUPPRESS)  # what a process started here runs
    args = parser.parse_args()

    if args.lines:
        run_lines(args.lines)
        return 0
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        print(f"two processes need two cores, and there is {cores}: nothing to measure")
        return 0
    with tempfile.TemporaryDirectory() as root:
        compare(Commands(root, args.images, args.size, args.iters), args.repeats)
    return status()


if __name__ == "__main__":
    sys.exit(main())
