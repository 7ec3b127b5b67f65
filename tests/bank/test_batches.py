"""The batches of stages 2 and 3."""

import numpy as np
import paddle
import pytest

from paddle_csrl.bank.batches import ClassifierBatches, GeneratorBatches
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.stages.fit import batch_of
from paddle_csrl.stages.legacy import LegacyBatches
from paddle_csrl.stages.self_training import PseudoLabelledBatches

# Classes 1 and 4 are unseen; class 5 is seen, but no image shows it.
COUNTS = np.array([8, 0, 3, 5, 0, 0])
PIXELS = np.array([6400, 0, 400, 100, 0, 0])
UNSEEN = np.array([1, 4])
SEEN = np.array([0, 2, 3])


def make_bank():
    """Features [class, number within the class]."""
    features = [[c, n] for c in range(6) for n in range(COUNTS[c])]
    return FeatureBank(np.array(features, np.float32), COUNTS, PIXELS)


def make_batches(unseen_share="auto", class_balance="balanced", batch_size=200, length=50,
                 seed=0, unseen=UNSEEN):
    """Generated features are [-class, number]."""
    generated = np.array([[[-c, n] for n in range(7)] for c in unseen], np.float32)
    return ClassifierBatches(make_bank(), generated.reshape([len(unseen), 7, 2]), unseen,
                             batch_size, unseen_share, class_balance, length, seed)


def shares(batches):
    """Share of every class over all items."""
    labels = np.concatenate([batches[i]["label"].reshape(-1) for i in range(len(batches))])
    return np.bincount(labels, minlength=6) / labels.size


def test_generator_items_hold_each_seen_class_in_its_row():
    item = GeneratorBatches(make_bank(), SEEN, 4, 10, 0)[3]
    assert item["img"].shape == (3, 4, 2) and item["img"].dtype == np.float32
    for row, class_id in enumerate(SEEN):
        valid = item["label"][row]
        assert (item["img"][row, :valid, 0] == class_id).all()


def test_a_class_with_few_samples_gives_each_once():
    item = GeneratorBatches(make_bank(), SEEN, 5, 10, 0)[0]
    assert item["label"].tolist() == [5, 3, 5] and item["label"].dtype == np.int64
    assert sorted(item["img"][1, :3, 1]) == [0, 1, 2]


def test_a_class_with_enough_samples_is_drawn_uniformly():
    batches = GeneratorBatches(make_bank(), SEEN, 5, 2000, 0)
    drawn = np.concatenate([batches[i]["img"][0, :, 1] for i in range(len(batches))])
    counts = np.bincount(drawn.astype(int), minlength=8)
    assert np.abs(counts - 1250).max() < 4.5 * np.sqrt(10000 * 7 / 64)


def test_a_class_without_samples_has_none_valid():
    item = GeneratorBatches(make_bank(), np.array([0, 5]), 4, 10, 0)[0]
    assert item["label"].tolist() == [4, 0]
    assert item["img"].shape == (2, 4, 2)


MAKERS = pytest.mark.parametrize("make", [
    lambda seed: GeneratorBatches(make_bank(), SEEN, 4, 10, seed),
    lambda seed: make_batches(seed=seed)], ids=["generator", "classifier"])


@MAKERS
def test_items_depend_on_seed_and_index_alone(make):
    first, second, other = make(0), make(0), make(1)
    later = [first[i]["img"] for i in (7, 2)]
    assert np.array_equal(second[2]["img"], later[1])
    assert np.array_equal(second[7]["img"], later[0])
    assert not np.array_equal(later[0], later[1])
    assert not np.array_equal(other[7]["img"], later[0])


@MAKERS
def test_length_is_the_number_of_items_a_loader_yields(make):
    batches = make(0)
    loader = paddle.io.DataLoader(batches, batch_size=1, shuffle=False, num_workers=0)
    items = list(loader)
    assert len(items) == len(batches)
    assert items[2]["img"].shape == [1, *batches[2]["img"].shape]


def test_classifier_items_are_one_pixel_wide_images():
    item = make_batches(batch_size=9)[0]
    assert item["img"].shape == (2, 9, 1) and item["img"].dtype == np.float32
    assert item["label"].shape == (9, 1) and item["label"].dtype == np.int64


def test_features_match_their_labels_real_ones_seen_and_generated_ones_unseen():
    for index in range(20):
        item = make_batches()[index]
        source, labels = item["img"][0, :, 0], item["label"][:, 0]
        unseen = np.isin(labels, UNSEEN)
        assert np.array_equal(source[~unseen], labels[~unseen])
        assert np.array_equal(source[unseen], -labels[unseen])


def test_all_generated_samples_are_used():
    batches = make_batches()
    pairs = np.concatenate([batches[i]["img"][:, :, 0].T for i in range(len(batches))])
    assert len(np.unique(pairs[pairs[:, 0] == -4, 1])) == 7


def test_auto_gives_every_class_that_has_features_the_same_share():
    # 10000 samples over 5 classes; the class without any feature gets none.
    np.testing.assert_allclose(shares(make_batches()), [.2, .2, .2, .2, .2, 0], atol=0.018)


@pytest.mark.parametrize("share", [0, 0.0, 0.3, 0.9])
def test_a_fixed_share_is_kept(share):
    found = shares(make_batches(unseen_share=share))
    assert abs(found[UNSEEN].sum() - share) < 0.02
    assert share or found[UNSEEN].sum() == 0
    np.testing.assert_allclose(found[UNSEEN], share / 2, atol=0.02)


@pytest.mark.parametrize("mode, expected", [
    ("balanced", [1 / 3, 1 / 3, 1 / 3]),
    ("sqrt", [80 / 110, 20 / 110, 10 / 110]),
    ("frequency", [6400 / 6900, 400 / 6900, 100 / 6900]),
])
def test_class_balance_gives_the_expected_frequencies(mode, expected):
    found = shares(make_batches(unseen_share=0.0, class_balance=mode))
    np.testing.assert_allclose(found[SEEN], expected, atol=0.02)


def test_without_unseen_classes_all_features_are_real():
    none = np.zeros(0, np.int64)
    assert shares(make_batches(unseen_share=0.5, unseen=none))[UNSEEN].sum() == 0


def spread_bank(counts):
    """A bank of features that are all different."""
    features = np.random.default_rng(4).normal(size=(sum(counts), 3)).astype("float32")
    return FeatureBank(features, np.array(counts), np.array(counts) * 9)


def pseudo_labelled(pseudo_counts):
    generated = np.random.default_rng(5).normal(size=(2, 7, 3)).astype("float32")
    return PseudoLabelledBatches(
        spread_bank(COUNTS), generated, UNSEEN, 40, "auto", "balanced", 10, 0,
        pseudo=spread_bank(pseudo_counts), pseudo_share=0.5)


def legacy():
    labels, ids = np.array([[5, 0, 2, 0, 0, 0], [3, 4, 0, 1, 2, 0]]), np.array([0, 2, 3, 1, 4])
    generated = np.random.default_rng(6).normal(size=(5, 7, 3)).astype("float32")
    return LegacyBatches(spread_bank(COUNTS), generated, ids, labels, UNSEEN, 40, 10, 0)


@pytest.mark.parametrize("make", [
    lambda: GeneratorBatches(spread_bank(COUNTS), np.array([0, 2, 3, 5]), 4, 10, 0),
    make_batches, lambda: make_batches(unseen_share=0.0),
    lambda: make_batches(unseen=np.zeros(0, np.int64)), legacy,
    lambda: pseudo_labelled([0, 6, 0, 0, 0, 0]), lambda: pseudo_labelled([0] * 6)])
def test_batches_cut_on_the_device_are_the_same(make):
    on_host, on_device = make(), make()
    on_device.to_device()
    for table in on_device.tables:  # no longer read
        table[:] = np.nan
    for index in range(len(on_host)):
        expected, found = batch_of(on_host, index), batch_of(on_device, index)
        assert isinstance(on_device[index]["img"], paddle.Tensor)
        assert found["img"].dtype == paddle.float32
        assert np.array_equal(found["img"].numpy(), expected["img"].numpy())
        assert np.array_equal(found["label"], expected["label"])


def test_generated_features_are_not_copied():
    generated = np.zeros((2, 7, 2), np.float32)
    batches = ClassifierBatches(make_bank(), generated, UNSEEN, 4, "auto", "balanced", 1, 0)
    assert np.shares_memory(batches.tables[1], generated)
    assert batches.nbytes == 4 * 2 * (COUNTS.sum() + 2 * 7)
