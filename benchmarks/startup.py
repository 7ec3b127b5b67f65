"""How long the tools take before they do anything, against the imports that they cannot do without.

    python benchmarks/startup.py

``--help`` of every tool, all that ``tools/train.py`` imports, and ``tools/train.py`` on a run that
is finished, for two sizes of the data set. Each is a process of its own; they take turns with one
that imports cv2, Paddle and PaddleSeg. Prints median times and ratios. Byte code is kept, as that
of installed packages is.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from _measure import at_most, status
from _path import ROOT

#: Without the switch that would have ours compiled in each process, but not Paddle's.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name != "PYTHONDONTWRITEBYTECODE"}
IMPORTS = ("-c", "import cv2, paddle, paddleseg")
#: All that tools/train.py imports, and the mending of PaddleSeg.
START = ("-c", "import paddle_csrl.cli.train")
#: A run of seconds; what is measured comes after it.
SMALL = ("iters=2", "save_interval=2", "batch_size=2", "generator.iters=2", "classifier.iters=2")


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, cwd=ROOT, env=ENVIRONMENT)
    return time.perf_counter() - start


def finished_run(folder: str, images: int) -> list[str]:
    """Train a small run on ``images`` validation images; return the command that repeats it."""
    command = [os.path.join("tools", "train.py"), "-c", "configs/csrl_shapes.yml",
               "--device", "cpu", "--save_dir", os.path.join(folder, f"run{images}"), "--opts",
               *SMALL, "train_dataset.num_train=60", "val_dataset.num_train=60",
               f"train_dataset.num_val={images}", f"val_dataset.num_val={images}",
               *(f"{name}_dataset.dataset_root={folder}/data{images}" for name in ("train", "val"))]
    seconds(*command)
    return command


def compare(what: str, command: Sequence[str], target: float, repeats: int) -> None:
    turns = [(seconds(*command), seconds(*IMPORTS)) for _ in range(repeats + 1)][1:]  # warm
    ratio = statistics.median(whole / bare for whole, bare in turns)
    whole, bare = map(statistics.median, zip(*turns))
    print(f"{what}: {whole:.2f} s, the imports {bare:.2f} s, ratio {ratio:.2f} "
          f"({at_most(ratio, target)})", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 200],
                        help="validation images of the finished runs")
    args = parser.parse_args(argv)
    tools = sorted(name for name in os.listdir(os.path.join(ROOT, "tools"))
                   if name.endswith(".py"))
    slowest = max(statistics.median(seconds(os.path.join("tools", name), "--help")
                                    for _ in range(args.repeats)) for name in tools)
    print(f"--help of the slowest of {len(tools)} tools: {slowest:.2f} s ({at_most(slowest, 0.3)})")
    compare("the start of train.py", START, 1.1, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        for images in args.images:
            compare(f"train.py on a finished run, {images} images to score",
                    finished_run(folder, images), 1.2, args.repeats)


if __name__ == "__main__":
    main()
    sys.exit(status())
