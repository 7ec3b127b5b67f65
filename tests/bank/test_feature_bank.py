"""The feature bank: uniform bounded sampling, scale, draws and the file it lives in."""

import io
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from paddle_csrl.bank import feature_bank
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank, Scale
from paddle_csrl.errors import UserError


def offer(sampler, labels, seed, offset=0):
    """Offer an image whose pixels carry their own number, and its class, as features."""
    labels = np.asarray(labels, np.int64)
    numbers = offset + np.arange(labels.size)
    features = np.stack([numbers, labels], 1).astype(np.float32)
    positions, classes, keys = sampler.candidates(labels, seed)
    sampler.add(features[positions], classes, keys)


def images():
    """Label images with classes of very different frequency and some ignored pixels."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 255], (40, 500), p=[0.7, 0.2, 0.06, 0.0, 0.04])
    labels[0, 7] = 3
    return labels


def sample(labels, order=None, bound=30):
    sampler = BottomKSampler(4, bound)
    for index in range(len(labels)) if order is None else order:
        offer(sampler, labels[index], [5, index], offset=1000 * index)
    return sampler


def same(first, second):
    return all(np.array_equal(getattr(first, name), getattr(second, name))
               for name in ("features", "counts", "pixel_counts"))


def make_bank(dim=3, counts=(5, 0, 7, 1), seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, 2.0, (sum(counts), dim)).astype(np.float32)
    return FeatureBank(features, np.array(counts), np.array(counts) * 10)


def test_counts_are_exact_and_the_sample_is_bounded():
    labels = images()
    bank = sample(labels).bank()
    expected = [int((labels == c).sum()) for c in range(4)]
    assert bank.pixel_counts.tolist() == expected
    assert bank.counts.tolist() == [min(30, n) for n in expected]
    assert bank.counts[3] == 1
    assert bank.features.dtype == np.float32


def test_features_stay_with_their_class_and_no_pixel_comes_twice():
    labels = images()
    bank = sample(labels).bank()
    for class_id in range(4):
        numbers, classes = bank.of(class_id).astype(np.int64).T
        assert (classes == class_id).all()
        assert (labels[numbers // 1000, numbers % 1000] == class_id).all()
        assert len(np.unique(numbers)) == len(numbers)


def test_a_class_below_the_bound_is_kept_whole():
    labels = np.array([[0, 1, 1, 255, 0, 1]])
    bank = sample(labels, bound=100).bank()
    assert sorted(bank.of(0)[:, 0]) == [0, 4] and sorted(bank.of(1)[:, 0]) == [1, 2, 5]


def test_ignored_pixels_are_left_out_whatever_their_value():
    sampler = BottomKSampler(2, 9, ignore_index=1)
    offer(sampler, [0, 1, 0, 1], [0])
    assert sampler.bank().pixel_counts.tolist() == [2, 0]


def test_sampling_is_uniform():
    # 400 draws of 20 out of 100 pixels, in two images of 50. A pixel's hits are binomial with
    # mean 400/5; as every draw has 20, the sum of squares has about 99 degrees of freedom.
    hits = np.zeros(100)
    for seed in range(400):
        sampler = BottomKSampler(1, 20)
        for index in range(2):
            offer(sampler, np.zeros(50), [seed, index], offset=50 * index)
        hits[sampler.bank().features[:, 0].astype(int)] += 1
    assert hits.sum() == 400 * 20
    expected, variance = 80.0, 400 * 0.2 * 0.8
    statistic = (np.square(hits - expected) / variance).sum()
    assert 99 - 4 * np.sqrt(2 * 99) < statistic < 99 + 4 * np.sqrt(2 * 99)
    assert abs(hits[:50].sum() - 4000) < 4 * np.sqrt(400 * 20 * 0.25)


def test_sampling_is_uniform_after_the_threshold_has_bitten():
    # Early pixels must not be favoured over late ones once a class is full and pruned.
    sampler = BottomKSampler(1, 2000)
    for index in range(200):
        offer(sampler, np.zeros(1000), [3, index], offset=1000 * index)
        if index % 20 == 19:
            sampler._compact()
    quarters = np.histogram(sampler.bank().features[:, 0], bins=4, range=(0, 200000))[0]
    assert quarters.sum() == 2000
    assert np.abs(quarters - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_other_seeds_give_other_samples():
    labels = np.zeros(1000)
    first, second = BottomKSampler(1, 10), BottomKSampler(1, 10)
    offer(first, labels, [0, 0])
    offer(second, labels, [1, 0])
    assert not same(first.bank(), second.bank())


def test_the_order_of_images_does_not_matter():
    labels = images()
    order = np.random.default_rng(1).permutation(len(labels))
    assert same(sample(labels).bank(), sample(labels, order).bank())


@pytest.mark.parametrize("shards", [2, 3, 40])
def test_shards_merge_to_the_sample_of_the_whole(shards):
    labels = images()
    whole = sample(labels).bank()
    parts = [sample(labels, range(start, len(labels), shards)) for start in range(shards)]
    for part in parts[::2]:
        part.bank()  # a shard that has been compacted merges as well
    for part in parts[1:]:
        parts[0].merge(part)
    assert same(whole, parts[0].bank())


def test_rows_are_taken_out_of_parts_in_blocks(monkeypatch):
    monkeypatch.setattr(feature_bank, "_BLOCK", 3)
    whole = np.arange(40.0).reshape(20, 2)
    rows = np.random.default_rng(0).permutation(20)[:17]
    parts = np.split(whole, [0, 2, 11])
    assert np.array_equal(feature_bank._take(parts, rows), whole[rows])


def test_the_threshold_is_the_key_of_rank_bound():
    rng, bound = np.random.default_rng(0), 7
    steps = [np.arange(8), np.arange(2**53 - 9, 2**53), rng.integers(0, 2**53, 500),
             2**52 + 256 * rng.integers(0, 3, 40), np.arange(7), np.zeros(0, np.int64)]
    labels = np.repeat(np.arange(6), list(map(len, steps)))
    keys = np.concatenate(steps) * 2.0**-53
    order = rng.permutation(len(keys))
    found = feature_bank._common_threshold(labels[order], keys[order], 6, bound)
    assert found[:4].tolist() == [np.sort(keys[labels == c])[bound] for c in range(4)]
    assert (found[4:] >= 1).all()


def test_early_compaction_does_not_change_the_sample():
    labels = images()
    eager = BottomKSampler(4, 30)
    for index in range(len(labels)):
        offer(eager, labels[index], [5, index], offset=1000 * index)
        eager._compact()
    assert same(sample(labels).bank(), eager.bank())


def test_pruning_lets_few_pixels_through_once_a_class_is_full():
    sampler = BottomKSampler(1, 10)
    offer(sampler, np.zeros(1000), [0, 0])
    sampler._compact()
    positions, _, _ = sampler.candidates(np.zeros(1000, np.int64), [0, 1])
    assert 0 < len(positions) < 60  # about 10 of 1000 pass


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(count):
        features = np.zeros((4096, 64), np.float32)
        labels = np.zeros(4096, np.int64)
        tracemalloc.start()
        sampler = BottomKSampler(1, 4096)
        for index in range(count):
            positions, classes, keys = sampler.candidates(labels, [0, index])
            sampler.add(features[positions], classes, keys)
        sampler.bank()
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(300) < 1.2 * peak(30)


def test_an_empty_stream_is_refused():
    sampler = BottomKSampler(3, 10)
    offer(sampler, np.full(20, 255), [0])
    with pytest.raises(UserError, match="no labelled pixel of a seen class"):
        sampler.bank()


@pytest.mark.parametrize("bound", [0, -1, "many", 2.5, None, True])
def test_a_bad_bound_is_refused(bound):
    with pytest.raises(UserError, match="samples_per_class"):
        BottomKSampler(3, bound)


def test_scale_weighs_present_classes_alike():
    bank = make_bank(counts=(5, 0, 70, 2))
    parts = np.split(bank.features.astype(np.float64), [5, 75])
    mean = sum(part.mean(0) for part in parts) / 3
    deviation = np.sqrt(sum(((part - mean)**2).mean(0) for part in parts) / 3)
    scale = bank.scale()
    np.testing.assert_allclose(scale.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(scale.deviation, deviation, rtol=1e-6)
    assert scale.mean.dtype == scale.deviation.dtype == np.float32
    scaled = bank.scaled(scale)
    np.testing.assert_allclose(
        scaled.features, (bank.features - mean) / deviation, rtol=1e-4, atol=1e-5)
    assert scaled.features.dtype == np.float32
    assert np.array_equal(scaled.counts, bank.counts)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_constant_dimension_gets_deviation_one(value):
    bank = make_bank(counts=(50, 0, 70, 3))
    bank.features[:, 1] = value
    scale = bank.scale()
    assert scale.deviation[1] == 1.0 and (scale.deviation[[0, 2]] > 1).all()
    np.testing.assert_allclose(bank.scaled(scale).features[:, 1], 0.0, atol=1e-3)


def test_a_wholly_constant_bank_is_scaled_by_one():
    bank = FeatureBank(np.full((13, 2), 0.1, np.float32), np.array([5, 7, 1]), np.ones(3, int))
    assert bank.scale().deviation.tolist() == [1.0, 1.0]


def test_identity_scale_changes_nothing():
    bank = make_bank()
    assert np.array_equal(bank.scaled(Scale.identity(3)).features, bank.features)


def test_prototypes_are_class_means():
    bank = make_bank()
    expected = [bank.features[5:12].mean(0), bank.features[:5].mean(0)]
    np.testing.assert_allclose(bank.prototypes(np.array([2, 0])), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_moments_weigh_classes_alike_and_leave_lone_features_out(dtype, monkeypatch):
    monkeypatch.setattr(feature_bank, "_BLOCK", 7)
    rng = np.random.default_rng(3)
    counts = np.array([9, 1, 0, 300])
    rows = [rng.normal(c, 1 + c, (count, 4)).astype(dtype) for c, count in enumerate(counts)]
    bank = FeatureBank(np.concatenate(rows), counts, np.zeros(4, np.int64))
    means, covariance = bank.moments()
    rows = [item.astype(np.float64) for item in rows]
    np.testing.assert_allclose(means, [rows[c].mean(0) for c in (0, 1, 3)])
    np.testing.assert_allclose(covariance, (np.cov(rows[0].T) + np.cov(rows[3].T)) / 2)
    alone = FeatureBank(bank.features[9:10], np.array([0, 1]), np.zeros(2, np.int64))
    assert not alone.moments()[1].any() and np.array_equal(alone.moments()[0], rows[1])


def test_draws_come_from_the_class_asked_for_and_reach_all_of_it():
    counts = np.array([3, 0, 1, 6])
    features = np.repeat(np.arange(4), counts)[:, None] * 100.0 + np.arange(10)[:, None]
    bank = FeatureBank(features.astype(np.float32), counts, counts)
    class_ids = np.random.default_rng(0).choice([0, 2, 3], 600)
    drawn = bank.features[bank.draw(class_ids, np.random.default_rng(1))]
    assert drawn.shape == (600, 1)
    assert np.array_equal(drawn[:, 0] // 100, class_ids)
    assert set(drawn[:, 0]) == set(features[:, 0])


def test_a_saved_bank_loads_unchanged(tmp_path):
    bank = sample(images()).bank()
    bank.save(str(tmp_path / "deep" / "bank.npz"))
    assert same(bank, FeatureBank.load(str(tmp_path / "deep" / "bank.npz")))
    assert os.listdir(tmp_path / "deep") == ["bank.npz"]


def test_the_same_bank_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        make_bank().save(str(tmp_path / name))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def arrays(features=(4, 2), counts=(4,), pixel_counts=(4,)):
    return {"features": np.zeros(features, np.float32), "counts": np.array(counts),
            "pixel_counts": np.array(pixel_counts)}


_npy = io.BytesIO()
np.save(_npy, np.zeros(3))

#: Content of a file: bytes, or arrays by name.
BROKEN_FILES = {
    "empty": b"",
    "text": b"not a bank",
    "npy": _npy.getvalue(),
    "pickle": pickle.dumps({"features": 1}),
    "objects": {**arrays((1, 2), (1,), (1,)), "features": np.array([{}])},
    "other keys": {"weights": np.zeros(3)},
    "missing key": {"features": np.zeros((2, 3)), "counts": np.array([2])},
    "flat features": arrays(3, (3,), (3,)),
    "too few counted": arrays(counts=(3,), pixel_counts=(3,)),
    "negative count": arrays(counts=(5, -1), pixel_counts=(5, 1)),
    "unequal counts": arrays(pixel_counts=(4, 1)),
    "fractional counts": arrays(counts=(4.0,)),
    "no features": arrays((0, 2), (0, 0, 0), (0, 0, 0)),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_is_refused_by_name(tmp_path, kind):
    path = str(tmp_path / "bank.npz")
    content = BROKEN_FILES[kind]
    if isinstance(content, bytes):
        (tmp_path / "bank.npz").write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match="bank.npz") as caught:
        FeatureBank.load(path)
    assert "--stage features" in str(caught.value) and "\n" not in str(caught.value)


def test_features_that_are_not_finite_are_refused(tmp_path):
    bank = make_bank()
    bank.features[3, 1] = np.nan
    bank.save(str(tmp_path / "bank.npz"))
    with pytest.raises(UserError, match="bank.npz holds features that are not finite.*learning"):
        FeatureBank.load(str(tmp_path / "bank.npz"))


def flipped(content):
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


@pytest.mark.parametrize("change", [
    *(lambda content, kept=kept: content[:int(kept * len(content))] for kept in (0.2, 0.9, 0.999)),
    flipped])
def test_a_torn_or_flipped_file_is_refused(tmp_path, change):
    path = tmp_path / "bank.npz"
    make_bank(dim=64, counts=(50, 0, 20, 3)).save(str(path))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="bank.npz is not a whole feature bank"):
        FeatureBank.load(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no feature bank at .*nowhere.npz; .*--stage features"):
        FeatureBank.load(str(tmp_path / "nowhere.npz"))
