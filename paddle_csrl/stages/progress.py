"""Iterations as they are done, their log lines, and losses that are no numbers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddleseg.utils import logger
from paddleseg.utils.timer import calculate_eta

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter


@dataclass
class Step:
    """An iteration that has been done, numbered from 1, and its loss by term.

    ``builder`` has the ``model`` and the ``optimizer``, one of PaddleSeg's.
    """

    iteration: int
    terms: list[paddle.Tensor]
    learning_rate: float
    reader_seconds: float
    builder: Any

    @cached_property
    def values(self) -> paddle.Tensor:
        """The terms, float64 [T], where they are: reading them waits for the device."""
        return paddle.stack([term.detach().reshape([]).astype("float64") for term in self.terms])


Callback = Callable[[Step], None]


class Terms:
    """Loss terms of iterations, all of them read at once and when somebody asks, not before."""

    def __init__(self, values: Sequence[Sequence[float]] = ()):
        self._read = list(map(list, values))
        self._unread: list[paddle.Tensor] = []

    def add(self, step: Step) -> None:
        self._unread.append(step.values)

    def read(self) -> list[list[float]]:
        """Return the terms of every iteration that was added, in turn."""
        if self._unread:
            self._read += paddle.stack(self._unread).numpy().tolist()
            self._unread.clear()
        return self._read


class ProgressLog:
    """Logs the mean loss, speed and time left every few iterations, as PaddleSeg's trainer does.

    A ``writer`` gets the same as scalars, and the loss by term. ``terms``, lists of floats, are
    those of iterations since the last line that an earlier process has done. With a
    ``batch_size`` and an ``epoch_length``, in iterations, a line also says those of images.
    """

    def __init__(self, iters: int, interval: int, writer: "StageLogWriter | None" = None,
                 terms: Sequence[Sequence[float]] = (), batch_size: int = 0,
                 epoch_length: int = 0):
        self.iters, self.interval, self.writer = iters, min(interval, iters), writer
        self.batch_size, self.epoch_length = batch_size, epoch_length
        self._restart(terms)

    def _restart(self, terms: Sequence[Sequence[float]] = ()) -> None:
        self.terms = Terms(terms)
        self._timed, self._reader_seconds, self._start = 0, 0.0, time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Do not count time that went into something else."""
        self._start += seconds

    def __call__(self, step: Step) -> None:
        self.terms.add(step)
        self._reader_seconds += step.reader_seconds
        self._timed += 1
        if step.iteration % self.interval:
            return
        terms = self.terms.read()
        means = [sum(values) / len(terms) for values in zip(*terms)]
        cost = (time.monotonic() - self._start) / self._timed
        scalars = {"loss": sum(means), "lr": step.learning_rate, "batch_cost": cost,
                   "reader_cost": self._reader_seconds / self._timed}
        epoch = f"epoch: {(step.iteration - 1) // self.epoch_length + 1}, " \
            if self.epoch_length else ""
        speed = f", ips: {self.batch_size / max(cost, 1e-9):.4f} samples/sec" \
            if self.batch_size else ""
        logger.info(
            f"[TRAIN] {epoch}iter: {step.iteration}/{self.iters}, loss: {scalars['loss']:.4f}, "
            f"lr: {step.learning_rate:.6f}, batch_cost: {cost:.4f}, "
            f"reader_cost: {scalars['reader_cost']:.5f}{speed} | "
            f"ETA {calculate_eta(self.iters - step.iteration, cost)}")
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(f"Train/{name}", value, step.iteration)
            for number, value in enumerate(means[:0] if len(means) == 1 else means):
                self.writer.add_scalar(f"Train/loss_{number}", value, step.iteration)
        self._restart()


class DivergenceCheck:
    """Looks every few iterations, and at any other time when asked, for terms that are no numbers.

    Args:
        names: of the terms.
        interval: iterations between two looks.
        refuse: called with the name, value and iteration of the first such term; raises.
    """

    def __init__(self, names: Sequence[str], interval: int, refuse: Callable[[str], None]):
        self.names, self.interval, self.refuse = names, interval, refuse
        self._terms, self._done = Terms(), 0

    def __call__(self, step: Step) -> None:
        self._terms.add(step)
        self._done = step.iteration
        if step.iteration % self.interval == 0:
            self.now()

    def now(self) -> None:
        """Look at all iterations since the last look."""
        terms, self._terms = self._terms.read(), Terms()
        for iteration, values in enumerate(terms, self._done - len(terms) + 1):
            for name, value in zip(self.names, values):
                if not np.isfinite(value):
                    self.refuse(f"{name} is {value} at iteration {iteration}")


def loss_names(loss_cfg: dict) -> list:
    """A distinct name for every term that a PaddleSeg ``loss`` section gives rise to.

    The trainer logs each part of a ``MixedLoss`` as a term of its own.
    """
    parts = [part for item in loss_cfg["types"]
             for part in (item["losses"] if item["type"] == "MixedLoss" else [item])]
    names = [part["type"] for part in parts]
    return [name if names.count(name) == 1 else f"{name}_{index}"
            for index, name in enumerate(names)]
