"""The sampler of ZS3Net's published code, and that nothing but its own mode gets at it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fabricated import read_label
from helpers.tiny_runs import ROOT, config_path, custom, differing, digest, run_all
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core.preflight import examine
from paddle_csrl.datasets import ZeroShotDataset
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages.legacy import LegacyBatches, label_counts
from paddle_csrl.utils import read_json

LEGACY = "classifier.mode=legacy"
UNSEEN = np.array([2])
#: Images by classes; the second and the last show the unseen class 2. Class 4 has no features.
LABELS = np.array([[30, 10, 0, 0, 0], [10, 0, 10, 0, 20], [0, 5, 0, 5, 0], [0, 0, 0, 0, 0],
                   [0, 10, 30, 0, 0]])


def make_batches(batch_size=500, length=40, seed=0):
    """Real features are [class, number], generated ones [-1 - class, number]."""
    counts = np.array([6, 5, 0, 4, 0])
    real = np.array([[c, n] for c in range(5) for n in range(counts[c])], np.float32)
    ids = np.array([0, 1, 3, 2])
    generated = np.array([[[-1 - c, n] for n in range(7)] for c in ids], np.float32)
    return LegacyBatches(FeatureBank(real, counts, counts), generated, ids, LABELS, UNSEEN,
                         batch_size, length, seed)


def expected_shares():
    """Of (class, generated), image by image and pixel by pixel."""
    shares = {}
    for label in LABELS:
        for class_id, number in enumerate(label):
            key = (class_id, bool(label[UNSEEN].any()))
            if number and class_id != 4:
                shares[key] = shares.get(key, 0) + number / label.sum()
    total = sum(shares.values())
    return {key: share / total for key, share in shares.items()}


def test_features_follow_the_labels_image_by_image():
    batches, found = make_batches(), {}
    for index in range(len(batches)):
        item = batches[index]
        for value, class_id in zip(item["img"][0, :, 0], item["label"][:, 0]):
            assert value in (class_id, -1 - class_id)
            key = (int(class_id), bool(value < 0))
            found[key] = found.get(key, 0) + 1 / 20000
    expected = expected_shares()
    assert set(found) == set(expected) == {(0, False), (1, False), (3, False), (0, True),
                                           (1, True), (2, True)}
    for key, share in expected.items():
        assert abs(found[key] - share) < 4.5 * np.sqrt(share / 20000), key


def test_items_are_one_pixel_wide_images_by_seed_and_index():
    item = make_batches(batch_size=9)[3]
    assert item["img"].shape == (2, 9, 1) and item["img"].dtype == np.float32
    assert item["label"].shape == (9, 1) and item["label"].dtype == np.int64
    assert np.array_equal(make_batches(batch_size=9)[3]["img"], item["img"])
    assert not np.array_equal(make_batches(batch_size=9, seed=1)[3]["img"], item["img"])
    assert len(make_batches(length=40)) == 40


@pytest.fixture(scope="module")
def legacy(finished, tmp_path_factory):
    """A finished run with another last stage."""
    run = finished("zs3net").copy(tmp_path_factory.mktemp("legacy") / "run")
    return run._replace(metrics=run.again(LEGACY))


def test_the_leak_stands_in_the_metrics(legacy, finished):
    leaks = read_json(legacy.path("metrics.json"))["leaks"]
    assert "real labels of the training images with unseen" in leaks
    assert "leaks" not in finished("zs3net").metrics
    assert legacy.val(LEGACY)["leaks"] == legacy.metrics["leaks"]
    assert differing(legacy.weights(), finished("zs3net").weights())


def test_the_leak_is_said_first_last_and_in_the_table(legacy, capsys):
    legacy.again(LEGACY)
    lines = [line for line in capsys.readouterr().out.splitlines() if "LEAKS" in line]
    assert len(lines) == 5  # two tables
    assert "[WARNING]" in lines[0] and "[WARNING]" in lines[4]
    assert "audit: LEAKS" in lines[1]
    assert all("LEAKS labels of unseen classes" in line for line in lines[2:4])


def test_only_the_classifier_depends_on_the_mode(legacy, finished):
    for stage in ("segmentor", "features", "generator"):
        name = "bank.npz" if stage == "features" else "model.pdparams"
        assert digest(legacy.path(stage, name)) == digest(finished("zs3net").path(stage, name))


def test_labels_of_unseen_classes_reach_the_weights(tmp_path):
    """The leak is there: what no other mode notices changes the layer, and makes it run again."""
    recipe = custom(str(tmp_path), str(tmp_path / "cache"))
    opts, stages = (LEGACY, "zero_shot.policy=drop"), ("segmentor", "generator", "classifier")
    run = run_all(recipe, tmp_path / "run", *opts)
    first = {stage: run.weights(stage) for stage in stages}
    for _, path in run.builder().train_dataset.dataset.file_list:
        label = read_label(path)
        if 3 in label or 4 in label:
            label[4:] = 3
            Image.fromarray(label).save(path)
    run.again(*opts)
    assert [bool(differing(first[stage], run.weights(stage))) for stage in stages] == [
        False, False, True]


@pytest.fixture
def guarded(monkeypatch):
    def leak(*args):
        raise AssertionError("labels of unseen classes are read")

    monkeypatch.setattr(ZeroShotDataset, "leaked_label_counts", leak)
    monkeypatch.setattr(LegacyBatches, "__init__", leak)


@pytest.mark.parametrize("opts", [(), ("self_training={}", "zero_shot.policy=drop")])
def test_no_other_mode_gets_at_the_labels(finished, tmp_path, guarded, opts):
    recipe = finished("zs3net").recipe
    assert recipe.load(*opts).section("classifier").mode == "clean"
    run_all(recipe, tmp_path / "run", *opts)


def test_the_guard_of_that_test_works(finished, tmp_path, guarded):
    with pytest.raises(AssertionError, match="labels of unseen classes are read"):
        finished("zs3net").copy(tmp_path / "run").again(LEGACY)


def test_without_the_mode_the_labels_are_refused(finished):
    recipe = finished("zs3net").recipe
    with pytest.raises(RuntimeError, match="must never happen: labels of unseen classes"):
        label_counts(Run(recipe.load()))
    counts = label_counts(Run(recipe.load(LEGACY)))
    assert counts.shape == (12, 5) and (counts[:, 3:] > 0).any(0).all()


def test_nothing_else_names_the_leaking_method():
    users = [path.name for path in Path(ROOT, "paddle_csrl").rglob("*.py")
             if "leaked_label_counts" in path.read_text("utf-8")]
    assert sorted(users) == ["legacy.py", "zero_shot.py"]


def test_an_unknown_mode_is_refused(finished):
    with pytest.raises(UserError, match="classifier.mode: dirty` must be 'clean', 'legacy' or "
                                          "'closed_form'"):
        finished("zs3net").recipe.load("classifier.mode=dirty")


def test_legacy_and_self_training_exclude_each_other(finished, tmp_path):
    with pytest.raises(UserError, match="`self_training` needs `classifier.mode: clean`"):
        run_all(finished("zs3net").recipe, tmp_path / "run", LEGACY, "self_training={}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, expected", [
    ("zs3net_shapes_legacy", [4, 7, 10, 13]),
    ("zs3net_voc_unseen2_legacy", [10, 14])])  # cow, motorbike in VOC's order
def test_published_weights_of_the_shipped_configs_belong_to_unseen_classes(name, expected):
    [loss] = ZeroShotConfig(config_path(f"zs3net/{name}")).dic["classifier"]["loss"]["types"]
    assert loss["weight"] == [100 if number in expected else 1 for number in range(21)]


WEIGHTS = "classifier.loss.types=[{'type': 'CrossEntropyLoss', 'weight': %s}]"


@pytest.mark.parametrize("weight, told", [
    ([1, 1, 1, 100, 100], None), ([1, 100, 1, 1, 100], "larger weights for cat, car, not for")])
def test_weights_of_other_than_unseen_classes_are_told(finished, capsys, weight, told):
    builder = finished("zs3net").builder(LEGACY, WEIGHTS % weight)
    examine(Run(builder.config), ["classifier"])
    out = capsys.readouterr().out
    assert told in out if told else "larger weights" not in out


def test_weights_of_another_number_of_classes_are_refused_before_training(finished):
    builder = finished("zs3net").builder(LEGACY, WEIGHTS % [1, 1, 100])
    with pytest.raises(UserError, match="CrossEntropyLoss has 3 weights for 5 classes; give"):
        examine(Run(builder.config), ["segmentor"])


def test_class_weights_train(finished, tmp_path):
    run = finished("zs3net").copy(tmp_path / "run")
    metrics = run.again(LEGACY, WEIGHTS % [1, 1, 1, 100, 100])
    assert 0 <= metrics["unseen_miou"] <= 1
    assert differing(run.weights("classifier"), finished("zs3net").weights("classifier"))
