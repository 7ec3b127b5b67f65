r"""Kill trainings at random moments and see that the same command still ends at the same result.

Each of many small runs on the embedded data, self-training included, is killed (SIGKILL) in one
of its stages and started again. Weights, feature bank, scores and the records of VisualDL have to
be those of a run that nobody killed, bit by bit, and nothing else may be left in the folder.

    python scripts/soak.py --kills 50
    python scripts/soak.py --kills 200 --seed 7 --out output/soak

exit status: 0, or 1 if a run ended otherwise
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import tempfile
from typing import NamedTuple

import jinja2  # noqa: F401  (once, not in every forked run, and so the next two)
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import numpy as np
import paddle
from prettytable import PrettyTable

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from paddle_csrl.cli import run as run_program
from paddle_csrl.cli import train
from paddle_csrl.run import Run
from paddle_csrl.utils import progress, read_json
from paddle_csrl.utils.visualdl import read_scalars

_CONFIG = os.path.join(os.path.dirname(__file__), "..", "configs", "csrl_shapes_selftraining.yml")
#: Small enough for a run in seconds, long enough for several checkpoints a stage.
_OPTS = (
    *(f"{split}_dataset.{item}" for split in ("train", "val")
      for item in ("num_train=40", "num_val=4", "image_size=48", "num_colors=3",
                   "num_patterns=3")),
    "model.num_classes=10", "zero_shot.unseen=green striped,blue dotted",
    "iters=9", "batch_size=2", "save_interval=3", "log_iters=1", "num_workers=0",
    "model.backbone={'type': 'CSRLTinyNet', 'width': 4}", "model.backbone_indices=[0, 1]",
    "zero_shot.features.samples_per_class=64",
    "generator.iters=15", "generator.num_samples=16", "generator.model.hidden_dim=16",
    "generator.model.noise_dim=4", "generator.save_interval=5", "generator.log_iters=1",
    "classifier.iters=10", "classifier.batch_size=64", "classifier.num_generated=32",
    "classifier.save_interval=5", "classifier.log_iters=1",
    "self_training.save_interval=5",
)
#: Where a run is while no stage is: it is scored, and its page is written.
_SCORING = "scoring"
#: What VisualDL records of the machine, not of the training.
_TIMES = ("Train/batch_cost", "Train/reader_cost")


class Outcome(NamedTuple):
    """What became of a run that was killed.

    Attributes:
        place (str): the stage in which it was killed.
        seconds (float): how long after its start.
        status (int): exit status of the second command.
        differences (list[str]): what differs from the run that nobody killed.
        left_over (list[str]): files that only the killed run has.
    """

    place: str
    seconds: float
    status: int
    differences: list[str]
    left_over: list[str]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many runs are killed")
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", help="new folder of all runs (default: one that is deleted)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[Outcome]:
    """Return what became of each run that was killed."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak.") as temporary:
        folder, start = args.out or temporary, time.time()
        if args.out:
            os.makedirs(args.out)
        reference = os.path.join(folder, "reference")
        if _wait(_start(reference)):
            raise RuntimeError(f"the run that nobody kills failed: {reference}.log")
        rng, seconds = np.random.default_rng(args.seed), _seconds(reference)
        places = [list(seconds)[kill % len(seconds)] for kill in range(args.kills)]
        tasks = [(os.path.join(folder, f"{number:03d}"), place, rng.uniform(0, seconds[place]),
                  reference) for number, place in enumerate(places)]
        with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
            outcomes = list(progress(pool.imap(_kill, tasks), "kills", len(tasks)))
    print(_table(outcomes))
    failed = sum(_failed(outcome) for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} killed runs ended as the one that nobody "
          f"killed; {time.time() - start:.0f} s")
    return outcomes


def _failed(outcome: Outcome) -> bool:
    return bool(outcome.status or outcome.differences or outcome.left_over)


def _start(folder: str) -> int:
    """Start the training of ``folder`` in a forked process, which saves the imports."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        data = os.path.join(os.path.dirname(folder), "data")
        roots = [f"{split}_dataset.dataset_root={data}" for split in ("train", "val")]
        run_program(lambda: train.main([
            "-c", _CONFIG, "--device", "cpu", "--save_dir", folder, "--opts", *_OPTS, *roots,
            f"zero_shot.cache_dir={data}_cache"]))
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _seconds(folder: str) -> dict[str, float]:
    """Return how long each stage took, and about as long for the scoring."""
    run = Run.open(folder)
    seconds = {stage: run.record(stage)["made"]["seconds"] for stage in run.stages}
    return {**seconds, _SCORING: 1.0}


def _kill(task: tuple[str, str, float, str]) -> Outcome:
    """Kill a run some seconds after a stage has begun, and run the same command again."""
    folder, place, delay, reference = task
    process, start = _start(folder), time.time()
    while not _is_at(folder, place) and not os.waitid(
            os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.002)
    time.sleep(delay)
    seconds = time.time() - start
    os.kill(process, signal.SIGKILL)
    _wait(process)
    status = _wait(_start(folder))
    if status:
        return Outcome(place, seconds, status, [], [])
    found, expected = _content(folder), _content(reference)
    return Outcome(
        place, seconds, status,
        sorted(name for name in expected if found.get(name) != expected[name]),
        sorted(set(found) - set(expected)))


def _is_at(folder: str, place: str) -> bool:
    """Tell whether a run has begun a stage, or finished the last one."""
    if place == _SCORING:
        record = read_json(os.path.join(folder, "self_training", "stage.json"))
        return bool(record and record.get("finished"))
    return os.path.isdir(os.path.join(folder, place))


def _content(folder: str) -> dict[str, object]:
    """Return what a run has left: what has to be the same by its name, other files as None."""
    content: dict[str, object] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith("vdlrecords"):  # named by their time
                content[os.path.relpath(path, folder)] = _comparable(path)
        for tag, points in read_scalars(parent).items():
            if tag not in _TIMES:
                content[f"{os.path.relpath(parent, folder)}: {tag}"] = points
    return content


def _comparable(path: str) -> object:
    if path.endswith((".pdparams", ".pdopt")):
        return {name: value.tobytes() if isinstance(value, np.ndarray) else value
                for name, value in paddle.load(path, return_numpy=True).items()}
    if path.endswith(".npz"):
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if os.path.basename(path) in ("metrics.json", "calibration.json"):
        content = read_json(path)
        content.get("config", {}).pop("save_dir", None)
        return content
    if path.endswith(".png"):
        with open(path, "rb") as file:
            return file.read()
    return None


def _table(outcomes: list[Outcome]) -> str:
    table = PrettyTable(["killed in", "after s", "exit", "differs", "left over"], align="l")
    for outcome in outcomes:
        table.add_row([outcome.place, f"{outcome.seconds:.1f}", outcome.status,
                       ", ".join(outcome.differences) or "-", ", ".join(outcome.left_over) or "-"])
    return str(table)


if __name__ == "__main__":
    sys.exit(any(map(_failed, main())))
