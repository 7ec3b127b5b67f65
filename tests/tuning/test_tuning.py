"""paddle_csrl.tuning and tools/tune.py: settings chosen on seen classes held out."""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from helpers.tiny_runs import ROOT, Finished, custom, digest, run_all
from paddle_csrl.bank.feature_bank import FeatureBank, Scale
from paddle_csrl.cli import tune
from paddle_csrl.config import ZeroShotConfig, read_settings
from paddle_csrl.errors import UserError
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.run import Run
from paddle_csrl.stages import seen_cost
from paddle_csrl.stages.calibration import Calibration, unit_direction
from paddle_csrl.stages.calibration import fold as fold_layer
from paddle_csrl.tuning import Budget, Fold, Search, SeenClasses, Space, draw_folds, make_fold
from paddle_csrl.tuning import search as search_module
from paddle_csrl.tuning.bank_trial import bank_trial, score_layer

SPACE = """
common:
  generator.iters: [2, 3]
  generator.lr_scheduler.learning_rate: [0.001, 0.01]
  classifier.iters: [3, 5]
  classifier.calibration: [0, 1.0, 2]
methods:
  point: {base: point.yml, search: {generator.model.hidden_dim: [8, 24]}}
  csrl:
    fixed:
      generator.unseen_prototypes: free   # in the hull, few iterations end at the same corner
      generator.loss:
        types: [{type: MMDLoss}, {type: PairwiseRelationLoss, gamma: 1.0}]
        coef: [1.0, 1.0]
    search:
      terms:
        - {generator.relation: edges, generator.loss.coef: [1.0, 0.5]}
        - {generator.relation: prototypes, generator.loss.coef: [1.0, 0.1]}
      generator.loss.types.1.gamma: [0.5, 2.0]
"""
POINT = "generator: {loss: {types: [{type: MMDLoss}], coef: [1.0]}}"


def made_bank(counts=(60, 50, 60, 45, 80), dim: int = 6, seed: int = 0) -> FeatureBank:
    """Classes apart from each other, with 10 pixels to each feature and more for later ones."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(len(counts), dim))
    features = np.concatenate([centre + rng.normal(size=(count, dim))
                               for centre, count in zip(centres, counts)])
    counts = np.array(counts)
    return FeatureBank(features.astype(np.float32), counts, counts * 10 * (1 + np.arange(
        len(counts))))


def made_classes(num_unseen: int = 1, **kwargs: Any) -> SeenClasses:
    bank = made_bank(**kwargs)
    embeddings = np.random.default_rng(1).normal(size=(len(bank.counts), 3)).astype(np.float32)
    names = ["background", "cat", "dog", "cow", "car", "tree", "sky"][:len(bank.counts)]
    return SeenClasses(names, embeddings, bank, num_unseen)


@pytest.fixture
def space_file(tmp_path) -> str:
    (tmp_path / "point.yml").write_text(POINT)
    (tmp_path / "space.yml").write_text(SPACE)
    return str(tmp_path / "space.yml")


@pytest.fixture(scope="module")
def base(finished) -> Finished:
    """A run whose classes have enough features to be held out."""
    return finished("shapes")


@pytest.fixture
def dic(base) -> dict[str, Any]:
    return base.builder().config.dic


# Folds.

def test_folds_are_disjoint_as_large_as_asked_and_drawn_by_the_seed():
    seen = made_classes(2, counts=(50, 60, 60, 60, 60, 60, 39))
    first, second = draw_folds(seen, 2, 0)
    assert len(first) == len(second) == 2 and not set(first) & set(second)
    assert set(first) | set(second) <= {1, 2, 3, 4, 5}  # no background, none of too few rows
    assert all(np.array_equal(a, b) for a, b in zip(draw_folds(seen, 2, 0), (first, second)))
    others = [np.concatenate(draw_folds(seen, 2, seed)).tolist() for seed in range(5)]
    assert len({tuple(other) for other in others}) > 1


def test_folds_shrink_where_classes_are_few_and_fail_where_none_is_left():
    assert [len(group) for group in draw_folds(made_classes(4), 4, 0)] == [1] * 4
    assert [len(group) for group in draw_folds(made_classes(4), 1, 0)] == [2]  # half of five
    with pytest.raises(UserError, match="--folds 5: only 4 of 5 seen classes"):
        draw_folds(made_classes(1), 5, 0)


def test_only_a_class_0_of_that_name_is_the_background():
    seen = made_classes(1)
    seen.names[0], seen.names[1] = "sky", "background"
    assert sorted(np.concatenate(draw_folds(seen, 5, 0)).tolist()) == [0, 1, 2, 3, 4]


def offsets(*values: float) -> list:
    return [Calibration(value) for value in values]


# The data of a trial.

def test_the_rows_of_a_fold():
    """Nothing is trained on rows to score or on held-out classes, whose scale is not used."""
    seen, held_out = made_classes(), np.array([2])
    fold = make_fold(seen, held_out, 0)
    assert fold.bank.counts.tolist() == [45, 38, 0, 34, 60]
    assert fold.bank.pixel_counts.tolist() == [600, 1000, 0, 1800, 4000]
    assert np.bincount(fold.labels).tolist() == [15, 12, 15, 11, 20]
    # Back in raw units, the two parts are the bank's own rows, each once.
    mean = np.mean([_train_rows(seen, fold, c).mean(0) for c in (0, 1, 3, 4)], axis=0)
    variance = np.mean([((_train_rows(seen, fold, c) - mean)**2).mean(0) for c in (0, 1, 3, 4)],
                       axis=0)
    for rows, c in ((fold.features[fold.labels == 2], 2), (fold.bank.of(0), 0)):
        raw = rows * np.sqrt(variance) + mean
        distance = np.abs(raw[:, None] - seen.bank.of(c)[None]).max(2)
        assert (distance.min(1) < 1e-4).all() and len(set(distance.argmin(1))) == len(rows)


def _train_rows(seen: SeenClasses, fold: Fold, class_id: int) -> np.ndarray:
    """The class's rows in the bank of ``seen`` that are not among those to score."""
    own = seen.bank.of(class_id)
    shape = fold.features[fold.labels == class_id]
    # An affine map per dimension keeps the order within a dimension: find it by two rows.
    scale = _affine(own, np.concatenate([shape, fold.bank.of(class_id)]))
    raw = shape * scale[0] + scale[1]
    distance = np.abs(own[:, None] - raw[None]).max(2).min(1)
    return own[distance > 1e-3]


def _affine(raw: np.ndarray, scaled: np.ndarray) -> tuple:
    """Slope and offset per dimension between two orders of the same rows."""
    slope = (raw.max(0) - raw.min(0)) / (scaled.max(0) - scaled.min(0))
    return slope, raw.min(0) - slope * scaled.min(0)


def test_the_scale_does_not_know_the_held_out_classes():
    seen, held_out = made_classes(), np.array([2])
    changed = made_classes()
    rows = slice(changed.bank.starts[2], changed.bank.starts[2] + changed.bank.counts[2])
    changed.bank.features[rows] = 1e3
    first, second = (make_fold(item, held_out, 0) for item in (seen, changed))
    assert np.array_equal(first.bank.features, second.bank.features)
    kept = first.labels != 2
    assert np.array_equal(first.features[kept], second.features[kept])


def test_without_normalization_features_stay_raw():
    seen = made_classes()
    seen.normalizes = False
    fold = make_fold(seen, np.array([1]), 0)
    assert np.isin(fold.features, seen.bank.features).all()


def test_scores_by_hand():
    """Three classes, class 2 held out: predictions, weights and hIoU worked out on paper."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    logits = np.array([[5, 0, 0], [3, 0, 2], [0, 4, 0], [0, 4, 3.5], [2, 0, 3], [3, 0, 1]],
                      np.float32)
    fold = Fold(np.array([2]), None, None, logits, labels, np.array([100, 40, 10]),
                None, np.ones(6, np.float32))
    weight, bias = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    scores = score_layer(weight, bias, fold, offsets(0.0, 0.75, 2.5))
    # Calibration 0: rows to 0, 0, 1, 1, 2, 0. Confusion in pixels: 100; 40; 5 and 5 to class 0.
    seen, unseen = (100 / 105 + 40 / 40) / 2, 5 / 10
    np.testing.assert_allclose(scores[0], [seen, unseen, 2 * seen * unseen / (seen + unseen)])
    # 0.75 turns the fourth row (margin 0.5) to class 2: 20 of the 40 pixels of class 1.
    seen, unseen = (100 / 105 + 20 / 40) / 2, 5 / (10 + 20)
    np.testing.assert_allclose(scores[1], [seen, unseen, 2 * seen * unseen / (seen + unseen)])
    # 2.5 turns the second (margin 1) and the sixth (margin 2) as well.
    seen, unseen = (50 / 100 + 20 / 40) / 2, 10 / (10 + 20 + 50)
    np.testing.assert_allclose(scores[2], [seen, unseen, 2 * seen * unseen / (seen + unseen)])


def test_calibrations_on_one_layer_are_those_folded_into_its_bias():
    fold = make_fold(made_classes(), np.array([1, 3]), 0)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 6)).astype(np.float32), np.zeros(5, np.float32)
    lowered = bias - 1.5 * np.array([1, 0, 1, 0, 1], np.float32)
    np.testing.assert_allclose(score_layer(weight, bias, fold, offsets(1.5)),
                               score_layer(weight, lowered, fold, offsets(0.0)))


def test_a_layer_without_bias_is_scored_as_it_ends_in_the_segmentor():
    """Against the layer for raw features that stage 3 makes, calibration in its weights."""
    seen = made_classes()
    seen.bank.features += 5  # far from zero, where a direction u with u·x near 1 exists
    seen.has_bias, seen.normalizes = False, False
    fold = make_fold(seen, np.array([1]), 0)
    classifier, scale = PixelClassifier(6, 5, fold.origin), Scale.identity(6)
    classifier.conv.weight.set_value(seen.bank.prototypes(range(5))[:, :, None, None])
    layer = fold_layer(classifier, scale, np.array([0, 2, 3, 4]), 20.0,
                       unit_direction(fold.bank, scale))
    assert list(layer) == ["weight"]
    logits = fold.features @ layer["weight"][:, :, 0, 0].T
    expected = score_layer(np.eye(5, dtype=np.float32), np.zeros(5, np.float32),
                           fold._replace(features=logits), offsets(0.0))
    weight = classifier.conv.weight.numpy()[:, :, 0, 0]
    found = score_layer(weight, np.zeros(5, np.float32), fold, offsets(20.0, 0.0))
    np.testing.assert_allclose(found[:1], expected)
    assert not np.allclose(found[1], expected[0])


def test_a_cost_is_counted_on_the_rows_of_classes_that_are_not_held_out():
    fold = make_fold(made_classes(), np.array([1, 3]), 0)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, fold.features.shape[1])).astype(np.float32)
    logits = fold.features @ weight.T
    margin = logits[:, [0, 2, 4]].max(1) - logits[:, [1, 3]].max(1)

    def lost(value: float) -> float:
        return np.mean([(margin[fold.labels == c] < value).mean() for c in (0, 2, 4)])

    value = min(value for value in margin[np.isin(fold.labels, (0, 2, 4))]
                if lost(value + 1e-6) >= 0.3)
    np.testing.assert_allclose(
        score_layer(weight, np.zeros(5, np.float32), fold, [Calibration(0.3, True)]),
        score_layer(weight, np.zeros(5, np.float32), fold, offsets(value)))


def test_standardized_features_of_a_layer_without_bias_keep_their_zero():
    seen = made_classes()
    seen.has_bias = False
    fold = make_fold(seen, np.array([2]), 0)
    own = seen.bank.of(3)
    scaled = np.concatenate([fold.features[fold.labels == 3], fold.bank.of(3)]) + fold.origin
    factor = own.max(0) / scaled.max(0)
    np.testing.assert_allclose(scaled.min(0) * factor, own.min(0), rtol=1e-3)


# The engine.

def sections(dic):
    settings = read_settings(dic, "a config")
    return settings.section("generator"), settings.section("classifier")


def test_a_trial_scores_each_layer_and_depends_on_its_seed(dic):
    fold, (generator, classifier) = make_fold(made_classes(), np.array([1]), 0), sections(dic)
    layers = [classifier.model_copy(update={"iters": iters}) for iters in (3, 6)]
    first, again, other = (bank_trial(fold, generator, layers, offsets(0.0, 1.0), seed)
                           for seed in (0, 0, 1))
    assert first.shape == (2, 2, 3) and np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first[0], first[1])
    alone = bank_trial(fold, generator, layers[1:], offsets(1.0), 0)
    np.testing.assert_allclose(alone[0, 0], first[1, 1])


def test_a_trial_without_a_class_learns_it_from_its_embedding(dic):
    """Held-out training rows do not matter, rows to score do."""
    fold, (generator, classifier) = make_fold(made_classes(), np.array([1]), 0), sections(dic)
    scores = bank_trial(fold, generator, [classifier], offsets(0.0), 0)
    moved = fold._replace(features=fold.features.copy())
    moved.features[fold.labels == 1] += 50
    assert not np.array_equal(
        bank_trial(moved, generator, [classifier], offsets(0.0), 0), scores)


def test_a_trial_of_a_layer_without_bias(dic):
    seen = made_classes()
    biased = make_fold(seen, np.array([1]), 0)
    seen.has_bias = False
    fold = make_fold(seen, np.array([1]), 0)
    generator, classifier = sections(dic)
    scores = bank_trial(fold, generator, [classifier], offsets(0.0), 0)
    assert 0 < scores[0, 0, 0] <= 1
    assert not np.array_equal(
        scores, bank_trial(biased, generator, [classifier], offsets(0.0), 0))


def test_a_trial_in_closed_form(dic):
    """Means of the fold's real features, of ridge for the held-out class; nothing else counts."""
    dic["classifier"]["mode"] = "closed_form"
    dic["generator"].update(model={"type": "RidgePrototypes"}, relation="prototypes")
    fold, (generator, classifier) = make_fold(made_classes(), np.array([1]), 0), sections(dic)
    scores = bank_trial(fold, generator, [classifier], offsets(0.0), 0)
    assert np.array_equal(scores, bank_trial(fold, generator, [classifier], offsets(0.0), 7))
    means, covariance = fold.bank.moments()
    covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    seen = [0, 2, 3, 4]
    design = np.concatenate([fold.embeddings, np.ones((5, 1))], axis=1)
    design[:, :-1] /= np.linalg.norm(fold.embeddings, axis=1, keepdims=True)
    penalty = np.diag([0.1] * fold.embeddings.shape[1] + [0.0])
    made = design[1] @ np.linalg.solve(design[seen].T @ design[seen] + penalty,
                                       design[seen].T @ means)
    means = np.insert(means, 1, made, axis=0)
    weight = np.linalg.solve(covariance, means.T).T
    expected = score_layer(weight, -0.5 * (weight * means).sum(1), fold, offsets(0.0))
    np.testing.assert_allclose(scores[0], expected)


# The space.

def test_the_first_draw_changes_nothing_and_none_comes_twice(space_file, dic):
    space = Space(space_file, "point")
    start = space.start(dic)
    draws = space.draws(start, 8, 2, 0)
    assert draws[0].generator == {} and all(draw.classifiers[0] == {} for draw in draws)
    settings = [json.dumps(space.settings(start, draw.generator)["generator"]) for draw in draws]
    assert len(set(settings)) == 8
    assert draws == space.draws(start, 8, 2, 0) != space.draws(start, 8, 2, 1)
    assert space.draws(start, 5, 2, 0) == draws[:5]


def test_small_spaces_are_tried_whole_with_other_layers_each_time(tmp_path, dic):
    (tmp_path / "space.yml").write_text(
        "common: {generator.iters: [4, 5], classifier.iters: [4, 5, 6]}\nmethods: {m: {}}")
    space = Space(str(tmp_path / "space.yml"), "m")
    draws = space.draws(space.start(dic), 20, 2, 0)
    pairs = [(str(draw.generator), str(layer)) for draw in draws for layer in draw.classifiers]
    assert len(pairs) == len(set(pairs)) == 2 * 3  # 4 is what the config says itself


def test_the_file_says_what_was_chosen_and_nothing_else(space_file, dic, tmp_path):
    space = Space(space_file, "csrl")
    settings = space.settings(space.start(dic), {
        "generator.relation": "prototypes", "generator.loss.coef": [1.0, 0.1],
        "generator.loss.types.1.gamma": 2.0, "classifier.iters": 3})
    chosen = space.chosen(dic, settings)
    assert chosen == {
        "generator": {
            "loss": {"types": [{"type": "MMDLoss"},
                               {"type": "PairwiseRelationLoss", "gamma": 2.0}],
                     "coef": [1.0, 0.1]},
            "iters": 4, "lr_scheduler": {"learning_rate": 0.001}, "relation": "prototypes",
            "unseen_prototypes": "free"},
        "classifier": {"iters": 3, "calibration": 0.0}}


def test_a_value_that_replaces_a_section_says_so(tmp_path, dic):
    (tmp_path / "space.yml").write_text(
        "methods: {m: {fixed: {generator.model: {type: StructuralGenerator, noise_dim: 5}}}}")
    space = Space(str(tmp_path / "space.yml"), "m")
    start = space.start(dic)
    assert start["generator"]["model"] == {"type": "StructuralGenerator", "noise_dim": 5}
    assert space.chosen(dic, start)["generator"]["model"] == {
        "type": "StructuralGenerator", "noise_dim": 5, "_inherited_": False}


@pytest.mark.parametrize("fixed", [
    "generator.optimizer.grad_clip_cfg: null",
    "generator.optimizer: {type: Adam, grad_clip_cfg: {name: ClipGradByValue, max: 1.0}}"])
def test_the_file_gives_what_was_tried(tmp_path, dic, fixed):
    """Also where a key is empty, or a section within the replaced one has other keys."""
    dic["generator"]["optimizer"]["grad_clip_cfg"] = {"name": "ClipGradByNorm", "clip_norm": 1.0}
    (tmp_path / "space.yml").write_text(f"methods: {{m: {{fixed: {{{fixed}}}}}}}")
    space = Space(str(tmp_path / "space.yml"), "m")
    start = space.start(dic)
    (tmp_path / "original.yml").write_text(yaml.safe_dump(dic))
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(
        {"_base_": "original.yml", **space.chosen(dic, start)}))
    given = ZeroShotConfig(str(tmp_path / "mine.yml")).given
    assert given["generator"]["optimizer"] == start["generator"]["optimizer"]
    assert given["generator"]["optimizer"] != dic["generator"]["optimizer"]


@pytest.mark.parametrize("text, message", [
    ("common: {}", "no method `m` under `methods`; it has none"),
    ("methods: {n: {}}", "no method `m` under `methods`; it has n"),
    ("commen: {}\nmethods: {m: {}}", "unknown key `commen`; did you mean `common`"),
    ("methods: {m: {serch: {}}}", "unknown key `methods.m.serch`"),
    ("methods: {m: 3}", "`methods.m` must hold `key: value` pairs"),
    ("common: {generator.iters: 3}\nmethods: {m: {}}", "must be a list of candidates"),
    ("common: {iters: [3]}\nmethods: {m: {}}", "`iters` has no dot"),
    ("common: {zero_shot.unseen: [[cat]]}\nmethods: {m: {}}", "`zero_shot.unseen` cannot be tuned"),
    ("methods: {m: {fixed: {generator.seed: 3}}}", "`generator.seed` cannot be tuned"),
    ("methods: {m: {search: {classifier.iters: [3]}}}", "belongs under `common`"),
    ("methods: {m: {search: {classifier.calibration: [3]}}}", "belongs directly under `common`"),
    ("common: {classifier.calibration: [big]}\nmethods: {m: {}}", "must be a list of numbers"),
    ("common: {classifier.calibration: [.nan]}\nmethods: {m: {}}", "must be a list of numbers"),
    ("common: {a: [{generator.iters: 2, classifier.iters: 2}]}\nmethods: {m: {}}", "mixes keys"),
    ("methods: {m: {base: nowhere.yml}}", "no config at .*nowhere.yml"),
])
def test_a_bad_space_is_named(tmp_path, text, message):
    (tmp_path / "space.yml").write_text(text)
    with pytest.raises(UserError, match=message):
        Space(str(tmp_path / "space.yml"), "m")


@pytest.mark.parametrize("line, message", [
    ("generator.itres: [3]", "unknown key `generator.itres`; did you mean `iters`"),
    ("generator.model.num_layers: [0]", "num_layers must be an integer >= 1"),
    ("generator.loss.coef: [[1.0]]", "two lists of one length"),
    ("generator.loss.types.9.gamma: [1.0]", "cannot be set, for `types` holds"),
    ("classifier.unseen_share: [2.0]", "must be 'auto' or less than 1"),
    ("classifier.mode: [legacy]", "`classifier.mode: legacy` reads labels of unseen classes"),
])
def test_a_bad_candidate_is_found_before_anything_is_trained(tmp_path, dic, monkeypatch, line,
                                                             message):
    monkeypatch.setattr(search_module, "bank_trial", None)
    (tmp_path / "space.yml").write_text(f"common: {{{line}}}\nmethods: {{m: {{}}}}")
    with pytest.raises(UserError, match=message):
        Search(made_classes(), Space(str(tmp_path / "space.yml"), "m"), dic,
               Budget(trials=4, folds=2), 0, str(tmp_path / "m.json"))


# The search.

@pytest.fixture
def counted(monkeypatch) -> list:
    """Stands in for training: scores that tell settings apart; what was asked for."""
    calls = []

    def scores(fold, generator, classifiers, calibrations, seed):
        calls.append((generator.iters, tuple(fold.held_out), seed))
        value = (0.1 * generator.iters + 0.01 * fold.held_out[0] + 0.03 * seed
                 * (generator.iters == 2))
        return np.array([[[0.5, 0.5, value + 0.001 * layer.iters - 0.02 * abs(delta.value - 1)]
                          for delta in calibrations] for layer in classifiers])

    monkeypatch.setattr(search_module, "bank_trial", scores)
    return calls


def searched(space_file: str, dic: dict[str, Any], record: str, **budget: int) -> dict[str, Any]:
    budget = Budget(**{"trials": 6, "classifiers": 3, "folds": 2, **budget})
    return Search(made_classes(), Space(space_file, "point"), dic, budget, 0, record).run()


def test_the_best_mean_over_folds_wins(space_file, dic, tmp_path, counted):
    summary = searched(space_file, dic, str(tmp_path / "point.json"), seeds=2)
    best = summary["ranking"][0]
    assert summary["chosen"]["generator"]["iters"] == 4  # the config's own is the largest
    assert summary["chosen"]["classifier"] == {"iters": 5, "calibration": 1.0}
    classes = [name for group in summary["folds"] for name in group]
    numbers = [made_classes().names.index(name) for name in classes]
    expected = [0.4 + 0.01 * number + 0.005 for number in numbers]
    np.testing.assert_allclose(best["hiou_by_fold"], expected)
    assert best["hiou"] == pytest.approx(np.mean(expected))
    assert best["spread"] == pytest.approx(np.std(expected))
    assert len(counted) == 6 * 2 * 2
    assert len(summary["ranking"]) == summary["budget"]["settings"] == 6 * 3 * 3
    assert summary["as_it_stands"]["overrides"] == {"classifier.calibration": 0.0}


def test_finalists_alone_get_more_seeds(space_file, dic, tmp_path, counted):
    summary = searched(space_file, dic, str(tmp_path / "point.json"), finalists=2, final_seeds=3)
    assert len(counted) == 6 * 2 + 2 * 2 * 3
    assert {row["trial"] for row in summary["ranking"]} == {
        row["trial"] for row in summary["ranking"] if row["seeds"] == 4}
    assert len({row["trial"] for row in summary["ranking"]}) == 2


def test_what_is_known_is_not_trained_again(space_file, dic, tmp_path, counted):
    record = str(tmp_path / "point.json")
    first = searched(space_file, dic, record)
    counted.clear()
    assert searched(space_file, dic, record) == first and counted == []
    larger = searched(space_file, dic, record, trials=8)
    assert len(counted) == 2 * 2  # the first six are those of before
    counted.clear()
    dic["generator"]["num_samples"] += 1
    searched(space_file, dic, record)
    assert len(counted) == 6 * 2
    assert larger["ranking"]


def test_scores_at_a_price_found_by_another_algorithm_are_not_taken(space_file, dic, tmp_path,
                                                                    counted, monkeypatch):
    record, fixed = str(tmp_path / "open.json"), str(tmp_path / "fixed.json")
    searched(space_file, dic, fixed)
    dic["classifier"].update(calibration="auto", seen_cost="auto")
    searched(space_file, dic, record)
    counted.clear()
    searched(space_file, dic, record)
    assert counted == []
    monkeypatch.setattr(seen_cost, "ALGORITHM", (2, *seen_cost.ALGORITHM[1:]))
    searched(space_file, dic, record)
    assert len(counted) == 6 * 2
    counted.clear()
    dic["classifier"].update(calibration=0.0)
    searched(space_file, dic, fixed)
    assert counted == []  # it takes part in none of these


def test_an_interrupted_search_goes_on(space_file, dic, tmp_path, counted, monkeypatch):
    whole = searched(space_file, dic, str(tmp_path / "whole.json"))
    counted.clear()
    scores = search_module.bank_trial

    def fails_at_last(*args):
        if len(counted) == 7:
            raise KeyboardInterrupt
        return scores(*args)

    monkeypatch.setattr(search_module, "bank_trial", fails_at_last)
    record = str(tmp_path / "point.json")
    with pytest.raises(KeyboardInterrupt):
        searched(space_file, dic, record)
    monkeypatch.setattr(search_module, "bank_trial", scores)
    assert searched(space_file, dic, record) == whole and len(counted) == 12


def test_methods_get_the_same_number_of_everything(space_file, dic, tmp_path, counted):
    budgets = []
    for method in ("point", "csrl"):
        counted.clear()
        summary = Search(made_classes(), Space(space_file, method), dic, Budget(5, 2, 2, 2), 0,
                         str(tmp_path / f"{method}.json")).run()
        budgets.append((len(counted), summary["budget"], summary["folds"]))
    assert budgets[0] == budgets[1]


def test_a_space_below_the_budget_is_told(space_file, dic, tmp_path, capsys):
    """At one --budget a method with a larger space would otherwise get more settings."""
    # 2 x 2 x 2 generators and 2 layers, and those of the config as it stands.
    for trials, layers, told in ((9, 3, False), (10, 3, True), (9, 4, True)):
        Search(made_classes(), Space(space_file, "point"), dic, Budget(trials, layers, 2), 0,
               str(tmp_path / "point.json"))
        assert ("has 27 settings for point, fewer" in capsys.readouterr().out) is told


# Leaks.

def test_a_bank_with_an_unseen_class_is_refused():
    bank = made_bank()
    names = ["background", "cat", "dog", "cow", "car"]
    with pytest.raises(UserError, match=r"features of unseen classes \(dog\); make it anew"):
        SeenClasses.from_bank(bank, np.zeros((5, 3), np.float32), names, np.array([2]))


def test_unseen_classes_are_left_behind():
    bank = made_bank((60, 0, 50, 3, 0))
    bank.pixel_counts[:] = 7, 8, 9, 10, 11
    embeddings = np.arange(15, dtype=np.float32).reshape(5, 3)
    names = ["background", "unseen 1", "dog", "rare", "unseen 2"]
    seen = SeenClasses.from_bank(bank, embeddings, names, np.array([1, 4]))
    assert seen.names == ["background", "dog"] and seen.num_unseen == 2
    assert np.array_equal(seen.embeddings, embeddings[[0, 2]])
    assert seen.bank.counts.tolist() == [60, 50] and seen.bank.pixel_counts.tolist() == [7, 9]
    assert np.array_equal(seen.bank.features, bank.features[:110])


def vectors_file(path: str, names: list, seed: int, changed: tuple = ()) -> str:
    """Random word vectors; those of ``changed`` names are others."""
    rng, other = np.random.default_rng(seed), np.random.default_rng(99)
    vectors = rng.normal(size=(len(names), 8))
    for row, name in enumerate(names):
        if name in changed:
            vectors[row] = other.normal(size=8)
    np.savez(path, names=np.array(names), vectors=vectors.astype(np.float32))
    return path


CLASSES = ["background", "cat", "dog", "cow", "car"]  # cow and car are unseen


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Finished:
    """A run of stages segmentor and features on five classes, with vectors of its own.

    No checkpoint is chosen, so that nothing depends on validation data.
    """
    base = tmp_path_factory.mktemp("tuned")
    recipe = custom(str(base / "data"), str(base / "cache"), num_train=16)
    vectors = vectors_file(str(base / "vectors.npz"), CLASSES, 0)
    recipe = recipe._replace(opts=(*recipe.opts, f"zero_shot.embeddings.path={vectors}",
                                   "zero_shot.policy=drop", "do_eval=false"))
    return run_all(recipe, base / "run", stage="segmentor")


def tuned(run: Finished, space: str, out: str, *opts: str, **flags: Any) -> dict[str, Any]:
    flags = {"save_dir": run.folder, "method": "csrl", "space": space, "out": out, "budget": 3,
             "classifier_draws": 2, "folds": 2, **flags}
    return tune.main(run.recipe.argv(*opts, **flags))


#: Long enough a training for every input to show in the scores.
SENSITIVE = ("generator.iters=20", "generator.lr_scheduler.learning_rate=0.02",
             "classifier.iters=20")


def test_what_unseen_classes_are_does_not_matter(original, space_file, tmp_path):
    """Other vectors and names of the unseen classes, other validation data, other dropped images.

    The scores of all trials are the same to the last bit, and so is the file that says what was
    chosen.
    """
    out, other = str(tmp_path / "chosen.yml"), str(tmp_path / "other.yml")
    summary = tuned(original, space_file, out, *SENSITIVE)
    base = os.path.dirname(original.folder)
    shutil.copytree(base, tmp_path / "copy")
    root = str(tmp_path / "copy" / "data" / "custom")
    noise = np.random.default_rng(5)
    number = spoil(root, "val", lambda label: True, noise)
    number += spoil(root, "train", lambda label: np.isin(label, (3, 4)).any(), noise)
    assert number > 8
    shutil.rmtree(tmp_path / "copy" / "cache")
    shutil.rmtree(tmp_path / "copy" / "run" / "tuning")
    with open(os.path.join(root, "classes.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join([*CLASSES[:3], "zebra", "yak"]))
    vectors_file(str(tmp_path / "copy" / "vectors.npz"), [*CLASSES[:3], "zebra", "yak"], 0,
                 ("zebra", "yak"))
    copy = Finished(original.recipe._replace(opts=tuple(
        item.replace(base, str(tmp_path / "copy")) for item in original.recipe.opts)),
        str(tmp_path / "copy" / "run"), {})
    accept_as_finished(copy, "zero_shot.unseen=zebra,yak")
    assert tuned(copy, space_file, other, "zero_shot.unseen=zebra,yak", *SENSITIVE) == summary
    assert digest(out) == digest(other)


def accept_as_finished(run: Finished, *opts: str) -> None:
    """Let the records say that the stages were made under the other names and paths.

    Stage 1 would otherwise run again and choose its checkpoint by the seen part of the
    validation set, which is noise now.
    """
    config = ZeroShotConfig(run.recipe.config, [*run.recipe.opts, *opts],
                            {"save_dir": run.folder})
    for stage in ("segmentor", "features"):
        path = run.path(stage, "stage.json")
        if os.path.exists(path):
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"finished": True, "inputs": Run(config).inputs(stage)}, file)


def spoil(root: str, split: str, which, rng: np.random.Generator) -> int:
    """Noise for image and label wherever ``which(label)``; an unseen pixel stays unseen."""
    number = 0
    with open(os.path.join(root, f"{split}.txt"), encoding="utf-8") as file:
        pairs = [[os.path.join(root, name) for name in line.split()] for line in file]
    for image_path, label_path in pairs:
        with Image.open(label_path) as picture:
            label = np.array(picture)
        if not which(label):
            continue
        number += 1
        Image.fromarray(rng.integers(0, 256, (*label.shape, 3), np.uint8)).save(image_path)
        label = rng.integers(0, 5, label.shape).astype(np.uint8)
        label[0, 0] = 3
        Image.fromarray(label).save(label_path)
    return number


def test_nothing_of_unseen_classes_is_in_reach_of_the_search(original, space_file, tmp_path,
                                                             monkeypatch):
    """Neither name nor vector of one, nor the place of an image or label, however deep."""
    searches = []

    class Watched(Search):
        def __init__(self, *args):
            super().__init__(*args)
            searches.append(self)

    monkeypatch.setattr(tune, "Search", Watched)
    tuned(original, space_file, str(tmp_path / "chosen.yml"))
    builder = original.builder()
    data = os.path.join(os.path.dirname(original.folder), "data")
    forbidden = [*(CLASSES[c] for c in builder.classes.unseen_ids), data, "vectors.npz", "val.txt"]
    vectors = builder.embeddings[builder.classes.unseen_ids]

    def offends(item: Any) -> bool:
        if isinstance(item, str):
            return any(name in item.split("/") or name in item.split() or data in item
                       for name in forbidden)
        return isinstance(item, np.ndarray) and any(
            np.isin(vector, item).all() for vector in vectors)

    found = list(in_reach(searches[0]))
    assert any(isinstance(item, str) and item == "dog" for item in found)
    assert any(item is searches[0].seen.embeddings for item in found)
    assert not [item for item in found if offends(item)]
    assert offends("data/cow") and offends(builder.embeddings)  # the control
    assert any(map(offends, in_reach(builder.config.dic)))


def in_reach(item: Any) -> Iterator[Any]:
    """``item`` and all that it holds: attributes, keys and items."""
    seen, queue = set(), [item]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, dict):
            queue += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            queue += list(item)
        elif hasattr(item, "__dict__"):
            queue.append(vars(item))


def test_seen_classes_do_matter(original, space_file, tmp_path):
    """The control: another vector of a seen class changes the scores."""
    first = tuned(original, space_file, str(tmp_path / "chosen.yml"), *SENSITIVE)
    vectors = vectors_file(str(tmp_path / "vectors.npz"), CLASSES, 0, ("dog",))
    second = tuned(original, space_file, str(tmp_path / "other.yml"),
                   f"zero_shot.embeddings.path={vectors}", *SENSITIVE)
    assert first["as_it_stands"] != second["as_it_stands"]
    assert first["ranking"] != second["ranking"]


def test_the_validation_data_may_be_gone(original, space_file, tmp_path):
    """With stage 1 and the bank there, no image or label is opened any more."""
    first = tuned(original, space_file, str(tmp_path / "a.yml"))
    root = os.path.join(os.path.dirname(original.folder), "data", "custom")
    hidden = []
    with open(os.path.join(root, "val.txt"), encoding="utf-8") as file:
        for name in file.read().split():
            hidden.append(os.path.join(root, name))
            os.rename(hidden[-1], f"{hidden[-1]}.away")
    try:
        os.remove(original.path("tuning", "csrl.json"))
        second = tuned(original, space_file, str(tmp_path / "b.yml"))
    finally:
        for path in hidden:
            os.rename(f"{path}.away", path)
    assert first["ranking"] == second["ranking"]


# The tool.

def test_a_config_takes_the_chosen_settings_by_base(base, space_file, tmp_path, capsys):
    run = base.copy(tmp_path / "run")
    out = str(tmp_path / "chosen.yml")
    summary = tuned(run, space_file, out, seeds=2, method="point")
    with open(out, encoding="utf-8") as file:
        text = file.read()
    assert yaml.safe_load(text) == summary["chosen"]
    assert "method point" in text and f"{100 * summary['ranking'][0]['hiou']:.2f} ±" in text
    assert "2 seed(s)" in text and "paddleseg 2.8.0" in text
    unseen = run.builder().config.settings.zero_shot.unseen
    assert not any(name in text for name in unseen)
    (tmp_path / "mine.yml").write_text(f"_base_: [chosen.yml, {run.recipe.config}]")
    config = ZeroShotConfig(str(tmp_path / "mine.yml"), run.recipe.opts)
    loaded = ZeroShotConfig(run.recipe.config, run.recipe.opts).dic
    assert config.dic["generator"]["loss"] == {"types": [{"type": "MMDLoss"}], "coef": [1.0]}
    assert config.dic["zero_shot"] == loaded["zero_shot"]
    record = json.loads((tmp_path / "run" / "tuning" / "point.json").read_text())
    assert len(record["ranking"]) == record["budget"]["settings"]
    assert len(record["scores"]) == 3 * 2 * 2
    assert "as it stands" in capsys.readouterr().out


def test_missing_stages_run_first(space_file, tmp_path):
    recipe = custom(str(tmp_path / "data"), str(tmp_path / "cache"), num_train=16)
    run = Finished(recipe, str(tmp_path / "run"), {})
    tuned(run, space_file, str(tmp_path / "out.yml"), budget=1, classifier_draws=1)
    assert os.path.isfile(run.path("features", "bank.npz"))
    assert not os.path.exists(run.path("generator"))


def test_a_space_that_does_not_fit_is_told_before_stage_1(space_file, tmp_path):
    """The template for own data has a generator that learns no relations."""
    recipe = custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    argv = recipe.argv("generator.model={'type': 'MeanPrototypes'}",
                       "generator.relation=prototypes", save_dir=str(tmp_path / "run"))
    text = SPACE.replace("fixed:", "fixed:\n      generator.relation: edges")
    with open(space_file, "w") as file:
        file.write(text)
    with pytest.raises(UserError, match=f"{space_file}: `generator.relation: edges` .*MeanProto"):
        tune.main([*argv, "--space", space_file, "--method", "csrl"])
    assert not os.path.exists(tmp_path / "run" / "segmentor")


def test_a_stale_bank_with_an_unseen_class_stops_the_tool(original, space_file, tmp_path):
    run = original.copy(tmp_path / "run").without_checksums()
    bank = FeatureBank.load(run.path("features", "bank.npz"))
    bank.counts[3], bank.counts[2] = bank.counts[2], 0
    bank.save(run.path("features", "bank.npz"))
    with pytest.raises(UserError, match="holds features of unseen classes"):
        tuned(run, space_file, str(tmp_path / "out.yml"))
    assert not os.path.exists(tmp_path / "out.yml")


@pytest.mark.parametrize("flags, message", [
    ({"budget": 0}, "--budget 0 must be at least 1"),
    ({"classifier_draws": 0}, "--classifier_draws 0 must be at least 1"),
    ({"finalists": -1}, "--finalists -1 must be at least 0"),
    ({"folds": 9}, "--folds 9: only 2 of 3 seen classes can be held out"),
    ({"seed": -1}, "--seed -1 must be at least 0"),
    ({"out": "folder.yml"}, "--out: .*folder.yml. is a folder; name a file"),
    ({"out": "chosen.txt"}, "--out .*chosen.txt must end in .yml"),
    ({"method": "none"}, "no method `none` under `methods`; it has point, csrl"),
    ({"space": "nowhere.yml"}, "no config at nowhere.yml"),
])
def test_bad_flags(original, space_file, tmp_path, flags, message):
    (tmp_path / "folder.yml").mkdir()
    out = str(tmp_path / flags.pop("out", "o.yml"))
    with pytest.raises(UserError, match=message):
        tuned(original, flags.pop("space", space_file), out, **flags)
    assert os.listdir(tmp_path / "folder.yml") == [] and not os.path.isfile(out)


def test_a_projection_has_nothing_to_tune_here(space_file, tmp_path):
    config = os.path.join(ROOT, "configs", "spnet", "spnet_shapes.yml")
    with pytest.raises(UserError, match="spnet_shapes.yml has a `projection`"):
        tune.main(["-c", config, "--device", "cpu", "--method", "csrl", "--space", space_file,
                   "--save_dir", str(tmp_path / "run")])


def test_a_config_that_leaks_is_not_tuned(space_file, dic):
    dic["classifier"]["mode"] = "legacy"
    with pytest.raises(UserError, match="reads labels of unseen classes"):
        Space(space_file, "point").start(dic)


def test_a_layer_without_bias_is_not_tuned_in_closed_form(space_file, dic, tmp_path):
    dic["classifier"]["mode"] = "closed_form"
    seen = made_classes()
    seen.has_bias = False
    with pytest.raises(UserError, match="the last layer of this segmentor has no bias"):
        Search(seen, Space(space_file, "point"), dic, Budget(1, 1, 2), 0, str(tmp_path / "r.json"))


def test_the_shipped_space_holds_for_the_shipped_config(dic):
    path = os.path.join(ROOT, "configs", "_base_", "tune_space.yml")
    with open(path, encoding="utf-8") as file:
        methods = yaml.safe_load(file)["methods"]
    for method in methods:
        space = Space(path, method)
        start = space.start(dic)
        for axis in space.axes:
            for candidate in axis.candidates:
                space.settings(start, candidate)
        assert len(space.draws(start, 12, 4, 0)) == 12
