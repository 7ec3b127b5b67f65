"""Memory, traffic and disk of every stage on many devices, from the sizes of the code's own parts.

    python benchmarks/scaling.py

Prints the table of docs/scaling.md: ADE20K with all its 847 classes and 10 million images on 64
GPUs. Parameters are counted on the model and the generator that the configs make, settings are
the configs' own; the rest is arithmetic over array shapes, which tests/test_scaling.py compares
with what the code allocates, sends and writes on small cases. No figure is a measured time.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from _path import ROOT

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)

# isort: split

import paddle

from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.config import load_yaml
from paddle_csrl.config.schema import SECTIONS, Features
from paddle_csrl.models.structural_generator import PAIR_BLOCK_SIZE

CONFIG = "configs/_base_/voc.yml"
FLOAT, INT, LONG = 4, 4, 8  # bytes of float32, int32, and of int64 or float64
HOST, DEVICE = "host", "device"

#: Rounds of 8 bits of the search for the keys below which a sample lies: keys have 53 bits.
KEY_ROUNDS = 7


class Case(NamedTuple):
    """A training, and its number of processes."""

    classes: int = 847
    unseen: int = 85
    images: int = 10_000_000
    classes_per_image: int = 20
    path_length: int = 60
    crop: int = 512
    processes: int = 64
    feature_dim: int = 256
    embed_dim: int = 100

    @property
    def seen(self) -> int:
        return self.classes - self.unseen

    @property
    def pairs(self) -> int:
        return self.classes * (self.classes + 1) // 2


class Row(NamedTuple):
    """One line of the table: bytes that one process holds, sends, and that all write."""

    stage: str
    what: str
    place: str = ""
    memory: float = 0
    sent: float = 0
    disk: float = 0


def all_reduce(size: float, processes: int) -> float:
    """Bytes that a process sends for a ring all-reduce of ``size`` bytes."""
    return 2 * size * (processes - 1) / processes


def share(count: int, processes: int) -> int:
    """The largest of the processes' shares."""
    return -(-count // processes)


def pair_bytes(path_length: int) -> int:
    """Bytes of a list of two paths, and of its place in the list of files."""
    path = "x" * path_length
    return sys.getsizeof([path, path]) + 2 * sys.getsizeof(path) + LONG


def scan_bytes(images: int, classes_per_image: int) -> int:
    """Bytes of a ``LabelScan``."""
    entries = images * classes_per_image
    return entries * (LONG + INT) + (images + 1) * INT + images * LONG


def stored_scan_bytes(images: int, classes_per_image: int) -> int:
    """Bytes of a scan as it travels and, before compression, is stored."""
    return images * classes_per_image * (LONG + 2 * INT) + images * (2 * LONG + 3)


def bank_bytes(case: Case, samples: int, width: int = FLOAT) -> int:
    """Bytes of the features of a bank in which every class is full."""
    return case.seen * samples * case.feature_dim * width


def sampler_peak_bytes(case: Case, samples: int) -> int:
    """Bytes of a full sampler while it cuts what waits: the sample, as much waiting, the result.

    And 28 words for each feature that is kept: labels, keys, their orders and ranks.
    """
    return 3 * bank_bytes(case, samples) + 28 * LONG * case.seen * samples


def generator_bytes(case: Case, depth: int, samples: int, width: int) -> float:
    """Bytes of one update but for pairs and parameters: activations of a process's classes.

    Of [N, width] a layer takes three, the slopes of its activation, what comes out of it and a
    gradient; the point loss three more and its gradient one.
    """
    return (3 * depth + 4) * share(case.classes, case.processes) * samples * width * FLOAT


def update_elements(case: Case, widths: Sequence[int], parameters: int) -> int:
    """Numbers in the all-reduces of one generator update, but for a few words of bookkeeping.

    Forward and backward: the prototypes of each layer, ``widths`` wide, the means of the
    features and the relations. Then the gradients.
    """
    prototypes = case.classes * (sum(widths) + case.feature_dim)
    return 2 * (prototypes + len(widths) * case.pairs) + parameters


def start_rows(case: Case) -> Iterator[Row]:
    yield Row("start", "lists of files, for segmentor and features", HOST,
              2 * case.images * pair_bytes(case.path_length))
    yield Row("start", "label scan, for segmentor and features", HOST,
              2 * scan_bytes(case.images, case.classes_per_image),
              2 * stored_scan_bytes(case.images, case.classes_per_image),
              stored_scan_bytes(case.images, case.classes_per_image))


def segmentor_rows(case: Case, config: dict[str, Any], parameters: int) -> Iterator[Row]:
    weights = parameters * FLOAT
    kept = config.get("keep_checkpoint_max", 3) + 2  # and best_model, model.pdparams
    yield Row("segmentor", "weights, gradients, momentum; gradients per iteration", DEVICE,
              3 * weights, all_reduce(weights, case.processes), 2 * kept * weights)
    yield Row("segmentor", f"one crop of {case.crop}²: logits, softmax, gradient", DEVICE,
              3 * case.classes * case.crop**2 * FLOAT)


def features_rows(case: Case, samples: int) -> Iterator[Row]:
    bank = bank_bytes(case, samples)
    yield Row("features", "sample of a process, at its peak", HOST,
              sampler_peak_bytes(case, samples))
    yield Row("features", f"counts of pixels and of keys, {KEY_ROUNDS} rounds", "", 0,
              all_reduce((1 + KEY_ROUNDS * 256) * case.classes * LONG, case.processes))
    yield Row("features", "what of it is in the bank, to the first process", "", 0,
              (bank + case.seen * samples * 2 * LONG) / case.processes, bank)


def generator_rows(case: Case, section: dict[str, Any], samples: int,
                   parameters: int) -> Iterator[Row]:
    model = section["model"]
    hidden, depth, drawn = model["hidden_dim"], model["num_layers"], section["num_samples"]
    width = max(hidden, case.feature_dim)
    yield Row("generator", "bank, as stored and standardized", HOST,
              2 * bank_bytes(case, samples))
    yield Row("generator", "weights, gradients, two moments", DEVICE, 4 * parameters * FLOAT, 0,
              3 * 3 * parameters * FLOAT)
    yield Row("generator", f"activations of {share(case.classes, case.processes)} classes", DEVICE,
              generator_bytes(case, depth, drawn, width))
    yield Row("generator", f"a dropout mask of all {case.classes} classes", DEVICE,
              case.classes * drawn * hidden * FLOAT)
    yield Row("generator", f"a block of the {case.pairs} pairs; relations", DEVICE,
              4 * PAIR_BLOCK_SIZE * FLOAT / case.processes
              + 4 * depth * case.classes**2 * FLOAT)
    widths = [hidden] * (depth - 1) + [case.feature_dim]
    elements = update_elements(case, widths, parameters)
    yield Row("generator", "prototypes, relations and gradients per iteration", "", 0,
              all_reduce(elements * FLOAT, case.processes))


def classifier_rows(case: Case, section: dict[str, Any], samples: int) -> Iterator[Row]:
    generated = case.unseen * section.get(
        "num_generated", SECTIONS["classifier"].model_fields["num_generated"].default)
    layer = case.classes * (case.feature_dim + 1) * FLOAT
    own = share(section["batch_size"], case.processes)
    yield Row("classifier", "bank, as stored and standardized, and generated features", HOST,
              2 * bank_bytes(case, samples) + generated * case.feature_dim * FLOAT)
    yield Row("classifier", "layer, gradient, two moments; gradients per iteration", DEVICE,
              4 * layer, all_reduce(layer, case.processes), 3 * 3 * layer)
    yield Row("classifier", f"{own} features: logits, softmax, gradient", DEVICE,
              own * (case.feature_dim + 3 * case.classes) * FLOAT)


def evaluation_rows(case: Case) -> Iterator[Row]:
    counts = case.classes**2 * LONG
    yield Row("evaluation", f"logits of one image of {case.crop}²", DEVICE,
              case.classes * case.crop**2 * FLOAT)
    yield Row("evaluation", "counts by label and prediction, once", HOST, counts,
              all_reduce(counts, case.processes))


def count_parameters(model: paddle.nn.Layer) -> int:
    return sum(parameter.size for parameter in model.parameters())


def make_generator(case: Case, section: dict[str, Any]) -> paddle.nn.Layer:
    return UserErrorBuilder(None).build_component({
        **section["model"], "embed_dim": case.embed_dim, "feature_dim": case.feature_dim})


def rows(case: Case) -> list[Row]:
    """All lines of the table."""
    config = load_yaml(os.path.join(ROOT, CONFIG))
    model = UserErrorBuilder(None).build_component(
        {**config["model"], "num_classes": case.classes})
    generator = make_generator(case, config["generator"])
    features = config["zero_shot"].get("features") or {}
    samples = features.get("samples_per_class", Features().samples_per_class)
    return [*start_rows(case), *segmentor_rows(case, config, count_parameters(model)),
            *features_rows(case, samples),
            *generator_rows(case, config["generator"], samples, count_parameters(generator)),
            *classifier_rows(case, config["classifier"], samples), *evaluation_rows(case)]


def size(count: float) -> str:
    """Bytes as people read them; a dash for none."""
    if not count:
        return "–"
    for unit in ("B", "KB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def table(case: Case) -> str:
    """The table in Markdown."""
    lines = ["| stage | what | a process holds | on | a process sends | written |",
             "|---|---|---|---|---|---|"]
    lines += [f"| `{row.stage}` | {row.what} | {size(row.memory)} | {row.place or '–'} "
              f"| {size(row.sent)} | {size(row.disk)} |" for row in rows(case)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in Case()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(default: %(default)s)")
    text = table(Case(**vars(parser.parse_args(argv))))
    print(text)
    return text


if __name__ == "__main__":
    main()
