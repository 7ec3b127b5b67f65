"""benchmarks/zs3net_loop.py, as far as it goes without PyTorch."""

import importlib.util
import os
import sys

import numpy as np

from helpers import tiny_runs
from paddle_csrl.config import ZeroShotConfig

sys.path.insert(0, os.path.join(tiny_runs.ROOT, "benchmarks"))

import zs3net_loop  # noqa: E402


def test_without_pytorch_it_names_the_command_that_has_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    zs3net_loop.main([])
    [line] = capsys.readouterr().out.splitlines()
    assert "skipped" in line and line.endswith("make benchmark-zs3net")


def test_the_loop_is_multiplied_to_as_many_samples(capsys):
    ours = zs3net_loop.Samples(compared=6_000_000, generated=8_000_000, classified=2_000_000)
    theirs = zs3net_loop.Samples(compared=30_000, generated=400_000, classified=400_000)
    # A batch is 2 s of generator, 1 s of last layer and 10 s of backbone. 200 and 20 batches.
    zs3net_loop.report(np.array([[50.0, 2.0, 1.0, 10.0]]), ours, theirs, steps=20)
    whole, compared, generated = capsys.readouterr().out.splitlines()
    assert "50 s;" in whole and "100 ms a class" in whole
    assert "200 batches" in compared and "ratios 8.1 " in compared and " and 48 " in compared
    assert "20 batches" in generated and "ratios 0.9 " in generated and " and 5 " in generated


def test_a_short_turn_stands_for_all_iterations(monkeypatch, tmp_path):
    """By a clock that only iterations and what is around them move."""
    now = [0.0]

    def fit(model, batches, section, callbacks):
        now[0] += 5
        for _ in range(section.iters):
            now[0] += 2 if hasattr(section, "num_samples") else 3
            callbacks[0](None)

    config = ZeroShotConfig(os.path.join(tiny_runs.ROOT, "configs", "csrl_voc_unseen2.yml"), {
        "zero_shot.features.samples_per_class": 4, "generator.iters": 1000,
        "generator.num_samples": 2, "classifier.iters": 500, "classifier.num_generated": 2,
        "classifier.batch_size": 2})
    monkeypatch.setattr(zs3net_loop, "fit", fit)
    monkeypatch.setattr(zs3net_loop.time, "perf_counter", lambda: now[0])
    embeddings = np.random.default_rng(0).standard_normal((21, 4), np.float32)
    for full in (False, True):
        ours = zs3net_loop.Ours(config, embeddings, str(tmp_path), full)
        assert ours.turn() == 10 + 2 * 1000 + 3 * 500
    assert ours.samples == zs3net_loop.Samples(1000 * 2 * 19, 1000 * 2 * 21 + 2 * 2, 500 * 2)
