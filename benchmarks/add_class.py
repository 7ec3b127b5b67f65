"""Time of a new class on the page of tools/demo.py, from the key to the new picture.

    OMP_NUM_THREADS=1 python benchmarks/add_class.py

Serves the page in this process and sends what its script sends: the class, then questions after
the state until the class is there, then the picture and its classes. Prints median times for the
layer in closed form, behind prototypes that are not trained, as in configs/csrl_custom.yml, and
behind CSRL's generator, and for the trained layer. Before each class there is a pause for the bank
and the rest to be made ready, which the page does while its first picture is looked at.

Without --run it makes runs of the embedded data set in which nothing is trained for more than 2
iterations; images, network, feature bank and generator have their full size, of which the time
depends, not on the scores. A run of word vectors needs other classes: --classes zebra whale owl.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import _path  # noqa: F401
from _measure import at_most, status

import paddle_csrl
from paddle_csrl.demo import server
from paddle_csrl.demo.session import DemoSession
from paddle_csrl.utils.io import asset

CONFIG = "configs/csrl_shapes.yml"
RIDGE = ("generator.model={'type': 'RidgePrototypes'}",
         "generator.unseen_prototypes=free", "generator.relation=prototypes")


class Mode(NamedTuple):
    """What to call it, `classifier.mode`, the target in seconds, and more of the run's config."""

    title: str
    layer: str
    target: float
    opts: Sequence[str] = ()


MODES = {
    "prototypes": Mode("layer in closed form, untrained prototypes", "closed_form", 1, RIDGE),
    "closed_form": Mode("layer in closed form, CSRL's generator", "closed_form", 1),
    "clean": Mode("trained layer, CSRL's generator", "clean", 3)}


class Turn(NamedTuple):
    """Seconds of one new class: in all, of the change alone, and of the picture."""

    whole: float
    change: float
    picture: float


class Page:
    """The requests of the page's script, one after the other."""

    def __init__(self, session: DemoSession):
        self.session = session
        self.server = server.make_page_server(session, server.listen("127.0.0.1", 0))
        self.address = "http://{}:{}/api".format(*self.server.server_address[:2])
        with open(os.path.join(asset("demo"), "page.js"), encoding="utf-8") as file:
            found = re.search(r"POLL_MS = (\d+)", file.read())
        assert found, "page.js has no POLL_MS"
        self.wait = int(found[1]) / 1000

    def ask(self, path: str, body: dict[str, str] | None = None) -> bytes:
        request = urllib.request.Request(
            f"{self.address}/{path}", None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def show(self) -> None:
        self.ask("images/0/picture")
        self.ask("images/0/label")

    def add(self, text: str) -> Turn:
        start = time.perf_counter()
        self.ask("classes", {"name": text})
        while (state := json.loads(self.ask("state")))["task"]:
            time.sleep(self.wait)
        there = time.perf_counter()
        if state["message"]["is_error"]:
            raise SystemExit(f"{text}: {state['message']['text']}")
        self.show()
        end = time.perf_counter()
        return Turn(end - start, float(re.findall(r" in ([\d.]+) s", state["message"]["text"])[0]),
                    end - there)


@contextlib.contextmanager
def served(run: str, opts: Sequence[str]) -> Iterator[Page]:
    session = DemoSession(run, opts=opts)
    page = Page(session)
    thread = threading.Thread(target=page.server.serve_forever)
    thread.start()
    try:
        yield page
    finally:
        page.server.shutdown()
        thread.join()
        page.server.server_close()
        session.close()


def measure(run: str, mode: Mode, classes: Sequence[str], pause: float) -> None:
    turns = []
    with silent(), served(run, [f"classifier.mode={mode.layer}"]) as page:
        page.show()
        for text in classes:
            time.sleep(pause)
            turns.append(page.add(text))
    whole, change, picture = map(statistics.median, zip(*turns))
    print(f"{mode.title}: {whole:.2f} s to the new picture ({at_most(whole, mode.target)}), of it "
          f"{change:.2f} s the change, {picture:.2f} s the picture, "
          f"{whole - change - picture:.2f} s on the way and until the page asks again; "
          f"the first {turns[0].whole:.2f} s", flush=True)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nothing, \
            contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


def finished_run(folder: str, opts: Sequence[str]) -> str:
    """Make a run of full size that has learned next to nothing, or find that of ``folder``."""
    run = os.path.join(folder, "run" + "_ridge" * bool(opts))
    with silent():
        paddle_csrl.train(CONFIG, save_dir=run, opts=[
            "iters=2", "do_eval=False", "generator.iters=2", "classifier.mode=closed_form", *opts,
            "train_dataset.num_val=20", "val_dataset.num_val=20",
            *(f"{name}_dataset.dataset_root={folder}/data" for name in ("train", "val"))])
    return run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", help="a finished run instead, for all modes")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--classes", nargs="+", metavar="NAME=WORD",
                        default=["flag=red blue striped", "net=green yellow checkered",
                                 "ball=blue yellow dotted"], help="to be added one by one")
    parser.add_argument("--pause", type=float, default=3, help="seconds before each")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for mode in (MODES[name] for name in args.modes):
            measure(args.run or finished_run(folder, mode.opts), mode, args.classes, args.pause)


if __name__ == "__main__":
    main()
    sys.exit(status())
