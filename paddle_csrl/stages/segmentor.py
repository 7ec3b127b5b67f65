"""Stage 1: a PaddleSeg segmentor, stock or with a projection, trained on seen classes only."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn
from paddleseg.core import train
from paddleseg.core.train import loss_computation
from paddleseg.utils import logger, utils

from paddle_csrl import parallel, stopping
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.compat import shut_down, trainer_hooks
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import ZeroShotDataset
from paddle_csrl.datasets.order import TrainingOrder
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.embedding_head import EmbeddingHead
from paddle_csrl.models.last_layer import run_whole
from paddle_csrl.stages.base import (
    Stage,
    StageContext,
    dataset_input,
    embeddings_input,
    pretrained_input,
    register,
)
from paddle_csrl.stages.checkpoints import BEST
from paddle_csrl.stages.fit import InFolder, check_training, in_folder
from paddle_csrl.stages.progress import Step, loss_names
from paddle_csrl.stages.trial import try_optimizer, try_terms
from paddle_csrl.utils.precision import restore_full_precision
from paddle_csrl.utils.randomness import preserved
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.weights import keep_checkpoint, load_weights, save_state

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter

_KEYS = ("model", "loss", "optimizer", "lr_scheduler", "iters", "batch_size", "train_dataset",
         "val_dataset", "test_config", "to_static_training", "precision", "amp_level", "do_eval",
         "save_interval")


@register
class SegmentorStage(Stage):
    """Trains the top-level config with PaddleSeg's trainer.

    With ``do_eval`` the best checkpoint is kept, as judged by the mean IoU over seen classes
    on the validation set under the training policy: no unseen pixel takes part in the choice.
    Without it, or where the policy leaves no validation image, the last one is kept. With
    ``segmentor_weights`` nothing is trained: that checkpoint becomes the result as it is.
    """

    name = result = "segmentor"
    new_inputs = ("val_data", "pretrained", "save_interval")
    projects = True
    help = "a PaddleSeg segmentor learns the seen classes, or to project pixels onto embeddings"

    def iterations(self, config: ZeroShotConfig) -> int:
        return config.settings.iters

    def inputs(self, context: StageContext) -> dict[str, Any]:
        given, settings, builder = context.config.given, context.settings, context.builder
        if settings.segmentor_weights:
            return {"model": given["model"],
                    "segmentor_weights": _weights_checksum(settings.segmentor_weights)}
        files = {"train_dataset": builder.files("all"), "val_dataset": builder.files("val")}
        inputs = {key: given.get(key) for key in _KEYS}
        inputs.update({key: dataset_input(given[key], files[key]) for key in files})
        inputs.update(policy=settings.zero_shot.policy, data=builder.fingerprint(),
                      val_data=_selection_fingerprint(context),
                      pretrained=pretrained_input(given["model"]))
        if any(term.startswith("DiceLoss") for term in _terms(builder)[:-1]):
            inputs["labels_after_DiceLoss"] = "kept"  # which they were not before it was mended
        if context.classes.label_names is not None:
            inputs.update(label_names=context.classes.label_names,
                          class_names=context.classes.names)
        if context.config.projection:
            inputs.update(projection=context.config.projection.model_dump(),
                          embeddings=embeddings_input(context))
        if builder.embedding_head:
            inputs.update(embedding_head=builder.embedding_head,
                          embeddings=embeddings_input(context))
        return inputs

    def check(self, context: StageContext) -> None:
        train, val = context.builder.train_dataset, context.builder.val_dataset
        if train.img_channels != val.img_channels:
            raise UserError(f"`val_dataset.img_channels: {val.img_channels}` is not the "
                            f"{train.img_channels} of `train_dataset`; one network takes both")
        require_full_batch(train, context.settings.batch_size)
        val.audit()  # reads every label and the end of every image, once
        check_training(context.settings, len(context.classes))

    def check_start(self, context: StageContext) -> None:
        """See to a segmentor's last layer and outputs, a batch, validation and whole images."""
        builder = context.builder
        weights = context.settings.segmentor_weights
        sample = _check_batch(builder.train_dataset, context.settings.batch_size)
        with paddle.utils.unique_name.guard():
            model = builder.new_segmentor(pretrained=False) if weights else builder.new_trainee()
            if not context.config.projection and not builder.embedding_head:
                builder.classification_layer(model)  # which the others have looked for
        if weights:
            _require_file(weights)
            load_weights(model, weights)
        else:
            try_optimizer(model, context.settings)
            _check_outputs(model, sample, builder.train_dataset.ignore_index, builder.loss,
                           context.settings.loss)
        _check_validation(builder, model)
        if "features" in context.files.outputs:
            _check_whole_images(builder, model)

    def run(self, context: StageContext) -> dict[str, Any] | None:
        settings, builder = context.settings, context.builder
        if settings.segmentor_weights:
            _adopt(context, settings.segmentor_weights)
            return None
        utils.set_seed(context.seed(self.name))
        builder = ZeroShotBuilder(context.config, context.classes)
        builder.is_silent = False
        model = builder.new_trainee()
        builder.model = utils.convert_sync_batchnorm(model, paddle.get_device().split(":")[0])
        chosen = _train(context, self.name, builder)
        keep_trained(builder, os.path.join(chosen, "model.pdparams"),
                     context.files.output(self.name))
        return {"labels_drawn": context.builder.train_dataset.labels_drawn()}


def _train(context: StageContext, stage: str, builder: ZeroShotBuilder) -> str:
    """Run PaddleSeg's trainer and return the folder of the checkpoint that is to be kept."""
    settings, model, selection = context.settings, builder.model, _selection_dataset(context)
    require_full_batch(context.builder.train_dataset, settings.batch_size)
    order = TrainingOrder(context.builder.train_dataset, settings.batch_size, settings.iters)
    builder.optimizer, builder.loss  # noqa: B018  raise before the folder is cleared

    def evaluate(writer: "StageLogWriter | None", iteration: int) -> float | None:
        score = _selection_score(context, model, selection, writer, iteration) if selection \
            else None
        model.train()
        return score

    with in_folder(context, stage, settings, settings.iters, _terms(builder),
                   evaluate if selection else None, _chosen_by(context),
                   batch_size=settings.batch_size, epoch_length=order.epoch_length) as training:
        order.done = training.take_up(builder) if training.take_up else 0
        if len(order):
            _run_trainer(context, builder, order, training)
    folder = context.files.folder(stage)
    return os.path.join(folder, BEST if training.checkpoints.best else f"iter_{settings.iters}")


def _terms(builder: ZeroShotBuilder) -> list[str]:
    """Names of the terms of the loss, in the order in which they are computed."""
    return loss_names(builder.config.loss_cfg) + ["embedding_head"] * bool(builder.embedding_head)


def _run_trainer(context: StageContext, builder: ZeroShotBuilder, order: TrainingOrder,
                 training: InFolder) -> None:
    """Have PaddleSeg's trainer do the iterations of ``order``."""
    settings, dataset, model = context.settings, context.builder.train_dataset, builder.model
    terms: list[list[paddle.Tensor]] = []

    def batches() -> Generator[Any, None, None]:
        loader = paddle.io.DataLoader(dataset, batch_sampler=order, return_list=True,
                                      num_workers=settings.num_workers)
        with preserved():  # a loader with workers draws a number
            reader = iter(loader)
        step = None
        try:
            for iteration in range(order.done + 1, order.iters + 1):
                start = time.monotonic()
                try:
                    data = next(reader)
                except Exception:
                    if step and stopping.told():  # the workers were told as well, and are gone
                        training.checkpoints(step)
                    raise
                seconds, rate = time.monotonic() - start, builder.optimizer.get_lr()
                yield data
                step = Step(iteration, terms.pop(), rate, seconds, builder)
                for callback in training.callbacks:
                    callback(step)
        finally:
            shut_down(reader)

    with tempfile.TemporaryDirectory() as nothing, contextlib.closing(batches()) as loader, \
            trainer_hooks(model, loader, order.done, terms.append):
        train(model, dataset, optimizer=builder.optimizer, save_dir=nothing, iters=order.iters,
              batch_size=settings.batch_size, resume_model=nothing, save_interval=order.iters,
              log_iters=order.iters + 1, losses=builder.loss, keep_checkpoint_max=0,
              precision=settings.precision, amp_level=settings.amp_level,
              to_static_training=settings.to_static_training)
    _drop_flops_counters(model)
    restore_full_precision(model)


def keep_trained(builder: ZeroShotBuilder, path: str, output: str) -> None:
    """Keep trained weights as the result of the stage, without the head that is dropped."""
    if not builder.embedding_head:
        keep_checkpoint(path, output)
        return
    with paddle.utils.unique_name.guard():
        model = cast(EmbeddingHead, builder.new_trainee(pretrained=False))
    load_weights(model, path)
    save_state(model.stock().state_dict(), output)


def _adopt(context: StageContext, path: str) -> None:
    """Make a trained segmentor the result of the stage."""
    stage, folder = SegmentorStage.name, context.files.folder(SegmentorStage.name)
    if os.path.commonpath([os.path.realpath(folder), os.path.realpath(path)]) \
            == os.path.realpath(folder):
        raise UserError(f"`segmentor_weights: {path}` lies in {folder}, which the stage clears; "
                        f"move it elsewhere or choose another --save_dir")
    load_weights(context.builder.new_segmentor(pretrained=False), path)
    context.files.begin(stage)
    keep_checkpoint(path, context.files.output(stage))
    logger.info("[segmentor] not trained: `segmentor_weights` stands for it")


def _weights_checksum(path: str) -> str:
    _require_file(path)
    return checksum(path)


def _require_file(path: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"`segmentor_weights: {path}` is no file; give a .pdparams file, or null "
                        f"to train stage 1")


def _selection_fingerprint(context: StageContext) -> str | None:
    if not context.settings.do_eval:
        return None
    context.builder.val_dataset.audit()  # raises for a broken file, in whichever process
    try:
        return context.builder.fingerprint("selection")
    except UserError:  # no image is left, as is told when the training begins
        return None


def _chosen_by(context: StageContext) -> str:
    """Hash what the scores of checkpoints depend on beside these."""
    given, test_config = context.config.given["val_dataset"], context.settings.test_config
    content = [dataset_input(given, context.builder.files("val")), _selection_fingerprint(context),
               test_config.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _selection_dataset(context: StageContext) -> ZeroShotDataset | None:
    if not context.settings.do_eval:
        return None
    try:
        return context.builder.selection_dataset
    except UserError as error:
        logger.warning(f"the last checkpoint is taken, for none can be chosen: {error}")
        return None


def _selection_score(context: StageContext, model: paddle.nn.Layer, dataset: ZeroShotDataset,
                     writer: "StageLogWriter | None", iteration: int) -> float:
    """Return the mean IoU over seen classes, unseen ones hidden, and record it."""
    evaluator = ZeroShotEvaluator(len(context.classes), context.classes.unseen_ids,
                                  ignore_index=dataset.ignore_index)
    scores = evaluate_as_configured(context.builder, model, evaluator, dataset,
                                    title="seen classes").compute()
    logger.info(f"[EVAL] #Images: {len(dataset)} seen mIoU: {scores['selection_miou']:.4f} "
                f"(unseen classes hidden)")
    if writer:
        writer.add_scalar("Evaluate/selection_miou", scores["selection_miou"], iteration)
        writer.add_scalar("Evaluate/selection_acc", scores["pixel_accuracy"], iteration)
    return float(scores["selection_miou"])


def require_full_batch(dataset: paddle.io.Dataset, batch_size: int) -> None:
    """Raise ``UserError`` if no device has a full batch: PaddleSeg's trainer would wait for ever.
    """
    devices = parallel.world_size()
    if -(-len(dataset) // devices) < batch_size:
        raise UserError(f"`batch_size: {batch_size}` is more than the {len(dataset)} training "
                        f"images" + (f" on {devices} devices" if devices > 1 else "")
                        + "; make it smaller")


def _check_outputs(model: paddle.nn.Layer, sample: dict[str, np.ndarray], ignore_index: int,
                   losses: dict[str, Any], loss: dict[str, Any]) -> None:
    """Insist on a loss that can be computed for each of the outputs of a model in training.

    Args:
        model: untrained; it may compute its losses itself.
        sample: of the training set.
        ignore_index: its label of pixels without a class.
        losses: built from the section ``loss``.
    """
    data = {key: paddle.to_tensor(np.stack([value, value])) for key, value in sample.items()
            if isinstance(value, np.ndarray)}
    model.train()
    if hasattr(model, "loss_computation"):
        try_terms(lambda: model.loss_computation(model(data["img"]), losses, data), loss, "",
                  "a training image")
        return
    outputs = _outputs(model, data["img"])
    if len(outputs) != len(loss["coef"]):
        raise UserError(f"`loss.coef` has {len(loss['coef'])} numbers, and {type(model).__name__} "
                        f"has {len(outputs)} outputs in training; give a loss and a number for "
                        f"each")
    for output in paddle.utils.flatten(outputs):  # some are pairs or dicts
        output.stop_gradient = False
    label = data["label"].astype("int64")
    edges = data["edge"].astype("int64") if "edge" in data else None  # as in the trainer
    for given, labels in (("a training image", label),
                          ("an image without a labelled pixel",
                           paddle.full_like(label, ignore_index))):
        try_terms(partial(loss_computation, outputs, labels, edges, losses), loss, "", given)


def _outputs(model: paddle.nn.Layer, images: paddle.Tensor) -> list[paddle.Tensor]:
    try:
        with paddle.no_grad():
            return model(images)
    except Exception as error:  # of Paddle, of many types
        height, width = images.shape[-2:]
        raise UserError(f"`model`: {type(model).__name__} does not run on training images of "
                        f"{height} x {width} pixels (height x width: {one_line(error)[-200:]}); "
                        f"mend its arguments, or the `crop_size`, which for many networks is a "
                        f"multiple of 32") from error


def _check_batch(dataset: ZeroShotDataset, batch_size: int) -> dict[str, np.ndarray]:
    """Insist that transforms bring images to one size, by as many as are in a batch.

    Returns one of the samples.
    """
    samples = dataset.tried(batch_size)
    shapes = sorted({sample["img"].shape for sample in samples})
    if 0 in shapes[0]:
        raise UserError(f"`train_dataset.transforms` make an image of {shapes[0][1:]} (height, "
                        f"width), which has no pixel; look at its crop")
    if len(shapes) > 1:
        raise UserError(f"`train_dataset.transforms` make images of {shapes[0][1:]} and of "
                        f"{shapes[-1][1:]} (height, width), which are no batch; add "
                        f"RandomPaddingCrop with a `crop_size`, or set `batch_size: 1`")
    try:
        default_collate_fn(samples)
    except Exception as error:  # of Paddle and of NumPy, of several types
        raise UserError(f"`train_dataset.transforms` make samples that are no batch "
                        f"({one_line(error)}); have them do the same to every image, crop before "
                        f"the rest, or set `batch_size: 1`") from error
    return samples[0]


def _check_validation(builder: ZeroShotBuilder, model: paddle.nn.Layer) -> None:
    """Score the smallest of a few validation images, as is to be done after hours of training."""
    one: Any = [min(builder.val_dataset.tried(), key=lambda sample: sample["img"].size)]
    evaluate_as_configured(builder, model, new_evaluator(builder), one, num_workers=0, alone=True,
                           title="trial")


def _check_whole_images(builder: ZeroShotBuilder, model: paddle.nn.Layer) -> None:
    """Run the model on a few training images, one of each size, as the next stage does."""
    images = {sample["img"].shape: sample["img"] for sample in builder.feature_dataset.tried()}
    for image in images.values():
        run_whole(model, paddle.to_tensor(image[None]))


def _drop_flops_counters(model: paddle.nn.Layer) -> None:
    """Take away the buffers that Paddle's FLOPs counter, which ends the trainer, leaves behind.

    It forgets those of layers that never ran, such as auxiliary heads, and they would end up in
    the saved weights.
    """
    for layer in model.sublayers(include_self=True):
        for name in ("total_ops", "total_params"):
            layer._buffers.pop(name, None)
