"""The one loop of stages 2 and 3, whose models are small and train on features in memory.

PaddleSeg's trainer trains the segmentor. It has no callback and no data without a loader; here
``fit`` is the bare loop, which tuning and the adding of classes use as it is, and
``fit_in_folder`` the same with log lines, VisualDL, checkpoints and resuming. Keys, tags and files
are PaddleSeg's.
"""

import contextlib
import glob
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import paddle
from paddleseg.cvlibs import Config
from paddleseg.cvlibs.config_checker import DefaultLossRule
from paddleseg.utils import logger
from paddleseg.utils.timer import calculate_eta

from paddle_csrl import parallel
from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.errors import UserError
from paddle_csrl.stages.base import StageContext
from paddle_csrl.utils import read_json, write_json
from paddle_csrl.utils.visualdl import StageLogWriter, loss_names
from paddle_csrl.utils.weights import load_state, load_weights, save_state


class _SectionConfig(Config):
    """A PaddleSeg ``Config`` of a section, for what has no file of its own."""

    def __init__(self, content: dict[str, Any]):
        # PaddleSeg's builder asks for the type of the data set; `Dataset` is the one for which
        # it infers nothing.
        self.dic = {**content, "train_dataset": {"type": "Dataset"}}
        DefaultLossRule("loss").check_and_correct(self)


class TrainingBuilder(UserErrorBuilder):
    """Builds loss, optimizer and schedule of a section for a model that is already made."""

    def __init__(self, section: TrainedSection, model: paddle.nn.Layer):
        content = section.model_dump(include={"iters", "loss", "optimizer", "lr_scheduler"})
        super().__init__(_SectionConfig(content))
        self.model = model


def check_training(section: Any, num_classes: int, place: str = "") -> None:
    """Raise ``UserError`` unless a section's losses, optimizer and schedule can be built.

    The classes are ``num_classes``; ``place`` stands before messages.
    """
    for loss in section.loss["types"]:
        component = UserErrorBuilder(None).build_component(loss)
        ignored, weight = (getattr(component, name, None) for name in ("ignore_index", "weight"))
        if isinstance(weight, paddle.Tensor) and len(weight) != num_classes:
            raise UserError(f"{loss['type']} has {len(weight)} weights for {num_classes} classes; "
                            f"give `weight` one number per class, in the order of their ids")
        if ignored is not None and 0 <= ignored < num_classes:
            raise UserError(f"{loss['type']} ignores {ignored}, one of the {num_classes} classes; "
                            f"set its `ignore_index` to that of the data sets, such as 65535")
    with paddle.utils.unique_name.guard():
        builder = TrainingBuilder(section, paddle.nn.Linear(1, 1))
        # Groups of parameters are told by the names that they have in the real model.
        builder.config.dic["optimizer"].pop("custom_cfg", None)
        try:
            builder.optimizer  # noqa: B018  raises where it cannot be built
        except UserError as error:
            raise UserError(f"{place}{error}") from error


@dataclass
class Step:
    """An iteration that has been done, numbered from 1, and its loss by term."""

    iteration: int
    terms: list[paddle.Tensor]
    learning_rate: float
    reader_seconds: float
    builder: TrainingBuilder


Callback = Callable[[Step], None]
AnyModel = TypeVar("AnyModel", bound=paddle.nn.Layer)
#: Trains a model on whole batches, one per iteration, as a section says.
Fit = Callable[[AnyModel, paddle.io.Dataset, Any], None]


def fit(model: paddle.nn.Layer, batches: paddle.io.Dataset, section: TrainedSection,
        callbacks: Sequence[Callback] = (), checkpoint: str | None = None) -> None:
    """Train a model on whole batches, one per iteration.

    Of several processes each makes all iterations in the same order; where the model has a
    ``share`` of the work, gradients are summed.

    Args:
        model: computes its loss terms by ``loss_computation``, as a model of PaddleSeg may.
        batches: dicts of arrays, one item an iteration, without the batch axis of a loader.
        section: iterations, loss, optimizer and schedule.
        callbacks: called after every iteration, in turn.
        checkpoint: a folder written by ``Checkpoints``, to go on from.
    """
    builder = TrainingBuilder(section, model)
    optimizer, losses, schedule = builder.optimizer, builder.loss, builder.lr_scheduler
    done = load_checkpoint(checkpoint, builder) if checkpoint else 0
    share = getattr(model, "share", None)
    # The order of PaddleSeg's trainer.
    order = list(paddle.io.DistributedBatchSampler(batches, batch_size=1, num_replicas=1, rank=0,
                                                   shuffle=True))
    model.train()
    for iteration, [index] in enumerate(order[done:section.iters], done + 1):
        start = time.monotonic()
        data = {key: paddle.to_tensor(value[None]) for key, value in batches[index].items()}
        seconds = time.monotonic() - start
        terms = model.loss_computation(model(data["img"]), losses, data)
        loss = sum(terms)
        loss.backward()
        if share is not None and share.ranks > 1:
            parallel.add_gradients(model.parameters())
        optimizer.step()
        learning_rate = optimizer.get_lr()
        if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
            schedule.step(loss)
        else:
            schedule.step()
        optimizer.clear_grad(set_to_zero=False)
        for callback in callbacks:
            callback(Step(iteration, terms, learning_rate, seconds, builder))


def fit_in_folder(context: StageContext, stage: str, section: TrainedSection,
                  record: Callable[[StageLogWriter, int], None] | None = None) -> Fit:
    """Return ``fit`` with log lines, VisualDL, checkpoints and resuming in a stage's folder.

    ``section`` says how often. ``record`` is called with (writer, iteration) at every checkpoint,
    by the first process alone, and must leave no trace in the training.
    """

    def train(model: paddle.nn.Layer, batches: paddle.io.Dataset,
              trained: TrainedSection) -> None:
        settings, folder = context.settings, context.files.folder(stage)
        context.files.begin(stage, resumed=bool(context.resume_model))
        names = loss_names(_SectionConfig({"loss": trained.loss}).loss_cfg)

        def require_finite(step: Step) -> None:
            for name, term in zip(names, step.terms):
                require_finite_loss(term, name, step.iteration, stage, folder)

        callbacks: list[Callback] = [require_finite]
        with contextlib.ExitStack() as stack:
            if parallel.is_first():
                writer = stack.enter_context(StageLogWriter(folder, names)) \
                    if settings.use_vdl else None
                callbacks.append(ProgressLog(trained.iters, section.log_iters, writer))
                if writer and record:
                    callbacks.append(_at_checkpoints(section, trained.iters, lambda step: record(
                        writer, step.iteration)))
            callbacks.append(_at_checkpoints(section, trained.iters, Checkpoints(
                folder, settings.keep_checkpoint_max)))
            fit(model, batches, trained, callbacks, context.resume_model)
        parallel.barrier()

    return train


def _at_checkpoints(section: TrainedSection, iters: int, callback: Callback) -> Callback:
    """``callback`` at every ``save_interval`` and at the end."""

    def at_checkpoints(step: Step) -> None:
        if step.iteration % section.save_interval == 0 or step.iteration == iters:
            callback(step)

    return at_checkpoints


class ProgressLog:
    """Logs the mean loss, speed and time left every few iterations, as PaddleSeg's trainer does.

    A ``writer`` gets the same as scalars, and the loss by term.
    """

    def __init__(self, iters: int, interval: int, writer: StageLogWriter | None = None):
        self.iters, self.interval, self.writer = iters, min(interval, iters), writer
        self._restart()

    def _restart(self) -> None:
        self._terms: list[list[float]] = []
        self._reader_seconds, self._start = 0.0, time.monotonic()

    def __call__(self, step: Step) -> None:
        self._terms.append([float(term) for term in step.terms])
        self._reader_seconds += step.reader_seconds
        if step.iteration % self.interval:
            return
        count = len(self._terms)
        means = [sum(values) / count for values in zip(*self._terms)]
        cost = (time.monotonic() - self._start) / count
        scalars = {"loss": sum(means), "lr": step.learning_rate, "batch_cost": cost,
                   "reader_cost": self._reader_seconds / count}
        logger.info(
            f"[TRAIN] iter: {step.iteration}/{self.iters}, loss: {scalars['loss']:.4f}, "
            f"lr: {step.learning_rate:.6f}, batch_cost: {cost:.4f}, "
            f"reader_cost: {scalars['reader_cost']:.5f} | "
            f"ETA {calculate_eta(self.iters - step.iteration, cost)}")
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(f"Train/{name}", value, step.iteration)
            for number, value in enumerate(means[:0] if len(means) == 1 else means):
                self.writer.add_scalar(f"Train/loss_{number}", value, step.iteration)
        self._restart()


def require_finite_loss(term: paddle.Tensor, name: str, iteration: int, stage: str,
                        folder: str) -> None:
    """Raise ``UserError`` at a loss term that is no finite number, before it is saved."""
    value = float(term)
    if not math.isfinite(value):
        saved = glob.glob(os.path.join(glob.escape(folder), "iter_*"))
        last = f"the last checkpoint before is {max(saved, key=iterations_done)}" if saved \
            else "there is no checkpoint before"
        raise UserError(f"stage {stage} has diverged: {name} is {value} at iteration {iteration}; "
                        f"lower its learning rate or set `optimizer.grad_clip_cfg` ({last})")


class Checkpoints:
    """Writes checkpoints as PaddleSeg's trainer does, into ``iter_N``, with the random state.

    The last ``keep`` stay; 0 for all.
    """

    def __init__(self, folder: str, keep: int):
        self.folder, self.keep = folder, keep
        self._written: list[str] = []

    def __call__(self, step: Step) -> None:
        target = os.path.join(self.folder, f"iter_{step.iteration}")
        save_state(step.builder.model.state_dict(), os.path.join(target, "model.pdparams"))
        save_state(step.builder.optimizer.state_dict(), os.path.join(target, "model.pdopt"))
        if not parallel.is_first():
            return
        write_json(os.path.join(target, _RANDOM_STATE),
                   [state.__getstate__() for state in paddle.get_rng_state()])
        self._written.append(target)
        while len(self._written) > self.keep > 0:
            shutil.rmtree(self._written.pop(0))


_RANDOM_STATE = "random_state.json"


def load_checkpoint(folder: str, builder: TrainingBuilder) -> int:
    """Read what ``Checkpoints`` wrote and return the number of iterations done.

    Where the random state is missing, as in checkpoints of 0.1.0 and on Paddle 2.6, which does
    not tell it, training goes on with other noise than without the stop.
    """
    load_weights(builder.model, os.path.join(folder, "model.pdparams"))
    builder.optimizer.set_state_dict(load_state(os.path.join(folder, "model.pdopt")))
    _set_random_state(read_json(os.path.join(folder, _RANDOM_STATE)))
    return iterations_done(folder)


def _set_random_state(content: Any) -> None:
    states = paddle.get_rng_state()
    if not content or len(content) != len(states) or not content[0][-1]:
        logger.warning("the checkpoint holds no random state: training goes on with other noise "
                       "than without the stop")
        return
    restored = [type(state).__new__(type(state)) for state in states]
    for state, values in zip(restored, content):
        state.__setstate__(tuple(values))
    paddle.set_rng_state(restored)


def iterations_done(folder: str) -> int:
    """The number at the end of a checkpoint folder's name."""
    return int(os.path.normpath(folder).rsplit("_", 1)[-1])


def is_checkpoint(folder: str) -> bool:
    """Tell whether training can go on from a folder."""
    files = (os.path.join(folder, name) for name in ("model.pdparams", "model.pdopt"))
    return folder.rsplit("_", 1)[-1].isdigit() and all(map(os.path.isfile, files))
