"""The order in which a training sees its images."""

import itertools
from collections.abc import Iterator
from typing import Any

import paddle

#: A sample and the epoch, from 0, in which it is drawn: what ``ZeroShotDataset`` takes.
Draw = tuple[int, int]


class TrainingOrder(paddle.io.BatchSampler):
    """The batches of a training from one iteration to its end, for this process.

    They depend on the number of the iteration alone, wherever the training began. The order is
    that of PaddleSeg's trainer: shuffled anew for every epoch, without its incomplete batch.

    Args:
        dataset (paddle.io.Dataset): has at least one batch for every process.
        batch_size (int): samples per batch and process.
        iters (int): iterations of the training.
        done (int): iterations done before.
    """

    def __init__(self, dataset: paddle.io.Dataset, batch_size: int, iters: int, done: int = 0):
        super().__init__(dataset, batch_size=batch_size)
        self._batches = paddle.io.DistributedBatchSampler(
            dataset, batch_size=batch_size, shuffle=True, drop_last=True)
        self.iters, self.done = iters, done

    @property
    def epoch_length(self) -> int:
        """Iterations per epoch."""
        return len(self._batches)

    def __len__(self) -> int:
        return self.iters - self.done

    def __iter__(self) -> Iterator[Any]:  # lists of `Draw`
        epoch, skipped = divmod(self.done, self.epoch_length)
        return itertools.islice(self._from(epoch), skipped, skipped + len(self))

    def _from(self, epoch: int) -> Iterator[list[Draw]]:
        for number in itertools.count(epoch):
            self._batches.set_epoch(number)
            for batch in self._batches:
                yield [(index, number) for index in batch]
