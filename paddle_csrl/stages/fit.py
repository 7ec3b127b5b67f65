"""The one loop of stages 2 and 3, whose models are small and train on features in memory.

PaddleSeg's trainer trains the segmentor. It has no callback and no data without a loader; here
``fit`` is the bare loop, which tuning and the adding of classes use as it is, and
``fit_in_folder`` the same in the folder of a stage: with log lines, VisualDL, checkpoints and
resuming, of which ``in_folder`` takes care for every stage. Keys, tags and files are PaddleSeg's.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import paddle
from paddleseg.cvlibs import Config
from paddleseg.cvlibs.config_checker import DefaultLossRule
from paddleseg.utils import logger

from paddle_csrl import parallel, stopping
from paddle_csrl.bank.batches import FeatureBatches
from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.stages.base import StageContext
from paddle_csrl.stages.checkpoints import (
    Checkpoints,
    Evaluate,
    iterations_done,
    read_record,
    saved_in,
)
from paddle_csrl.stages.progress import Callback, DivergenceCheck, ProgressLog, Step, loss_names
from paddle_csrl.utils import device

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter


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
        if isinstance(weight, paddle.Tensor) and weight.size != num_classes:
            raise UserError(f"{loss['type']} has {weight.size} weights for {num_classes} classes; "
                            f"give `weight` one number per class, in the order of their ids")
        if isinstance(ignored, int) and 0 <= ignored < num_classes:
            raise UserError(f"{loss['type']} ignores {ignored}, one of the {num_classes} classes; "
                            f"set its `ignore_index` to that of the data sets, such as 65535")
    with paddle.utils.unique_name.guard():
        builder = TrainingBuilder(section, paddle.nn.Linear(1, 1))
        # Groups of parameters are told by the names that they have in the real model.
        builder.config.dic["optimizer"].pop("custom_cfg", None)
        try:
            if section.optimizer["type"] != "AdamWDL_CAE":  # which asks the real one for more
                _try_step(builder)
            learning_rates(section)
        except UserError as error:
            raise UserError(f"{place}{error}") from error


def learning_rates(section: Any) -> np.ndarray:
    """The learning rate of every iteration of a section, float64 [iters].

    Where losses decide, by ``ReduceOnPlateau``, it is the first one everywhere.

    Raises:
        UserError: the schedule ends in an error before the last iteration.
    """
    with paddle.utils.unique_name.guard():
        schedule = TrainingBuilder(section, paddle.nn.Linear(1, 1)).lr_scheduler
    rates = np.full(section.iters, schedule())
    if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
        return rates
    for iteration in range(section.iters):
        rates[iteration] = schedule()
        try:
            schedule.step()
        except Exception as error:  # each schedule has its own way to end
            raise UserError(f"`lr_scheduler` has no learning rate after {iteration + 1} of "
                            f"`iters: {section.iters}` ({one_line(error)}); look at its "
                            f"arguments") from error
    return rates


def _try_step(builder: TrainingBuilder) -> None:
    """Make a step where there is nowhere to go."""
    optimizer = builder.optimizer
    try:
        (0 * builder.model(paddle.zeros([1, 1]))).backward()
        optimizer.step()
    except Exception as error:  # Paddle looks at some arguments then
        raise UserError(f"`optimizer` makes no step ({one_line(error)}); look at its "
                        f"arguments") from error
    if not all(bool(paddle.isfinite(value).all()) for value in builder.model.parameters()):
        raise UserError("`optimizer` turns weights without a gradient into no finite numbers; look "
                        "at its arguments, such as `epsilon`")


AnyModel = TypeVar("AnyModel", bound=paddle.nn.Layer)
#: Trains a model on whole batches, one per iteration, as a section says.
Fit = Callable[[AnyModel, paddle.io.Dataset, Any], None]


def fit(model: paddle.nn.Layer, batches: paddle.io.Dataset, section: TrainedSection,
        callbacks: Sequence[Callback] = (),
        take_up: Callable[[TrainingBuilder], int] | None = None) -> None:
    """Train a model on whole batches, one per iteration.

    Of several processes each makes all iterations in the same order; where the model has a
    ``share`` of the work, gradients and terms are summed.

    Args:
        model: computes its loss terms by ``loss_computation``, as a model of PaddleSeg may.
        batches: dicts of arrays, one item an iteration, as for ``batch_of``.
        section: iterations, loss, optimizer and schedule.
        callbacks: called after every iteration, in turn.
        take_up: gives the builder's model and optimizer the state after the number of iterations
            that it returns.
    """
    builder = TrainingBuilder(section, model)
    optimizer, losses, schedule = builder.optimizer, builder.loss, builder.lr_scheduler
    done = take_up(builder) if take_up else 0
    share = getattr(model, "share", None)
    # The order of PaddleSeg's trainer.
    order = list(paddle.io.DistributedBatchSampler(batches, batch_size=1, num_replicas=1, rank=0,
                                                   shuffle=True))
    model.train()
    for iteration, [index] in enumerate(order[done:section.iters], done + 1):
        start = time.monotonic()
        data = batch_of(batches, index)
        seconds = time.monotonic() - start
        terms = model.loss_computation(model(data["img"]), losses, data)
        sum(terms).backward()
        # The batch and the graph behind the terms would stay beside those of the next iteration.
        del data
        terms = [term.detach() for term in terms]
        if share is not None and share.ranks > 1:
            terms = parallel.add_up(model.parameters(), terms)
        optimizer.step()
        learning_rate = optimizer.get_lr()
        if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
            schedule.step(sum(terms))
        else:
            schedule.step()
        optimizer.clear_grad(set_to_zero=False)
        for callback in callbacks:
            callback(Step(iteration, terms, learning_rate, seconds, builder))


def batch_of(batches: Any, index: int) -> dict[str, Any]:
    """One of the ``batches`` with the batch axis of a loader, which the items are without.

    Arrays become tensors, but for those under the keys ``batches.on_host``, if it has any.
    """
    kept = getattr(batches, "on_host", ())
    return {key: value[None] if key in kept or isinstance(value, paddle.Tensor)
            else paddle.to_tensor(value[None]) for key, value in batches[index].items()}


def to_device_if_it_fits(batches: paddle.io.Dataset, stage: str) -> None:
    """Have batches of features cut on the GPU, if there is one, and say whether they are.

    Then a batch costs no copy but that of its row numbers.
    """
    if not isinstance(batches, FeatureBatches) or not paddle.get_device().startswith("gpu"):
        return
    size, room = batches.nbytes, device.room_for_data(device.free_memory())
    told = f"[{stage}] the bank of {size / 2**30:.2f} GiB"
    if size <= room:
        batches.to_device()
        logger.info(f"{told} is on the device")
    else:
        logger.info(f"{told} is on the host: the device has room for {room / 2**30:.2f} GiB")


class InFolder(NamedTuple):
    """A training in the folder of its stage, but for the iterations themselves."""

    #: For ``fit``, or None to begin at the beginning.
    take_up: Callable[[Any], int] | None
    callbacks: list[Callback]
    checkpoints: Checkpoints


@contextlib.contextmanager
def in_folder(context: StageContext, stage: str, section: Any, iters: int, names: Sequence[str],
              evaluate: Evaluate | None = None, chosen_by: str | None = None, offset: int = 0,
              beside: Mapping[str, dict[str, Any]] | None = None,
              **of_images: int) -> Iterator[InFolder]:
    """Begin the folder of a stage, or take up the training there.

    A signal to stop is put off inside the block, until the training has saved a checkpoint.

    Args:
        section: says how often to log and to save.
        iters: iterations of the training.
        names: of the loss terms.
        evaluate, chosen_by, beside: as for ``Checkpoints``.
        offset: iterations of earlier trainings of the stage, which this one goes on counting.
        of_images: as for ``ProgressLog``.
    """
    from paddle_csrl.utils.visualdl import StageLogWriter

    settings, folder = context.settings, context.files.folder(stage)
    given = context.resume_model
    checkpoint = given if given and iterations_done(given) > offset else None
    previous = read_record(checkpoint or os.path.join(folder, f"iter_{offset}"))

    def take_up(builder: Any) -> int:
        return checkpoints.take_up(str(checkpoint), builder) - offset

    def refuse(term: str) -> None:
        saved = saved_in(folder)
        last = f"the last checkpoint before is {saved[-1]}" if saved \
            else "there is no checkpoint before"
        raise UserError(f"stage {stage} has diverged: {term}; lower its learning rate or set "
                        f"`optimizer.grad_clip_cfg` ({last})")

    def counted(callback: Callback) -> Callback:
        return lambda step: callback(replace(step, iteration=step.iteration + offset))

    context.files.begin(stage, resumed=context.files.holds(stage, checkpoint) if checkpoint
                        else offset > 0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping.put_off())
        writer = stack.enter_context(StageLogWriter(folder, names, previous.get("log"))) \
            if settings.use_vdl and parallel.is_first() else None
        last = offset + iters
        log = ProgressLog(last, section.log_iters, writer, previous.get("terms", ()), **of_images)
        check = DivergenceCheck(names, section.log_iters, refuse)
        checkpoints = Checkpoints(folder, section.save_interval, last,
                                  settings.keep_checkpoint_max, log, writer, evaluate, chosen_by,
                                  previous, beside, check.now)
        callbacks: list[Callback] = [check, *([log] if parallel.is_first() else []), checkpoints]
        yield InFolder(take_up if checkpoint else None, list(map(counted, callbacks)), checkpoints)
    parallel.barrier()


def fit_in_folder(context: StageContext, stage: str, section: TrainedSection,
                  record: Callable[["StageLogWriter", int], None] | None = None,
                  offset: int = 0, beside: Mapping[str, dict[str, Any]] | None = None) -> Fit:
    """Return ``fit`` with log lines, VisualDL, checkpoints and resuming in a stage's folder.

    ``section`` says how often. ``record`` is called with (writer, iteration) at every checkpoint,
    by the first process alone, and must leave no trace in the training. The others are as for
    ``in_folder``.
    """

    def evaluate(writer: "StageLogWriter | None", iteration: int) -> None:
        if writer and record:
            record(writer, iteration)

    def train(model: paddle.nn.Layer, batches: paddle.io.Dataset,
              trained: TrainedSection) -> None:
        if context.settings.to_static_training:
            logger.info(f"[{stage}] `to_static_training` is for stage 1 alone, not for this one")
        to_device_if_it_fits(batches, stage)
        names = loss_names(_SectionConfig({"loss": trained.loss}).loss_cfg)
        with in_folder(context, stage, section, trained.iters, names,
                       evaluate if record else None, offset=offset, beside=beside) as training:
            fit(model, batches, trained, training.callbacks, training.take_up)

    return train
