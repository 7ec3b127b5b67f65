"""Speed of what is read before anything trains: labels of a data set, and word vectors.

    python benchmarks/reading.py

The scan reads every label, checks that its image is whole, and remembers the contents of both; it
is compared with decoding the labels' PNGs alone in as many threads as there are cores, turn by
turn. Then class names are looked up in a gzipped text file of 40,000 words.
"""

import argparse
import contextlib
import gzip
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import _path  # noqa: F401
import cv2
import numpy as np
from _measure import at_least, at_most, status
from PIL import Image

from paddle_csrl.datasets.class_names import class_names_for
from paddle_csrl.datasets.label_scan import scan_labels
from paddle_csrl.embeddings import embed_classes

CLASSES = 21
CORES = len(os.sched_getaffinity(0))


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    with open(os.devnull, "w", encoding="utf-8") as silent, contextlib.redirect_stderr(silent), \
            contextlib.redirect_stdout(silent):
        function()
    return time.perf_counter() - start


def make_files(root: str, count: int, height: int, width: int) -> list[tuple[str, str]]:
    """Blurred noise as JPEGs and labels of ellipses, with their edges unlabelled, as PNGs."""
    rng = np.random.default_rng(0)
    pairs = [(f"{root}/{index}.jpg", f"{root}/{index}.png") for index in range(count)]
    for image_path, label_path in pairs:
        image = rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
        cv2.imwrite(image_path, cv2.GaussianBlur(cv2.resize(image, (width, height)), (0, 0), 3))
        label = np.zeros((height, width), np.uint8)
        for class_id in rng.integers(1, CLASSES, 4).tolist():
            center, axes = rng.integers(0, (width, height)), rng.integers(20, (200, 150))
            for color, thickness in ((class_id, -1), (255, 3)):
                cv2.ellipse(label, center.tolist(), axes.tolist(), rng.integers(360), 0, 360,
                            color, thickness)
        cv2.imwrite(label_path, label)
    return pairs


def compare_scan(root: str, images: int, repeats: int, height: int, width: int) -> None:
    pairs = make_files(root, images, height, width)

    def decode() -> None:
        with ThreadPoolExecutor(CORES) as threads:
            for _ in threads.map(lambda pair: np.asarray(Image.open(pair[1])), pairs):
                pass

    def scan(turn: int) -> None:
        scan_labels(pairs, CLASSES, cache_dir=os.path.join(root, f"cache{turn}"))

    turns = [(seconds(lambda: scan(turn)), seconds(decode))
             for turn in range(repeats + 1)][1:]  # the first warms up
    ratio = statistics.median(alone / whole for whole, alone in turns)
    whole, alone = (1e3 * statistics.median(part) / images for part in zip(*turns))
    print(f"{images} labels of {height} x {width}: decoding them alone {alone:.2f} ms each on "
          f"{CORES} cores, the scan {whole:.2f} ms, {ratio:.2f} of its speed "
          f"({at_least(ratio, 0.8)})", flush=True)


def measure_vectors(root: str, words: int, dimension: int, repeats: int) -> None:
    rng, path = np.random.default_rng(0), os.path.join(root, "words.txt.gz")
    names = class_names_for("PascalVOC")
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for word in [*(f"w{index}" for index in range(words - len(names))), *names]:
            file.write(" ".join([word, *(f"{x:.5f}" for x in rng.normal(size=dimension))]) + "\n")
    times = [seconds(lambda: embed_classes(names, None, lambda: None, path=path, normalize=True,
                                           words={})) for _ in range(repeats)]
    print(f"{len(names)} names in {words} words of {dimension} numbers, .gz: "
          f"{statistics.median(times):.2f} s ({at_most(statistics.median(times), 2)})")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], help="height and width")
    parser.add_argument("--words", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        compare_scan(root, args.images, args.repeats, *args.size)
        measure_vectors(root, args.words, args.dimension, args.repeats)


if __name__ == "__main__":
    main()
    sys.exit(status())
