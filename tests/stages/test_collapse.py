"""A generator that makes one and the same feature is warned of."""

import numpy as np
import paddle
import pytest

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import add_class
from paddle_csrl.stages import generator
from paddle_csrl.stages.generator import relative_spread, spread_of_classes, trained_generator
from paddle_csrl.utils import read_json


def test_the_spread_against_numpy(capsys):
    rng = np.random.default_rng(0)
    wide, flat = rng.normal(0, 3, (500, 7)), np.full((500, 7), 5.0)
    narrow = rng.normal(0, 0.02, (500, 7))
    made = np.stack([wide, flat, narrow, wide]).astype(np.float32)
    found = relative_spread(["wide", "flat", "narrow", "single"], made, [6.0, 6.0, 6.0, 0.0])
    assert found == {"wide": pytest.approx(np.std(wide, 0).mean() / 6, abs=1e-4), "flat": 0,
                     "narrow": pytest.approx(np.std(narrow, 0).mean() / 6, abs=1e-4)}
    warning = capsys.readouterr().out
    assert warning.count("WARNING") == 1
    assert "flat (0.00%), narrow (0.33%)" in warning and "wide" not in warning


def test_a_healthy_generator_is_not_doubted(finished, capsys):
    run = finished("custom")
    found = read_json(run.path("generator", "stage.json"))["spread"]
    assert sorted(found) == ["background", "car", "cat", "cow", "dog"]
    context = run.open().context
    state = paddle.get_rng_state()
    assert found == spread_of_classes(trained_generator(context), context.bank,
                                      context.classes.names, 0)
    paddle.set_rng_state(state)
    assert "collapsed" not in capsys.readouterr().out and min(found.values()) > 0.05


def test_a_seen_class_is_compared_with_its_own_features(finished):
    """Twice as far spread, it counts half; the classes of others do not change."""
    context = finished("custom").open().context
    task, bank, names = trained_generator(context), context.bank, context.classes.names
    first = spread_of_classes(task, bank, names, 0)
    start, count = bank.starts[1], bank.counts[1]
    features = bank.features.copy()
    features[start:start + count] *= 2
    second = spread_of_classes(task, FeatureBank(features, bank.counts, bank.pixel_counts), names,
                               0)
    assert second["cat"] == pytest.approx(first["cat"] / 2, abs=1e-3)
    assert second["dog"] == first["dog"] and second["cow"] < first["cow"]


def test_a_collapse_is_told_by_training_and_by_add_class(finished, tmp_path, monkeypatch, capsys):
    """All weights 0, so that a feature is the bias whatever the noise."""
    run, train = finished("custom").copy(tmp_path / "run"), generator.train_generator

    def flattened(section, embeddings, bank, unseen_ids, seed, fit):
        task = train(section, embeddings, bank, unseen_ids, seed, fit)
        for parameter in task.generator.parameters():
            parameter.set_value(paddle.zeros_like(parameter))
        return task

    monkeypatch.setattr(generator, "train_generator", flattened)
    capsys.readouterr()
    run.again("generator.num_samples=5")
    printed = capsys.readouterr().out
    assert printed.count("the generator has collapsed") == 1
    assert "background (0.00%)" in printed and "car (0.00%)" in printed
    assert set(read_json(run.path("generator", "stage.json"))["spread"].values()) == {0}
    add_class.main(["--run", run.folder, "horse", "--device", "cpu"])
    assert "horse (0.00%)" in capsys.readouterr().out
