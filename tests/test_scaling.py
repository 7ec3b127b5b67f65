"""The figures of docs/scaling.md: made anew, and held against what the code holds and sends."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle.base import core
from paddleseg.models.losses import CrossEntropyLoss

from helpers import tiny_runs
from paddle_csrl import parallel
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank, _common_threshold
from paddle_csrl.datasets import scan_labels
from paddle_csrl.losses import MMDLoss, PairwiseRelationLoss
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models import structural_generator
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.models.structural_generator import StructuralGenerator
from paddle_csrl.parallel import Share

sys.path.insert(0, os.path.join(tiny_runs.ROOT, "benchmarks"))

import scaling  # noqa: E402


def test_the_table_of_the_document_is_that_of_the_script():
    text = Path(tiny_runs.ROOT, "docs", "scaling.md").read_text("utf-8")
    assert scaling.table(scaling.Case()) in text


def test_parameters_are_those_of_a_model_with_weights():
    case = scaling.Case(classes=5)
    generator = scaling.make_generator(case, {"model": {
        "type": "StructuralGenerator", "noise_dim": 4, "hidden_dim": 8}})
    counted = sum(value.size for value in generator.state_dict().values())
    assert scaling.count_parameters(generator) == counted > 0


@pytest.fixture
def sent(monkeypatch):
    """Sizes of the tensors that are all-reduced, as the first of three processes."""
    sizes = []
    monkeypatch.setattr(paddle.distributed, "all_reduce", lambda x: sizes.append(x.size))
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    return sizes


def make_task(classes, samples, feature, embed, noise, hidden, num_layers):
    rng = np.random.default_rng(0)
    generator = StructuralGenerator(embed, feature, noise, num_layers, hidden)
    task = GeneratorTask(generator, rng.normal(size=(classes, embed)).astype(np.float32),
                         rng.normal(size=(classes - 2, feature)).astype(np.float32),
                         range(classes - 2), [classes - 2, classes - 1], samples, "edges")
    data = {"img": paddle.randn([1, classes - 2, samples, feature]),
            "label": paddle.full([1, classes - 2], samples, "int64")}
    losses = {"types": [MMDLoss(), PairwiseRelationLoss()], "coef": [1.0, 1.0]}
    return task, lambda: task.loss_computation(task(data["img"]), losses, data)


@pytest.mark.parametrize("block", [50, structural_generator.PAIR_BLOCK_SIZE])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_an_update_sends_as_much_as_the_script_says(sent, monkeypatch, num_layers, block):
    monkeypatch.setattr(structural_generator, "PAIR_BLOCK_SIZE", block)
    classes, feature, hidden = 7, 6, 4
    task, terms = make_task(classes, 8, feature, 5, 3, hidden, num_layers)
    task.share = Share(classes, 0, 3)
    computed = terms()
    sum(computed).backward()
    parallel.add_up(task.parameters(), computed)
    sent[-1] -= len(task.parameters()) + len(computed)  # which have a gradient at all, and the log
    case = scaling.Case(classes=classes, feature_dim=feature)
    widths = [hidden] * (num_layers - 1) + [feature]
    expected = scaling.update_elements(case, widths, scaling.count_parameters(task))
    # Nothing is trained on the means of the features here, so that they do not travel back.
    assert sum(sent) == expected - classes * feature


def test_the_layer_sends_its_gradients(sent):
    layer = PixelClassifier(6, 5)
    layer.share = Share(9, 0, 3)
    data = {"img": paddle.randn([1, 6, 9, 1]), "label": paddle.zeros([1, 9, 1], "int64")}
    terms = layer.loss_computation(layer(data["img"]), {"types": [CrossEntropyLoss()], "coef": [1]},
                                   data)
    sum(terms).backward()
    parallel.add_up(layer.parameters(), terms)
    assert sent == [5 * (6 + 1) + 2 + 1]  # and which of two parameters have a gradient; the term


def test_the_counts_of_an_evaluation_are_as_large_as_the_script_says():
    row, = (row for row in scaling.evaluation_rows(scaling.Case(classes=7)) if row.sent)
    counts = ZeroShotEvaluator(7, [0]).confusion
    assert row.memory == counts.nbytes
    assert row.sent == scaling.all_reduce(counts.nbytes, 64)


def test_the_threshold_needs_as_many_rounds_as_the_script_says(sent):
    _common_threshold(np.repeat([0, 2], 50), np.random.default_rng(0).random(100), 3, bound=7)
    assert sent == [3 * 256] * scaling.KEY_ROUNDS


def test_a_ring_sends_each_byte_twice_but_for_its_own_part():
    assert scaling.all_reduce(100, 1) == 0 and scaling.all_reduce(100, 4) == 150


def test_a_scan_holds_and_stores_as_much_as_the_script_says(tmp_path):
    files = []
    for index in range(6):
        label = np.repeat(np.arange(3, dtype=np.uint8), 8)[None].repeat(8, 0) + index
        files.append([str(tmp_path / f"{index}.{kind}") for kind in ("jpg", "png")])
        cv2.imwrite(files[-1][0], np.zeros((*label.shape, 3), np.uint8))
        cv2.imwrite(files[-1][1], label)
    scan = scan_labels(files, 9, cache_dir=str(tmp_path))
    counts = scan.counts
    held = sum(array.nbytes for array in (counts.data, counts.indices, counts.indptr,
                                          scan.unlabelled))
    assert held == scaling.scan_bytes(images=6, classes_per_image=3)
    name, = (name for name in os.listdir(tmp_path) if name.endswith(".npz"))
    with np.load(tmp_path / name) as stored:
        assert sum(stored[key].nbytes for key in stored.files) \
            == scaling.stored_scan_bytes(images=6, classes_per_image=3)


def test_a_list_of_files_takes_as_much_as_the_script_says():
    tracemalloc.start()
    try:
        files = [[f"{index:060d}", f"{index:060d}"] for index in range(2000)]
        taken = tracemalloc.get_traced_memory()[0] / len(files)
    finally:
        tracemalloc.stop()
    assert taken == pytest.approx(scaling.pair_bytes(60), rel=0.15)


def test_sample_and_bank_take_as_much_as_the_script_says(tmp_path):
    case, bound = scaling.Case(classes=40, unseen=0, feature_dim=64), 2000
    sampler, rng = BottomKSampler(40, bound), np.random.default_rng(0)
    tracemalloc.start()
    try:
        for image in range(50):
            positions, labels, keys = sampler.candidates(rng.integers(40, size=8000), [0, image])
            sampler.add(np.ones((len(positions), 64), np.float32), labels, keys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak == pytest.approx(scaling.sampler_peak_bytes(case, bound), rel=0.15)
    bank = sampler.bank()
    assert bank.features.nbytes == scaling.bank_bytes(case, bound)
    bank.save(str(tmp_path / "bank.npz"))
    assert os.path.getsize(tmp_path / "bank.npz") == pytest.approx(bank.features.nbytes, rel=0.01)
    assert FeatureBank.load(str(tmp_path / "bank.npz")).features.nbytes == bank.features.nbytes


def test_an_update_takes_as_much_as_the_script_says():
    # In a process of its own, for older releases cannot reset the peak. It grows with the layers.
    depths = [1, 2, 3]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, depths)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tiny_runs.ROOT, *sys.path])})
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak")]
    case = scaling.Case(classes=24, processes=1)
    for num_layers, peak in zip(depths, peaks, strict=True):
        expected = scaling.generator_bytes(case, num_layers, 160, 128)
        assert peak == pytest.approx(expected, rel=0.25), num_layers


def print_peak(num_layers):
    """Of one update with so many samples that all that does not grow with them is little."""
    _, terms = make_task(24, 160, 128, 20, 8, 128, num_layers)
    before = core.host_memory_stat_current_value("Allocated", 0)
    sum(terms()).backward()
    print("peak", core.host_memory_stat_peak_value("Allocated", 0) - before)


if __name__ == "__main__":
    for depth in sys.argv[1:]:
        print_peak(int(depth))
