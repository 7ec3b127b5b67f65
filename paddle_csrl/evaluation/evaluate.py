"""Scoring a segmentor on seen and unseen classes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddleseg.core import infer

from paddle_csrl import parallel
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.errors import UserError
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.last_layer import does_not_run
from paddle_csrl.utils import progress
from paddle_csrl.utils.precision import autocast

#: The keys of ``test_config`` that mean something with ``aug_eval`` alone.
AUGMENTED_KEYS = ("scales", "flip_horizontal", "flip_vertical")
#: Those with ``is_slide`` alone.
WINDOW_KEYS = ("crop_size", "stride")
_OF_STRIDE = ("have `val_dataset.transforms` bring images to a multiple of its stride, as "
              "{type: Padding, target_size: [512, 512]}")


def shard(dataset: paddle.io.Dataset) -> paddle.io.Subset:
    """Return this process's share of a data set: every sample belongs to exactly one process."""
    return paddle.io.Subset(
        dataset, list(range(parallel.rank(), len(dataset), parallel.world_size())))


def read_in_turn(samples: paddle.io.Subset, num_workers: int,
                 title: str) -> Iterable[tuple[int, dict[str, Any]]]:
    """Read ``samples`` one by one, with progress: each as a batch, after its index in the whole."""
    loader = paddle.io.DataLoader(samples, batch_size=1, num_workers=num_workers,
                                  return_list=True)
    return zip(samples.indices, progress(loader, title))


def new_evaluator(builder: ZeroShotBuilder) -> ZeroShotEvaluator:
    """Make an evaluator of the final scores of a config."""
    return ZeroShotEvaluator(len(builder.classes), builder.classes.unseen_ids,
                             ignore_index=builder.val_dataset.ignore_index,
                             class_names=builder.classes.names)


def evaluate_as_configured(builder: ZeroShotBuilder, model: nn.Layer, evaluator: Any,
                           dataset: paddle.io.Dataset | None = None,
                           **options: Any) -> ZeroShotEvaluator:
    """Run ``evaluate`` over the validation set of a config, or over ``dataset``, as it says.

    ``options`` are further arguments of ``evaluate``, stronger than the config.
    """
    settings = builder.config.settings
    configured = {"num_workers": settings.num_workers, "precision": settings.precision,
                  "amp_level": settings.amp_level, **builder.config.test_config}
    return evaluate(model, builder.val_dataset if dataset is None else dataset, evaluator,
                    **{**configured, **options})


def evaluate(model: nn.Layer, dataset: paddle.io.Dataset, evaluator: ZeroShotEvaluator,
             num_workers: int = 0, precision: str = "fp32", amp_level: str = "O1",
             aug_eval: bool = False, on_prediction: Callable | None = None,
             on_logits: Callable | None = None, title: str = "evaluate", alone: bool = False,
             **test_config: Any) -> ZeroShotEvaluator:
    """Run ``model`` over ``dataset`` and count predictions in ``evaluator``, which is returned.

    Inference is PaddleSeg's own (``core.infer``), at the label's resolution. With several
    processes each takes its share and the counts are summed.

    Args:
        model: a segmentor; it is put into eval mode.
        dataset: a validation data set in PaddleSeg's form.
        evaluator: receives every prediction and label.
        num_workers (int): processes that read and transform images.
        precision, amp_level: as in PaddleSeg.
        aug_eval (bool): multi-scale and flip, with ``AUGMENTED_KEYS``.
        on_prediction (callable, optional): gets (index in ``dataset``, prediction, label).
        on_logits (callable, optional): gets (logits float [1, C, H, W], label [1, 1, H, W]) of
            every image, once they are counted; with ``aug_eval`` means of the augmented ones.
        title (str): shown beside the progress.
        alone (bool): this process evaluates everything, and no other one does.
        **test_config: ``is_slide``, ``crop_size``, ``stride`` and the above, as in PaddleSeg.

    Raises:
        UserError: the model does not run on an image, or predicts another size than its label's.
    """
    model.eval()
    samples = paddle.io.Subset(dataset, list(range(len(dataset)))) if alone else shard(dataset)
    if not aug_eval:
        for key in AUGMENTED_KEYS:
            test_config.pop(key, None)
    run = infer.aug_inference if aug_eval else infer.inference
    with paddle.no_grad(), autocast(precision, amp_level):
        for index, data in read_in_turn(samples, num_workers, title):
            try:
                prediction, logits = run(model, data["img"], trans_info=data["trans_info"],
                                         **test_config)
            except Exception as error:  # of Paddle, of many types
                raise does_not_run(model, data["img"], error,
                                   f"if it is for its size, {_OF_STRIDE}") from error
            label = data["label"].numpy()
            _require_size(prediction, label, type(model).__name__)
            evaluator.update(prediction.numpy(), label)
            if on_logits:
                on_logits(logits, label)
            if on_prediction:
                size = label.shape[-2:]
                on_prediction(index, prediction.numpy().reshape(size), label.reshape(size))
    if not alone:
        evaluator.confusion = parallel.total(evaluator.confusion)
    return evaluator


def _require_size(prediction: paddle.Tensor, label: np.ndarray, model: str) -> None:
    """Insist on one size, which networks miss that only multiples of their stride come out of."""
    (made, wide), (height, width) = prediction.shape[-2:], label.shape[-2:]
    if (made, wide) != (height, width):
        raise UserError(f"{model} predicts {made} x {wide} pixels (height x width) where the label "
                        f"has {height} x {width}; {_OF_STRIDE}, and none that changes their size "
                        f"without a way back")
