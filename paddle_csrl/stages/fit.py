"""Running PaddleSeg's trainer for one stage."""

import os
import shutil
from collections.abc import Callable

import paddle
from paddleseg.core import train
from paddleseg.cvlibs import SegBuilder
from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.builder import UserErrorBuilder
from paddle_csrl.compat import trainer_hooks
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.utils import atomic_path
from paddle_csrl.utils.precision import restore_full_precision
from paddle_csrl.utils.visualdl import StageLogWriter, loss_names
from paddle_csrl.utils.weights import load_state


class StageBuilder(UserErrorBuilder):
    """PaddleSeg's builder around a model that is already made.

    Stages 2 and 3 train small models whose arguments are arrays (embeddings, prototypes),
    which have no place in YAML; loss, optimizer and schedule come from the config as usual.
    """

    def __init__(self, config, model: paddle.nn.Layer | None = None):
        super().__init__(config)
        self.model = model


#: What trains ``builder.model`` on a data set of whole batches.
Fit = Callable[[StageBuilder, paddle.io.Dataset], None]


def train_stage(run: Run, stage: str, builder: SegBuilder, train_dataset: paddle.io.Dataset,
                batch_size: int, val_dataset: paddle.io.Dataset | None = None,
                evaluate: Callable | None = None,
                on_logged: Callable | None = None, alone: bool = False) -> str:
    """Train ``builder.model`` with PaddleSeg's trainer and return its last checkpoint's folder.

    Args:
        run: the run; its config gives ``save_interval``, ``log_iters`` and the like.
        stage: the stage, whose folder receives checkpoints and the VisualDL log.
        builder: provides model, optimizer, loss and the number of iterations.
        train_dataset, val_dataset: as in PaddleSeg.
        batch_size: samples per iteration and device.
        evaluate: replaces ``paddleseg.core.evaluate`` during training.
        on_logged: called with (writer, iteration) whenever the trainer has logged, by the first
            process only.
        alone: where there are several processes, each trains on all of the data.

    Raises:
        UserError: ``train_dataset`` does not fill one batch on every device.
    """
    config, folder, iters = run.config, run.folder(stage), builder.config.iters
    require_full_batch(train_dataset, batch_size, 1 if alone else parallel.world_size())
    section = "" if stage == "segmentor" else stage
    optimizer, losses = builder.optimizer, builder.loss
    names = loss_names(builder.config.loss_cfg)
    run.begin(stage)  # not before all is built, for it clears the folder
    with trainer_hooks(
            evaluate=evaluate, alone=alone,
            log_writer=lambda save_dir: StageLogWriter(save_dir, names, on_logged)):
        train(
            builder.model,
            train_dataset,
            val_dataset=val_dataset,
            optimizer=optimizer,
            save_dir=folder,
            iters=iters,
            batch_size=batch_size,
            resume_model=run.resumes(stage),
            save_interval=min(config.option("save_interval", 1000, section), iters),
            log_iters=min(config.option("log_iters", 10, section), iters),
            num_workers=config.option("num_workers", 0) if stage == "segmentor" else 0,
            use_vdl=config.option("use_vdl", True) and parallel.is_first(),
            losses=losses,
            keep_checkpoint_max=config.option("keep_checkpoint_max", 3),
            test_config=config.test_config,
            # Losses and relations need float32, and the models are small.
            precision="fp32" if alone else config.option("precision", "fp32"),
            amp_level=config.option("amp_level", "O1"),
            to_static_training=config.to_static_training and stage == "segmentor")
    drop_flops_counters(builder.model)
    restore_full_precision(builder.model)
    parallel.barrier()  # the first process has saved the checkpoint
    return os.path.join(folder, f"iter_{iters}")


def fit_silently(builder: StageBuilder, batches: paddle.io.Dataset) -> None:
    """Train as ``train_stage`` does on one device, to the same weights, but leave no files.

    There are no logs, checkpoints or loader processes, which for a model as small as those of
    stages 2 and 3 take as long as the training itself.

    Args:
        builder: provides model, which computes its loss, optimizer and number of iterations.
        batches: whole batches, one per iteration.
    """
    builder.show_msg = lambda *_: None
    model, optimizer, losses = builder.model, builder.optimizer, builder.loss
    schedule = builder.lr_scheduler
    order = paddle.io.DistributedBatchSampler(batches, batch_size=1, num_replicas=1, rank=0,
                                              shuffle=True)  # the trainer's order
    model.train()
    for [index] in order:
        data = {key: paddle.to_tensor(value[None]) for key, value in batches[index].items()}
        loss = sum(model.loss_computation(model(data["img"]), losses, data))
        loss.backward()
        optimizer.step()
        if isinstance(schedule, paddle.optimizer.lr.ReduceOnPlateau):
            schedule.step(loss)
        else:
            schedule.step()
        optimizer.clear_grad(set_to_zero=False)


def require_full_batch(dataset: paddle.io.Dataset, batch_size: int, devices: int) -> None:
    """Raise ``UserError`` if there is no full batch: the trainer would wait for one for ever."""
    if -(-len(dataset) // devices) < batch_size:
        raise UserError(f"`batch_size: {batch_size}` is more than the {len(dataset)} training "
                        f"images" + (f" on {devices} devices" if devices > 1 else "")
                        + "; make it smaller")


def drop_flops_counters(model: paddle.nn.Layer) -> None:
    """Take away the buffers that Paddle's FLOPs counter, which ends the trainer, leaves behind.

    It forgets those of layers that never ran, such as auxiliary heads, and they would end up in
    the saved weights.
    """
    for layer in model.sublayers(include_self=True):
        for name in ("total_ops", "total_params"):
            layer._buffers.pop(name, None)


def save_state(state: dict, path: str) -> None:
    """Write a state dict as ``.pdparams``, atomically; only the first process writes."""
    if parallel.is_first():
        with atomic_path(path) as temporary:
            paddle.save(state, temporary)
    parallel.barrier()


def load_weights(model: paddle.nn.Layer, path: str) -> None:
    """Load a state dict that fits ``model`` exactly.

    Raises:
        UserError: the file is missing, torn, or its keys or shapes are not the model's.
    """
    set_weights(model, load_state(path), path)


def set_weights(model: paddle.nn.Layer, state: dict, path: str) -> None:
    """As ``load_weights``, with the ``state`` of ``path``."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [
        key for key in own if list(own[key].shape) != list(state[key].shape)]
    if wrong:
        raise UserError(f"{path} does not fit {type(model).__name__} of this config: {len(wrong)} "
                        f"entries differ, the first is {wrong[0]}; use the config it was "
                        f"trained with")
    model.set_state_dict(state)


def keep_checkpoint(weights: str, path: str) -> None:
    """Copy the file ``weights`` to ``path``, atomically."""
    if parallel.is_first():
        with atomic_path(path) as temporary:
            shutil.copyfile(weights, temporary)
        logger.info(f"kept {weights} as {path}")
    parallel.barrier()
