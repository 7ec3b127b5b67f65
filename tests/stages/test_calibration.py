"""What is taken off the logits of seen classes: a number, or what a share of their pixels costs."""


import numpy as np
import paddle
import pytest

from helpers import tiny_runs
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.run import Run
from paddle_csrl.stages import calibration
from paddle_csrl.stages.calibration import Calibration, cost_calibration, cost_calibrations, fold
from paddle_csrl.stages.classifier import ClassifierSection
from paddle_csrl.utils import read_json


def test_by_hand():
    # One class loses half of its pixels above 3, the other at 10: a share of 1/4 of both is at 3.
    margins = [np.array([1.0, 3.0, 5.0, 7.0]), np.array([10.0, 20.0])]
    assert cost_calibration(margins, 0.12) == 1.0
    assert cost_calibration(margins, 0.24) == 3.0
    assert cost_calibration(margins, 0.74) == 10.0
    assert cost_calibration(margins, 0.99) == 20.0


def test_many_costs_are_those_of_one_each():
    rng = np.random.default_rng(0)
    margins, costs = [rng.normal(size=n).round(1) for n in (7, 30)], [0.9, 0.01, 0.5, 0.999]
    assert cost_calibrations(margins, costs) == [cost_calibration(margins, cost) for cost in costs]
    for cost, value in zip(costs, cost_calibrations(margins, costs)):
        lost = [np.mean([(rows <= limit).mean() for rows in margins])
                for limit in sorted(np.concatenate(margins)) if limit < value]
        assert not lost or max(lost) < cost + 1e-12


def test_a_negative_calibration_where_too_much_goes_there_by_itself():
    assert cost_calibration([np.array([-3.0, -2.0, 4.0, 5.0])], 0.3) == -2.0


def section(**values) -> ClassifierSection:
    return ClassifierSection.model_construct(**values)


def test_of_a_section():
    assert Calibration.of(None) == Calibration.of(section()) == Calibration(0.0)
    assert Calibration.of(section(calibration=2, seen_cost=0.3)) == Calibration(2.0)
    assert Calibration.of(section(calibration="auto")) == Calibration(0.1, is_cost=True)
    open_cost = Calibration.of(section(calibration="auto", seen_cost="auto"))
    assert open_cost.is_cost and open_cost.is_open
    assert open_cost.settings == {"classifier.calibration": "auto", "classifier.seen_cost": "auto"}
    wanted = Calibration.of(section(calibration="auto", seen_cost=0.3))
    assert wanted == Calibration(0.3, is_cost=True)
    assert wanted.settings == {"classifier.calibration": "auto", "classifier.seen_cost": 0.3}


def _data(seed: int = 0):
    """Three seen classes of unequal size and an unseen one, raw features."""
    rng = np.random.default_rng(seed)
    counts = np.array([300, 200, 0, 100])
    raw = [rng.normal(shift, 1, (count, 5)).astype(np.float32) + 3
           for shift, count in zip((0, 0.5, 0, 1), counts)]
    bank = FeatureBank(np.concatenate(raw), counts, counts * 10)
    scale = bank.scale()
    return raw, bank.scaled(scale), scale


@pytest.mark.parametrize("cost", [0.05, 0.2, 0.6])
def test_the_final_layer_gives_that_share_of_the_seen_pixels_away(cost):
    raw, bank, scale = _data()
    paddle.seed(1)
    classifier = PixelClassifier(5, 4)
    unseen, seen = np.array([2]), np.array([0, 1, 3])
    plain = fold(classifier, scale, np.zeros(0, np.int64), 0.0)
    value = Calibration(cost, is_cost=True).found(plain, bank, scale, unseen)
    layer = fold(classifier, scale, seen, value)
    shares = []
    for class_id in seen:
        logits = raw[class_id] @ layer["weight"][:, :, 0, 0].T + layer["bias"]
        shares.append((logits.argmax(1) == 2).mean())
    assert np.mean(shares) == pytest.approx(cost, abs=0.01)  # every class alike, by its own rows


def test_a_layer_without_bias_gives_that_share_away_too():
    rng = np.random.default_rng(0)
    counts = np.array([200, 200, 0])
    raw = [rng.uniform(1, 2, (200, 6)).astype(np.float32) for _ in range(2)]
    raw = [rows / rows[:, :4].sum(1, keepdims=True) for rows in raw]  # (1, 1, 1, 1, 0, 0)·x = 1
    bank = FeatureBank(np.concatenate(raw), counts, counts)
    scale = bank.scale()
    bank = bank.scaled(scale)
    classifier = PixelClassifier(6, 3, scale.origin)
    unit = calibration.unit_direction(bank, scale)
    plain = fold(classifier, scale, np.zeros(0, np.int64), 0.0)
    value = Calibration(0.25, is_cost=True).found(plain, bank, scale, np.array([2]), unit)
    layer = fold(classifier, scale, np.array([0, 1]), value, unit)
    logits = np.concatenate(raw) @ layer["weight"][:, :, 0, 0].T
    assert (logits.argmax(1) == 2).mean() == pytest.approx(0.25, abs=0.02)


def test_the_scale_of_the_logits_changes_the_value_but_not_the_decisions():
    _, bank, scale = _data()
    paddle.seed(1)
    classifier = PixelClassifier(5, 4)
    layer = fold(classifier, scale, np.zeros(0, np.int64), 0.0)
    doubled = {name: 2 * value for name, value in layer.items()}
    one, two = (cost_calibration(margins, 0.2) for margins in (
        calibration.margins_of(item, bank, scale, np.array([2])) for item in (layer, doubled)))
    assert two == pytest.approx(2 * one, rel=1e-5)


@pytest.mark.parametrize("name, opt, message", [
    ("csrl_shapes", "classifier.calibration=much", "calibration: much` must be a valid number"),
    ("csrl_shapes", "classifier.seen_cost=0", "seen_cost: 0` must be 'auto' or greater than 0"),
    ("csrl_shapes", "classifier.seen_cost=1.0", "seen_cost: 1.0` must be 'auto' or less than 1"),
    ("csrl_shapes", "classifier.seen_cost=low", "seen_cost: low` must be 'auto' or a valid number"),
])
def test_what_is_no_calibration(name, opt, message):
    with pytest.raises(UserError, match=f"`classifier.{message}"):
        ZeroShotConfig(tiny_runs.config_path(name), opts=[opt])


def test_a_run_remembers_the_calibration_it_found(finished, tmp_path):
    run = finished("shapes").copy(tmp_path / "run")
    run.again("classifier.calibration=auto", "classifier.seen_cost=0.3")
    found = Run.open(run.folder).calibration
    assert read_json(run.path("calibration.json")) == {"calibration": found, "seen_cost": 0.3}
    again = run.again("classifier.calibration=auto", "classifier.seen_cost=0.05")
    assert Run.open(run.folder).calibration < found  # a smaller cost, from the same stages
    assert again["seen_miou"] >= 0


def test_the_bank_is_gone_over_once_for_one_layer(finished, tmp_path, monkeypatch):
    """VisualDL's scores of the last iteration and the final model are of the same weights."""
    calls, compute = [], calibration.margins_of
    monkeypatch.setattr(calibration, "margins_of", lambda *args: calls.append(1) or compute(*args))
    run = finished("shapes").copy(tmp_path / "run")
    run.again("classifier.calibration=auto", "classifier.save_interval=4")
    assert len(calls) == 1


def test_a_lost_record_is_told(tmp_path):
    config = ZeroShotConfig(tiny_runs.config_path("csrl_shapes"),
                            overrides={"save_dir": str(tmp_path)})
    with pytest.raises(UserError, match="calibration.json does not say which calibration"):
        Run(config).calibration
