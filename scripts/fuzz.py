"""Feed broken files to the readers: anything but success or a UserError is a finding.

    python scripts/fuzz.py --seconds 60 --target vectors --seed 0

A case is made of the seed, the target's name and its number, so that ``--target vectors --seed 0
--first 17 --cases 1`` makes case 17 again. Cases run in a child process with limits of time and
memory, where starting programs, connecting, and changing files outside of the case's own folder
are findings, too. The files of a finding are kept below ``--out`` with what was said. Exit status
1 with findings.
"""

import argparse
import faulthandler
import itertools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from fuzz_targets import TARGETS, Target
from paddle_csrl.errors import UserError

_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect",
              "pty.spawn")
_CHANGING = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link",
             "os.truncate", "shutil.rmtree")
# Devices, and the memory that multiprocessing shares; what else is in /dev/shm is a file.
_DEVICE = re.compile("/dev/(?!shm/(?!pym-))")
_DYING = 10.0  # seconds that a child may take to write its last words


class Limits(NamedTuple):
    """Of one call: seconds, and bytes beyond those that the process has at its start."""

    seconds: float
    memory: int


class Finding(NamedTuple):
    index: int
    words: str


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", default=["all"], choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each target")
    parser.add_argument("--cases", type=int, help="most cases of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time_limit", type=float, default=20, help="seconds of one call")
    parser.add_argument("--memory_limit", type=float, default=2, help="GiB of one call")
    parser.add_argument("--out", default="output/fuzz", help="folder for the findings")
    args = parser.parse_args(argv)
    if args.seconds == float("inf") and args.cases is None:
        args.seconds = 60.0
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    limits = Limits(args.time_limit, int(args.memory_limit * 2**30))
    found = 0
    for name in TARGETS if "all" in args.target else args.target:
        last = None if args.cases is None else args.first + args.cases
        done = 0
        for finding in fuzz(name, args.seed, args.first, last, args.seconds, limits, args.out):
            done += 1
            if finding:
                found += 1
                print(f"{name}, case {finding.index} of seed {args.seed}:\n{finding.words}\n",
                      flush=True)
        print(f"{name}: {done} cases", flush=True)
    print(f"{found} findings" + (f", kept in {args.out}" if found else ""))
    return 1 if found else 0


def fuzz(name: str, seed: int, first: int, last: int | None, seconds: float, limits: Limits,
         out: str, target: Target | None = None) -> Iterator[Finding | None]:
    """Run the cases ``first`` to ``last`` of a target, for so many ``seconds`` at most.

    Yields:
        for every case, what was found.
    """
    target = target or TARGETS[name]
    context = multiprocessing.get_context("fork")
    end = time.monotonic() + seconds
    start = first
    while start != last and time.monotonic() < end:
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            child = context.Process(target=_serve, args=(
                name, target, seed, start, last, folder, limits, theirs))
            child.start()
            theirs.close()
            for index in itertools.count(start):
                words = _words(ours, folder, limits)
                finding = Finding(index, words) if words else None
                if finding:
                    _keep(os.path.join(out, f"{name}-{seed}-{index}"), folder, words)
                yield finding
                if words or index + 1 == last or time.monotonic() >= end:
                    break
            child.kill()
            child.join()
        start = index + 1


def _words(ours: Connection, folder: str, limits: Limits) -> str:
    """What is wrong with the case that the child runs; empty if nothing is."""
    try:
        if ours.poll(limits.seconds + _DYING):
            return ours.recv()
        end = "does not end"
    except EOFError:
        end = "the process died"
    with open(os.path.join(folder, "last_words.txt"), errors="replace") as file:
        return f"{end}\n{file.read(5000)}"


def _keep(place: str, folder: str, words: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(os.path.join(folder, "case"), place, symlinks=True, dirs_exist_ok=True)
    with open(os.path.join(place, "finding.txt"), "w", errors="replace") as file:
        file.write(words)


def _serve(name: str, target: Target, seed: int, first: int, last: int | None, folder: str,
           limits: Limits, theirs: Connection) -> None:
    """The child: one case after the other, the words on each sent back."""
    words_file = open(os.path.join(folder, "last_words.txt"), "a")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(words_file.fileno(), 2)
    os.chdir(folder)
    faulthandler.enable(words_file)
    crimes = _watch(folder)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory,) * 2)
    for index in itertools.count(first):
        if index == last:
            break
        case = os.path.join(folder, "case")
        shutil.rmtree(case, ignore_errors=True)
        os.makedirs(case)
        words_file.truncate(0)
        faulthandler.dump_traceback_later(limits.seconds, exit=True, file=words_file)
        words = _run(target, case, random.Random(f"{name} {seed} {index}"))
        faulthandler.cancel_dump_traceback_later()
        words = "\n".join([words, *crimes]).strip()
        theirs.send(words)
        if words:
            signal.pause()  # the case's files are being looked at
    os._exit(0)


def _run(target: Target, case: str, rng: random.Random) -> str:
    try:
        target(case, rng)()
    except UserError:
        pass
    except BaseException:
        return traceback.format_exc()
    return ""


def _watch(folder: str) -> list[str]:
    """A list that fills with what the process does and no reader of files has to do."""
    crimes: list[str] = []
    inside = os.path.realpath(folder) + os.sep

    def is_outside(path: object) -> bool:
        if not isinstance(path, (str, bytes)):  # an open file's number
            return False
        path = os.path.realpath(os.fsdecode(path))
        return not (path.startswith(inside) or _DEVICE.match(path))

    def hook(event: str, args: tuple) -> None:
        writes = event == "open" and bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if event in _FORBIDDEN or (writes or event in _CHANGING) and is_outside(args[0]):
            crimes.append(f"does what no reader has to do: {event} {args!r:.300}")
            raise PermissionError(crimes[-1])

    sys.addaudithook(hook)
    return crimes


if __name__ == "__main__":
    sys.exit(main())
