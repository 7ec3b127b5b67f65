"""Time of one update of the generator, next to the matrix products it cannot do without.

An update is: forward, all four losses, backward, Adam. 21 classes of which 2 unseen, 128
generated and 128 real samples a class, 300-d embeddings, 256-d features, as on Pascal VOC. The
bare products are those of the update itself, forward and backward, of the same shapes and
through ``paddle.matmul``; both are timed in turns in one process, and the ratio is the median
over the turns.

    OMP_NUM_THREADS=1 python benchmarks/generator_update.py
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import _path  # noqa: F401
import numpy as np
from _measure import at_most, status

import paddle_csrl  # noqa: F401  (first: it has MKL take its fast code on AMD CPUs)

# isort: split

import paddle

from paddle_csrl.losses import (
    ListwiseRelationLoss,
    MMDLoss,
    PairwiseRelationLoss,
    PrototypeNormLoss,
)
from paddle_csrl.models.structural_generator import StructuralGenerator

CLASSES, UNSEEN, SAMPLES = 21, 2, 128
EMBED, NOISE, HIDDEN, FEATURE = 300, 64, 256, 256
SEEN = CLASSES - UNSEEN


def make_update(num_layers: int) -> Callable[[], None]:
    """A function that does one whole update."""
    generator = StructuralGenerator(EMBED, FEATURE, NOISE, num_layers, HIDDEN)
    adam = paddle.optimizer.Adam(2e-4, parameters=generator.parameters())
    mmd, pairwise, listwise, norm = (MMDLoss(), PairwiseRelationLoss(), ListwiseRelationLoss(),
                                     PrototypeNormLoss())
    embeddings = paddle.randn([CLASSES, EMBED])
    real = paddle.randn([SEEN, SAMPLES, FEATURE])
    real_prototypes = real.mean(axis=1)

    def update() -> None:
        features, relations = generator(embeddings, SAMPLES)
        semantic, visual = (relation[SEEN:, :SEEN] for relation in (relations[0], relations[-1]))
        # Not slices: Paddle pads the gradient of each with zeros, slowly.
        seen_features, unseen_features = features.split([SEEN, UNSEEN])
        loss = (mmd(seen_features, real) + pairwise(visual, semantic)
                + listwise(visual, semantic)
                + norm(unseen_features.mean(axis=1), real_prototypes))
        loss.backward()
        adam.step()
        adam.clear_grad()

    return update


def make_products(num_layers: int) -> Callable[[], None]:
    """A function that does the matrix products of one update and nothing else."""
    rows, pairs = CLASSES * SAMPLES, CLASSES * (CLASSES + 1) // 2
    node = EMBED + NOISE
    products = _product(rows, NOISE, HIDDEN, input_gradient=False)
    products += _product(NOISE, node, HIDDEN, input_gradient=False)
    for layer in range(num_layers):
        products += 2 * _product(CLASSES, HIDDEN if layer else node, HIDDEN)
        products += _product(pairs, HIDDEN, HIDDEN) + _product(pairs, HIDDEN, 1)
        if layer:
            products += _product(rows, HIDDEN, HIDDEN) + _product(HIDDEN, HIDDEN, HIDDEN)
    products += _product(rows, HIDDEN, FEATURE)
    samples = paddle.randn([SEEN, SAMPLES, FEATURE])
    kernel = paddle.randn([SEEN, SAMPLES, SAMPLES])
    # Kernel matrices x-x, x-y and y-y; the gradient needs the first two.
    products += 3 * [lambda: paddle.matmul(samples, samples, transpose_y=True)]
    products += 2 * [lambda: paddle.matmul(kernel, samples)]

    def run() -> None:
        for product in products:
            product()

    return run


def _product(rows: int, inner: int, columns: int, input_gradient: bool = True) -> list[Callable]:
    """x W, x^T g and, unless x is a constant, g W^T."""
    x, w = paddle.randn([rows, inner]), paddle.randn([inner, columns])
    g = paddle.randn([rows, columns])
    products = [lambda: paddle.matmul(x, w), lambda: paddle.matmul(x, g, transpose_x=True)]
    if input_gradient:
        products.append(lambda: paddle.matmul(g, w, transpose_y=True))
    return products


def make_listwise(seen: int, method: str) -> Callable[[], None]:
    """A function that does the listwise loss and its gradient alone."""
    loss = ListwiseRelationLoss(method=method, num_samples=64)
    semantic, generated = paddle.rand([UNSEEN, seen]), paddle.rand([UNSEEN, seen])
    generated.stop_gradient = False
    return lambda: loss(generated, semantic).backward()


def seconds(functions: Sequence[Callable[[], None]], turns: int) -> np.ndarray:
    """Time of each function in each turn, [turns, functions]; they take turns."""
    for function in functions:
        function(), function()
    table = np.empty([turns, len(functions)])
    for row in table:
        for column, function in enumerate(functions):
            start = time.perf_counter()
            function()
            row[column] = time.perf_counter() - start
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time one update of the generator.")
    parser.add_argument("--turns", type=int, default=30, help="repetitions (default: %(default)s)")
    turns = parser.parse_args(argv).turns
    paddle.set_device("cpu")
    paddle.seed(0)
    listwise = [make_listwise(17, "exact"), make_listwise(58, "sampled")]
    for num_layers in (2, 3):
        table = seconds([make_update(num_layers), make_products(num_layers), *listwise], turns)
        update, products, *parts = 1e3 * np.median(table, axis=0)
        ratio = np.median(table[:, 0] / table[:, 1])
        print(f"generator update L={num_layers}: {update:.1f} ms, bare matrix products "
              f"{products:.1f} ms, ratio {ratio:.2f} ({at_most(ratio, 1.8)})")
        for name, part in zip(("exact, 17 seen classes", "sampled, 58, 64 orders"), parts):
            print(f"  listwise loss, {name}: {part:.1f} ms, {part / update:.1%} of an update "
                  f"({at_most(100 * part / update, 5)} %)")


if __name__ == "__main__":
    main()
    sys.exit(status())
