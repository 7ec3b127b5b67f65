"""The order of training images, and that augmentation depends on nothing but what is drawn."""

import itertools
import os
import random

import numpy as np
import paddle
import pytest

from helpers.fabricated import make_dataset
from paddle_csrl.datasets import ZeroShotDataset
from paddle_csrl.datasets.order import TrainingOrder
from paddle_csrl.utils.randomness import preserved, seeded


def paddles_order(length, batch_size, epochs):
    """As PaddleSeg's trainer goes through a data set."""
    sampler = paddle.io.DistributedBatchSampler(range(length), batch_size=batch_size, shuffle=True,
                                                drop_last=True)
    return [[(index, epoch) for index in batch] for epoch in range(epochs) for batch in sampler]


@pytest.mark.parametrize("length, batch_size", [(10, 3), (8, 4), (5, 5), (7, 1)])
def test_the_order_is_paddles_from_wherever_it_begins(length, batch_size):
    expected = paddles_order(length, batch_size, epochs=14)[:14]
    for done in range(15):
        order = TrainingOrder(range(length), batch_size, iters=14, done=done)
        assert list(order) == expected[done:] and len(order) == 14 - done
    assert order.epoch_length == length // batch_size


def test_processes_share_every_batch(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    parts = []
    for rank in "01":
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        parts.append(list(TrainingOrder(range(12), 2, iters=6, done=1)))
    for first, second in zip(*parts, strict=True):
        assert not set(first) & set(second)
    # Iterations 2 and 3 end the first epoch; 4 to 6 are the second one.
    second_epoch = [index for part in parts for batch in part for index, epoch in batch if epoch]
    assert sorted(second_epoch) == list(range(12))


@pytest.fixture
def dataset(tmp_path):
    from paddleseg.datasets import Dataset
    from paddleseg.transforms import Normalize, RandomDistort, RandomPaddingCrop

    root = make_dataset(str(tmp_path), class_names=("background", "cat", "dog"), num_train=6,
                        num_val=2, size=(24, 24))
    inner = Dataset("train", root, [RandomPaddingCrop((16, 16)), RandomDistort(), Normalize()],
                    num_classes=3, train_path=os.path.join(root, "train.txt"))

    def dataset(seed=0):
        return ZeroShotDataset(inner, unseen="dog", policy="ignore", seed=seed,
                               class_names=["background", "cat", "dog"],
                               cache_dir=str(tmp_path / "cache"))

    return dataset


def test_a_sample_depends_on_seed_epoch_and_index_alone(dataset):
    images = {(seed, draw): dataset(seed)[draw]["img"].tobytes()
              for seed in (0, 1) for draw in itertools.product(range(3), range(3))}
    assert len(set(images.values())) == len(images)
    random.seed(5), np.random.seed(5)
    again = dataset(1)
    for draw in ((2, 1), (0, 0), (2, 1)):
        assert again[draw]["img"].tobytes() == images[1, draw]
    assert again[2]["img"].tobytes() == images[1, (2, 0)]


def test_reading_leaves_the_random_numbers_alone(dataset):
    states = random.getstate(), np.random.get_state()[1].tolist()
    dataset()[0, 1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


@pytest.mark.parametrize("block", [preserved(), seeded(1, 2)], ids=["preserved", "seeded"])
def test_a_block_leaves_no_trace_in_the_random_numbers(block):
    with preserved():
        expected = random.random(), np.random.random()
    with block:
        random.random(), np.random.rand(3)
    assert (random.random(), np.random.random()) == expected


def test_a_block_leaves_no_trace_in_paddles_random_numbers():
    with preserved():
        expected = paddle.rand([3]).numpy()
    assert np.array_equal(paddle.rand([3]).numpy(), expected)
