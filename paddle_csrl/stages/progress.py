"""Iterations as they are done, their log lines, and losses that are no numbers."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddleseg.utils import logger
from paddleseg.utils.timer import calculate_eta

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


Callback = Callable[[Step], None]


class ProgressLog:
    """Logs the mean loss, speed and time left every few iterations, as PaddleSeg's trainer does.

    A ``writer`` gets the same as scalars, and the loss by term. ``terms``, lists of floats, are
    those of iterations since the last line that an earlier process has done. With a
    ``batch_size`` and an ``epoch_length``, in iterations, a line also says those of images.
    """

    def __init__(self, iters: int, interval: int, writer: StageLogWriter | None = None,
                 terms: Sequence[Sequence[float]] = (), batch_size: int = 0,
                 epoch_length: int = 0):
        self.iters, self.interval, self.writer = iters, min(interval, iters), writer
        self.batch_size, self.epoch_length = batch_size, epoch_length
        self._restart()
        self.terms.extend(map(list, terms))

    def _restart(self) -> None:
        self.terms: list[list[float]] = []
        self._timed, self._reader_seconds, self._start = 0, 0.0, time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Do not count time that went into something else."""
        self._start += seconds

    def __call__(self, step: Step) -> None:
        self.terms.append([float(term) for term in step.terms])
        self._reader_seconds += step.reader_seconds
        self._timed += 1
        if step.iteration % self.interval:
            return
        means = [sum(values) / len(self.terms) for values in zip(*self.terms)]
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


def diverged_term(step: Step, names: Sequence[str]) -> str | None:
    """Say which of the loss terms is no finite number, if one is not."""
    for name, term in zip(names, step.terms):
        value = float(term)
        if not math.isfinite(value):
            return f"{name} is {value} at iteration {step.iteration}"
    return None
