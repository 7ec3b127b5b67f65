"""Make PaddleSeg, from 2.8.0 to its develop branch, train and evaluate on current Paddle releases.

PaddleSeg 2.8.0 was written for Paddle 2.4: later releases return 0-D tensors where that one
returned one element, and Paddle 3 no longer mixes integers with floats. Each fault below is
looked for by running or reading the faulty code, never by comparing versions, so that a
PaddleSeg without it stays untouched. Importing this module mends nothing but the order in which
zlib and Paddle are loaded; `mend_paddleseg` and the other functions of that name do the rest.
"""

# The order of these imports is a mending of its own: see `check_zlib`.
import ast
import collections
import contextlib
import copy
import gc
import inspect
import io
import linecache
import math
import os
import pickle
import random
import signal
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
import zlib  # noqa: F401
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, cast
from unittest.mock import patch

import cv2
import numpy as np
import PIL.Image  # noqa: F401


def check_zlib() -> None:
    """Refuse to go on where the next zlib call would end the process.

    Upstream cause: ``libpaddle.so`` of paddlepaddle 2.6 exports its own zlib under the standard
    names. A system ``libz.so`` that is loaded after it binds half of its inner calls to those
    and crashes at the first PNG or gzip. Loading zlib, cv2 or PIL before Paddle avoids it, which
    this module does; nothing helps once Paddle came first. The probe runs in a forked child,
    for the fault is a segmentation fault.

    Raises:
        ImportError: zlib is broken in this process.
    """
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # no traceback from Paddle's handler
            os._exit(zlib.decompress(zlib.compress(b"probe")) != b"probe")
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        raise ImportError("paddle was imported before zlib, which this Paddle release breaks: "
                          "put `import paddle_csrl` (or `import cv2`) above `import paddle`")


if "paddle" in sys.modules:
    check_zlib()

import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402
import paddleseg.core  # noqa: E402
from google.protobuf import struct_pb2  # noqa: E402  (of Paddle's requirements)
from paddle import Tensor, nn  # noqa: E402
from paddle.io.dataloader import dataloader_iter  # noqa: E402
from paddleseg.models.backbones import cae, vision_transformer  # noqa: E402
from paddleseg.models.losses import (  # noqa: E402
    CrossEntropyLoss,
    DiceLoss,
    LovaszSoftmaxLoss,
    OhemCrossEntropyLoss,
)
from paddleseg.transforms import RandomPaddingCrop, ResizeByShort, ScalePadding, functional  # noqa: E402
from paddleseg.utils import download, logger, metrics, utils  # noqa: E402

# `paddleseg.core.train` is the function; the module of that name is only to be had from here.
_TRAINER: Any = sys.modules["paddleseg.core.train"]
_CONV: Any = sys.modules["paddle.nn.functional.conv"]
_STRATEGY: Any = sys.modules[paddle.distributed.fleet.DistributedStrategy.__module__]
_WARM_RESTARTS: Any = paddle.optimizer.lr.CosineAnnealingWarmRestarts


class Fault(NamedTuple):
    """One upstream fault: its name, whether it is there, and what takes it away."""

    name: str
    is_present: Callable[[], bool]
    mend: Callable[[], None]


#: Names of the faults of the installed PaddleSeg that are mended.
mended: list[str] = []


def mend_paddleseg() -> list[str]:
    """Mend every fault of the installed PaddleSeg that a stock DeepLabV3P config runs into.

    Returns:
        list[str]: the names of the faults that were there and are mended now; empty on a second
            call and on a PaddleSeg that needs no mending.
    """
    found, device = [], paddle.get_device()
    paddle.set_device("cpu")  # so that an import allocates nothing on a GPU
    try:
        for fault in FAULTS:
            if fault.is_present():
                fault.mend()
                found.append(fault.name)
    finally:
        paddle.set_device(device)
    mended.extend(found)
    return found


def _fails(probe: Callable[[], Any]) -> bool:
    try:
        probe()
    except Exception:  # Paddle raises different types for one fault in different releases
        return True
    return False


def _cross_entropy_fails() -> bool:
    """``_post_process_loss`` multiplies float masks by int64 labels, which Paddle 3 refuses."""
    logit, label = paddle.zeros([1, 2, 1, 1]), paddle.zeros([1, 1, 1], "int64")
    losses = CrossEntropyLoss(), CrossEntropyLoss(weight=[1.0, 1.0])
    return any(_fails(partial(loss, logit, label)) for loss in losses)


def _post_process_loss(self: Any, logit: Tensor, label: Tensor, semantic_weights: Tensor | None,
                       loss: Tensor) -> Tensor:
    """Average of the pixel losses (N, H, W), over all pixels or the hardest ones.

    Stands in for ``CrossEntropyLoss._post_process_loss`` with the same definition: the average
    is weighted by the class weights and, with ``avg_non_ignore``, over the labelled pixels.
    """
    labelled = label != self.ignore_index
    mask = labelled.astype("float32") if self.avg_non_ignore else paddle.ones(label.shape)
    loss = loss.reshape(label.shape) * mask
    if semantic_weights is not None:
        loss = loss * semantic_weights
    if self.weight is None:
        coef = paddle.ones(label.shape)
    else:
        class_id = paddle.where(labelled, label, paddle.zeros_like(label))
        coef = self.weight.gather(class_id.flatten()).reshape(label.shape)
    if self.top_k_percent_pixels == 1.0:
        return loss.mean() / ((mask * coef).mean() + self.EPS)
    loss, hardest = loss.flatten().topk(int(self.top_k_percent_pixels * label.size))
    return loss.mean() / (coef.flatten().gather(hardest).mean() + self.EPS)


def _ohem_fails() -> bool:
    """``forward`` adds an int64 mask to float probabilities, which Paddle 3 refuses."""
    logit, label = paddle.zeros([1, 2, 1, 2]), paddle.zeros([1, 1, 2], "int64")
    return _fails(lambda: OhemCrossEntropyLoss(min_kept=1)(logit, label))


def _ohem_forward(self: Any, logit: Tensor, label: Tensor) -> Tensor:
    """Cross entropy over the pixels whose true class has a probability below a threshold.

    Stands in for ``OhemCrossEntropyLoss.forward`` with the same definition: the threshold is
    ``thresh``, raised to the ``min_kept``-th lowest probability if fewer pixels lie below it;
    with ``min_kept`` pixels or fewer, or ``min_kept`` 0, all are kept.

    Shape: logit (N, C, H, W) float, label (N, H, W) or (N, 1, H, W) integer -> scalar.
    """
    label = label.reshape([logit.shape[0], *logit.shape[2:]]).astype("int64")
    kept = label != self.ignore_index
    loss = F.cross_entropy(logit, label, ignore_index=self.ignore_index, reduction="none", axis=1)
    loss = loss.reshape(label.shape)
    if 0 < self.min_kept < int(kept.sum()):
        # The loss is -log p; an unlabelled pixel counts as certain.
        prob = paddle.where(kept, paddle.exp(-loss.detach()), paddle.ones_like(loss))
        threshold = prob.flatten().sort()[self.min_kept - 1].clip(min=self.thresh)
        kept = paddle.logical_and(kept, prob < threshold)
    kept = kept.astype(loss.dtype)
    return (loss * kept).mean() / (kept.mean() + self.EPS)


def _lovasz_fails() -> bool:
    """Without a labelled pixel ``forward`` returns the empty probabilities, not one number."""
    logit, label = paddle.zeros([1, 2, 1, 1]), paddle.full([1, 1, 1], 255, "int64")
    return LovaszSoftmaxLoss()(logit, label).size != 1


def _mend_lovasz() -> None:
    forward = LovaszSoftmaxLoss.forward

    @wraps(forward)
    def mended(self: Any, logits: Tensor, labels: Tensor) -> Tensor:
        loss = forward(self, logits, labels)
        return loss if loss.size else (0 * logits).sum()

    LovaszSoftmaxLoss.forward = mended


def _dice_overwrites() -> bool:
    """``forward`` makes ignored pixels class 0 in the labels that the next loss is given, too."""
    label = paddle.full([1, 1, 1], 255, "int64")
    DiceLoss()(paddle.zeros([1, 2, 1, 1]), label)
    return label.item() != 255


def _mend_dice() -> None:
    forward = DiceLoss.forward

    @wraps(forward)
    def mended(self: Any, logits: Tensor, labels: Tensor) -> Tensor:
        return forward(self, logits, labels.clone())

    DiceLoss.forward = mended


def _crop_takes_label_for_image() -> bool:
    """With ``category_max_ratio`` the crop of the label becomes the image."""
    crop = RandomPaddingCrop([1, 2], category_max_ratio=0.9)
    crop._get_crop_coordinates = lambda size: (0, 0, 1, 2)  # nothing is drawn
    return crop({"img": np.full([3, 1], 7), "label": np.eye(3)[:, :1]})["img"].max() != 7


def _padding_crop(self: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Cut image and labels alike; stands in for ``RandomPaddingCrop.__call__``.

    With ``category_max_ratio`` another place is tried, ``loop_times`` at most, while a class has
    that share of the labelled pixels.
    """
    if data["img"].shape[:2] == self.crop_size:
        return data
    data = self._padding(data)
    size = data["img"].shape[:2]
    crop = self._get_crop_coordinates(size)
    for _ in range(self.loop_times if self.category_max_ratio < 1 else 0):
        label = functional.crop(data["label"], crop)
        _, counts = np.unique(label[label != self.ignore_index], return_counts=True)
        if len(counts) > 1 and counts.max() < self.category_max_ratio * counts.sum():
            break
        crop = self._get_crop_coordinates(size)
    for key in ("img", *data.get("gt_fields", [])):
        data[key] = functional.crop(data[key], crop)
    return data


def _short_size_changes() -> bool:
    """``max_size`` lowers the ``short_size`` of one wide image, and of all that come after it."""
    resize = ResizeByShort(2, max_size=2)
    resize({"img": np.zeros([1, 2], np.float32), "trans_info": []})
    return resize.short_size != 2


def _mend_short_size() -> None:
    """Find the size of every image anew, which also draws from several of them each time."""
    resize = ResizeByShort.__call__

    def keeping_all(self: Any, short_size: int | list[int], max_size: float = 1e10) -> None:
        self.short_size, self.max_size = short_size, max_size

    @wraps(resize)
    def mended(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        once = copy.copy(self)
        if isinstance(self.short_size, list):
            once.short_size = random.choice(self.short_size)
        return resize(once, data)

    ResizeByShort.__init__, ResizeByShort.__call__ = keeping_all, mended


def _scaling_mixes_labels() -> bool:
    """``ScalePadding`` interpolates labels, so that other classes come up between two."""
    data = {"img": np.zeros([2, 2, 3], np.float32), "gt_fields": ["label"],
            "label": np.array([[0, 2], [0, 2]], np.uint8)}
    return not np.isin(ScalePadding((8, 8))(data)["label"], [0, 2]).all()


def _mend_scale_padding() -> None:
    call = ScalePadding.__call__

    @wraps(call)
    def mended(self: Any, data: dict[str, Any]) -> dict[str, Any]:
        fields = data.get("gt_fields", [])
        data = call(self, {**data, "gt_fields": []})
        data["gt_fields"] = fields
        for key in fields:
            height, width = data[key].shape
            side = max(height, width)
            above, left = (side - height) // 2, (side - width) // 2
            square = cv2.copyMakeBorder(
                data[key], above, side - height - above, left, side - width - left,
                cv2.BORDER_CONSTANT, value=self.label_padding_value)
            data[key] = functional.resize(square, self.target_size, cv2.INTER_NEAREST)
        return data

    ScalePadding.__call__ = mended


def _restarts_are_forgotten() -> bool:
    """A schedule that goes on from its saved state begins its cycle anew."""
    first, second = (_WARM_RESTARTS(1.0, T_0=4) for _ in range(2))
    first.step()
    second.set_state_dict(first.state_dict())
    return second.T_cur != first.T_cur


def _mend_restarts() -> None:
    """Count the place in the cycle from the number of steps, which is saved."""
    set_state_dict = _WARM_RESTARTS.set_state_dict

    @wraps(set_state_dict)
    def mended(self: Any, state: dict[str, Any]) -> None:
        set_state_dict(self, state)
        self.T_cur, self.T_i = self.last_epoch, self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult

    _WARM_RESTARTS.set_state_dict = mended


#: Backbones that load weights by themselves.
_TRANSFORMERS: tuple[Any, ...] = vision_transformer.VisionTransformer, cae.CAE


def _transformers_need_weights() -> bool:
    """Without ``pretrained`` they ask the system for a file of the name None."""
    bare = SimpleNamespace(pretrained=None)
    with contextlib.redirect_stdout(io.StringIO()):  # it says that there are none
        return any(_fails(partial(kind.init_weight, bare)) for kind in _TRANSFORMERS)


def _mend_transformers() -> None:
    for kind in _TRANSFORMERS:
        kind.init_weight = _if_pretrained(kind.init_weight)


def _if_pretrained(init_weight: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(init_weight)
    def mended(self: Any) -> None:
        if self.pretrained is not None:
            init_weight(self)

    return mended


def _loss_terms_are_0d() -> bool:
    """``train`` logs ``l[0]`` of every loss term, but a mean is 0-D since Paddle 2.5."""
    losses = {"types": [lambda logit, label: paddle.zeros([2]).mean()], "coef": [1]}
    if _TRAINER.loss_computation([None], None, None, losses)[0].ndim > 0:
        return False
    try:
        return "l[0]" in inspect.getsource(_TRAINER.train)
    except OSError:  # installed without sources: the mending does no harm there
        return True


def _one_element_terms(loss_computation: Callable[..., list[Tensor]]) -> Callable:
    @wraps(loss_computation)
    def mended(*args: Any, **kwargs: Any) -> list[Tensor]:
        terms = loss_computation(*args, **kwargs)
        return [term.reshape([1]) if term.ndim == 0 else term for term in terms]

    return mended


def _mend_loss_terms() -> None:
    """Reshape the terms of the trainer's ``loss_computation`` and of a model's own."""
    train = _TRAINER.train

    @wraps(train)
    def mended(model: nn.Layer, *args: Any, **kwargs: Any) -> None:
        if not hasattr(model, "loss_computation"):
            return train(model, *args, **kwargs)
        with patch.object(model, "loss_computation", _one_element_terms(model.loss_computation)):
            return train(model, *args, **kwargs)

    _TRAINER.loss_computation = _one_element_terms(_TRAINER.loss_computation)
    _TRAINER.train = paddleseg.core.train = mended


def _unset_scores() -> list[str]:
    """Variables that ``train`` reads in any case, but sets only if there is a ``val_dataset``.

    PaddleSeg 2.9.1 saves the scores beside every checkpoint, also where none were computed.
    """
    names: dict[tuple[str, bool], set[str]] = collections.defaultdict(set)

    def visit(node: ast.AST, validates: bool) -> None:
        if isinstance(node, ast.arg):
            names["set", validates].add(node.arg)
        elif isinstance(node, ast.Name):
            names["read" if isinstance(node.ctx, ast.Load) else "set", validates].add(node.id)
        elif isinstance(node, ast.If) and "val_dataset is not None" in ast.unparse(node.test):
            validates = True
        for child in ast.iter_child_nodes(node):
            visit(child, validates)

    try:
        visit(_train_function(), False)
    except OSError:  # installed without sources
        return []
    return sorted((names["set", True] - names["set", False]) & names["read", False])


def _train_function() -> ast.FunctionDef:
    module = ast.parse(textwrap.dedent(inspect.getsource(_TRAINER.train)))
    return cast(ast.FunctionDef, module.body[0])


def _mend_unset_scores() -> None:
    """Write ``train`` anew, with nan for these scores to begin with."""
    function = _train_function()
    function.body[:0] = ast.parse(f"{' = '.join(_unset_scores())} = float('nan')").body
    source, file = ast.unparse(function), f"<{_TRAINER.__name__}, mended>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    exec(compile(source, file, "exec"), vars(_TRAINER))
    paddleseg.core.train = _TRAINER.train


def _calculate_area_fails() -> bool:
    """``calculate_area`` concatenates sums, which are 0-D since Paddle 2.5."""
    ids = paddle.zeros([1, 1, 1, 1], "int64")
    return _fails(lambda: metrics.calculate_area(ids, ids, num_classes=2))


def _calculate_area(pred: Tensor, label: Tensor, num_classes: int,
                    ignore_index: int = 255) -> tuple:
    """Pixel counts per class; stands in for ``metrics.calculate_area``.

    Args:
        pred, label (Tensor): class ids, integer, (N, H, W) or (N, 1, H, W).
        num_classes (int): number of classes; other ids are counted nowhere.
        ignore_index (int): pixels of this label count in no prediction.

    Returns:
        tuple[Tensor]: intersection, prediction and label counts, int64, (num_classes,) each.

    Raises:
        ValueError: the two shapes differ.
    """
    pred, label = (x.squeeze(1) if x.ndim == 4 else x for x in (pred, label))
    if pred.shape != label.shape:
        raise ValueError(f"Shape of `pred` and `label` should be equal, "
                         f"but there are {pred.shape} and {label.shape}.")
    pred, label = pred.flatten().astype("int64"), label.flatten().astype("int64")

    def count(ids: Tensor, counted: Tensor) -> Tensor:
        counted = paddle.logical_and(counted, paddle.logical_and(ids >= 0, ids < num_classes))
        ids = paddle.where(counted, ids, paddle.full_like(ids, num_classes))
        return paddle.bincount(ids, minlength=num_classes + 1)[:num_classes]

    labelled = label != ignore_index
    return (count(pred, paddle.logical_and(labelled, pred == label)), count(pred, labelled),
            count(label, paddle.ones_like(labelled)))


def _fleet_config_fails() -> bool:
    """Paddle 2.6's ``fleet.init`` reads a property of fields that protobuf 7 has renamed."""
    return hasattr(_STRATEGY, "get_msg_dict") and _fails(
        lambda: _STRATEGY.get_msg_dict(struct_pb2.ListValue()))


def _message_as_dict(message: Any) -> dict[str, Any]:
    """The fields of a protobuf message, repeated ones as lists; for ``get_msg_dict``."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            value = (list(map(_message_as_dict, value)) if field.type == field.TYPE_MESSAGE
                     else list(value))
        fields[field.name] = value
    return fields


def _log_garbles() -> bool:
    """``logger.log`` prints UTF-8 as if it were Latin-1, so that names in Chinese are lost."""
    if paddle.distributed.ParallelEnv().local_rank > 0:  # it prints nothing there
        return False
    if not hasattr(logger, "log"):  # as on the develop branch, which logs by the standard library
        return False
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        logger.log(0, "\u72d7")
    return "\u72d7" not in printed.getvalue()


def _log(level: int = 2, message: str = "") -> None:
    """Print a line with time and level on the first process; stands in for ``logger.log``.

    What the output cannot write, such as parts of a file's name that are no text, is escaped.
    """
    if paddle.distributed.ParallelEnv().local_rank > 0 or logger.log_level < level:
        return
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} [{logger.levels[level]}]\t{message}"
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


#: Every fault that `mend_paddleseg` knows, in the order in which it looks.
FAULTS = (
    Fault("CrossEntropyLoss mixes dtypes", _cross_entropy_fails,
          partial(setattr, CrossEntropyLoss, "_post_process_loss", _post_process_loss)),
    Fault("OhemCrossEntropyLoss mixes dtypes", _ohem_fails,
          partial(setattr, OhemCrossEntropyLoss, "forward", _ohem_forward)),
    Fault("LovaszSoftmaxLoss without labels is empty", _lovasz_fails, _mend_lovasz),
    Fault("DiceLoss overwrites labels", _dice_overwrites, _mend_dice),
    Fault("RandomPaddingCrop takes labels for images", _crop_takes_label_for_image,
          partial(setattr, RandomPaddingCrop, "__call__", _padding_crop)),
    Fault("ResizeByShort keeps what it made of one image", _short_size_changes, _mend_short_size),
    Fault("ScalePadding mixes labels", _scaling_mixes_labels, _mend_scale_padding),
    Fault("CosineAnnealingWarmRestarts forgets its cycle", _restarts_are_forgotten,
          _mend_restarts),
    Fault("transformers need weights", _transformers_need_weights, _mend_transformers),
    Fault("train saves scores it has not", lambda: bool(_unset_scores()), _mend_unset_scores),
    Fault("train indexes 0-D loss terms", _loss_terms_are_0d, _mend_loss_terms),
    Fault("calculate_area concatenates 0-D sums", _calculate_area_fails,
          partial(setattr, metrics, "calculate_area", _calculate_area)),
    Fault("fleet reads what protobuf has renamed", _fleet_config_fails,
          partial(setattr, _STRATEGY, "get_msg_dict", _message_as_dict)),
    Fault("log garbles what is not ASCII", _log_garbles, partial(setattr, logger, "log", _log)),
)


def mend_convolution(is_fast_filter: Callable[..., bool],
                     convolve_depthwise: Callable[..., Tensor]) -> None:
    """Make convolutions fast on a CPU; numbers stay the same but for rounding.

    Upstream causes: Paddle adds a bias as (1, C, 1, 1) to (N, C, H, W), which its CPU kernels do
    slowly where N > 1, and its gradient, too: together as long as the 1×1 convolution itself
    takes. As a column to the rows of (N C, H W) the same sum costs next to nothing. And it takes
    twice as long as need be for depthwise convolutions with their gradients.

    Args:
        is_fast_filter: tells of the arguments of Paddle's function whether the next one does that
            convolution, and faster.
        convolve_depthwise: correlates float32 (N, C, H, W) with weights (C, 1, k, k) and adds a
            bias (C,) or none.
    """
    _CONV._conv_nd = _with_fast_parts(_CONV._conv_nd, is_fast_filter, convolve_depthwise)


def _with_fast_parts(convolve: Callable[..., Tensor], is_fast_filter: Callable[..., bool],
                     convolve_depthwise: Callable[..., Tensor]
                     ) -> Callable[..., Tensor]:
    signature = inspect.signature(convolve)

    @wraps(convolve)
    def convolve_fast(*args: Any, **kwargs: Any) -> Tensor:
        call = signature.bind(*args, **kwargs).arguments
        x, bias = call["x"], call.pop("bias", None)
        if not _may_leave_paddle(x) or call.get("data_format", "NCHW") != "NCHW":
            return convolve(*args, **kwargs)
        if is_fast_filter(**call):
            return convolve_depthwise(x, call["weight"], bias)
        if bias is None or x.shape[0] == 1:
            return convolve(*args, **kwargs)
        y = convolve(**call)  # in one precision, for Paddle mixes none on a CPU
        rows = y.flatten(0, 1).flatten(1) + bias.tile([y.shape[0]]).unsqueeze(1)
        return rows.reshape(y.shape)

    return convolve_fast


def _may_leave_paddle(x: Tensor) -> bool:
    """Tell whether others than Paddle's kernels may compute with ``x``, (N, C, H, W) on a CPU."""
    return paddle.in_dynamic_mode() and x.ndim == 4 and x.place.is_cpu_place()


def mend_interpolation(is_fast_enlargement: Callable[[Sequence[int], Sequence[int]], bool],
                       enlarge: Callable[[Tensor, int, int, bool], Tensor]) -> None:
    """Make bilinear enlargement of small maps fast on a CPU; numbers differ by rounding alone.

    Upstream cause: Paddle's CPU kernel goes from pixel to pixel, which takes a tenth of an
    iteration of a small DeepLabV3+.

    Args:
        is_fast_enlargement: tells of (h, w) and (H, W) whether the next one is faster.
        enlarge: makes (N, C, H, W) of float32 (N, C, h, w), H, W and ``align_corners``.
    """
    for module in (F, sys.modules["paddle.nn.functional.common"]):
        module.interpolate = _with_fast_bilinear(  # type: ignore[attr-defined]
            module.interpolate, is_fast_enlargement, enlarge)


def _with_fast_bilinear(interpolate: Callable[..., Tensor],
                        is_fast_enlargement: Callable[[Sequence[int], Sequence[int]], bool],
                        enlarge: Callable[[Tensor, int, int, bool], Tensor]
                        ) -> Callable[..., Tensor]:
    signature = inspect.signature(interpolate)

    @wraps(interpolate)
    def interpolate_fast(*args: Any, **kwargs: Any) -> Tensor:
        call = signature.bind(*args, **kwargs).arguments
        x, size = call["x"], call.get("size")
        if (not _may_leave_paddle(x) or size is None or x.dtype != paddle.float32
                or call.get("mode") != "bilinear" or call.get("align_mode") or call.get("antialias")
                or call.get("data_format") not in (None, "NCHW")):
            return interpolate(*args, **kwargs)
        height, width = map(int, size)
        if (not is_fast_enlargement(x.shape[2:], (height, width))
                or not math.isfinite(float(x.detach().sum()))):  # products would spread inf and nan
            return interpolate(*args, **kwargs)
        return enlarge(x, height, width, call.get("align_corners", False))

    return interpolate_fast


def mend_data_loader(put_off: Callable[[Callable], Callable]) -> None:
    """Make Paddle's ``DataLoader`` raise the error of a data set where the loader is read.

    Upstream cause: the error ends the thread that fills the queue. Without workers the queue
    stays open, and whoever reads it waits for ever; with workers it is killed, and the reader
    gets a ``SystemError`` that says nothing of the cause.

    And make a worker leave alone what it has of its parent's garbage. Upstream cause: a worker
    is a fork, and its collector may destroy a reader that an earlier loader left in a cycle;
    the reader's threads do not exist in the fork, so that waits for ever.

    And make it end with its parent. Upstream cause: it looks for that only between two requests,
    and waits for the next one for ever if its parent was killed.

    And fork no worker while the thread of an earlier reader ends. Upstream cause: after Python has
    joined it, it still signs off from Paddle's count of memory under a lock, which a fork of that
    moment would have locked for ever.

    And have signals wait while workers are forked, for what a handler raises in the middle of that
    Python prints and drops. ``put_off`` decorates what they are to wait for.
    """
    iterators: list[Any] = [dataloader_iter._DataLoaderIterSingleProcess,
                            dataloader_iter._DataLoaderIterMultiProcess]
    for iterator in iterators:
        if not hasattr(iterator._thread_loop, "__wrapped__"):
            iterator._thread_loop = _keeping_error(iterator._thread_loop)
            iterator.__next__ = _raising_kept_error(iterator.__next__)
    if not hasattr(dataloader_iter._worker_loop, "__wrapped__"):
        workers: Any = dataloader_iter._DataLoaderIterMultiProcess
        workers._init_workers = put_off(_after_readers(workers._init_workers))
        dataloader_iter._worker_loop = _of_a_parent(dataloader_iter._worker_loop)


def _of_a_parent(worker_loop: Callable) -> Callable:
    @wraps(worker_loop)
    def mended(*args: Any) -> None:
        gc.freeze()
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        worker_loop(*args)

    return mended


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


#: The system's numbers of threads that read for loaders.
_readers: set[int] = set()
#: Seconds that a thread may take to end.
_END = 1.0


def _after_readers(init_workers: Callable) -> Callable:
    @wraps(init_workers)
    def mended(*args: Any) -> None:
        end = time.monotonic() + _END
        for reader in _readers - {thread.native_id for thread in threading.enumerate()}:
            while os.path.exists(f"/proc/self/task/{reader}") and time.monotonic() < end:
                time.sleep(0.001)
            _readers.discard(reader)
        init_workers(*args)

    return mended


def _keeping_error(thread_loop: Callable) -> Callable:
    @wraps(thread_loop)
    def mended(self: Any, *args: Any) -> None:
        _readers.add(threading.get_native_id())
        try:
            thread_loop(self, *args)
        except Exception as error:
            self._kept_error = error
            self._exit_thread_unexpectedly()

    return mended


def _raising_kept_error(read_next: Callable) -> Callable:
    @wraps(read_next)
    def mended(self: Any) -> Any:
        try:
            return read_next(self)
        except SystemError:
            self._thread.join(5)  # it may have killed the queue before it kept the error
            error = vars(self).pop("_kept_error", None)
            if error is None:
                raise
            try:
                self._try_shutdown_all()  # else the next loader's workers inherit this one's
                raise error from None
            finally:
                del error  # it refers to this frame

    return mended


class _WithChanges:
    """A module of which some names mean something else."""

    def __init__(self, module: Any, **changes: Any):
        vars(self).update(changes, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextlib.contextmanager
def trainer_hooks(model: nn.Layer, batches: Iterable[Any], done: int,
                  on_losses: Callable[[list[Tensor]], object]) -> Iterator[None]:
    """Leave PaddleSeg's trainer nothing but its iterations inside the block.

    Upstream cause: it has no callback. It forgets random numbers, the place in the data and the
    best score when it is stopped, writes checkpoints in place, and has arguments for none of it.

    Args:
        model: the one to be trained.
        batches: stands for its ``DataLoader``. It is asked for the next batch when an iteration
            is over and all that the trainer does about it is done; what it raises ends ``train``.
        done: iterations done, where ``train`` is given a ``resume_model``, which it does not load.
        on_losses (callable): gets the loss terms of every iteration.

    Nothing is written where the trainer saves.
    """

    def telling(loss_computation: Callable) -> Callable:
        @wraps(loss_computation)
        def mended(*args: Any, **kwargs: Any) -> list[Tensor]:
            terms = loss_computation(*args, **kwargs)
            on_losses(terms)
            return terms

        return mended

    changed = _WithChanges(
        paddle, save=lambda *args: None,
        io=_WithChanges(paddle.io, DataLoader=lambda *args, **kwargs: batches))
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.multiple(
            _TRAINER, paddle=changed, resume=lambda *args: done,
            loss_computation=telling(_TRAINER.loss_computation)))
        if hasattr(model, "loss_computation"):
            stack.enter_context(patch.object(
                model, "loss_computation", telling(model.loss_computation)))
        yield


def shut_down(reader: Any) -> None:
    """End the thread and the workers of an iterator of Paddle's ``DataLoader``, and wait for it.

    Upstream cause: otherwise they live until the iterator is destroyed, which one in a traceback
    or a cycle is not.
    """
    reader._try_shutdown_all()


@contextlib.contextmanager
def pretrained_loading(load: Callable[[nn.Layer, str | None], None]) -> Iterator[None]:
    """Have ``load(model, pretrained)`` stand in for PaddleSeg's loader inside the block.

    Upstream cause: ``load_pretrained_model`` passes over whatever does not fit, be it all, and
    ends in an assertion at what is not float32.
    """
    with patch.object(utils, "load_pretrained_model", load):
        yield


def mend_trust(read_weights: Callable[[BinaryIO], Any]) -> None:
    """Let no file and no config have Paddle or PaddleSeg run or overwrite what it likes.

    Upstream causes: ``paddle.load``, by which PaddleSeg's models read weights by themselves, and
    the loader of inference programs call ``pickle.load``, which runs whatever the file tells it
    to; the vision transformers call ``eval`` with the ``norm_layer`` of a config; and an archive
    of weights is unpacked to the paths that it names.

    Args:
        read_weights: takes the place of ``pickle.load`` there.
    """
    careful = ModuleType("pickle")
    vars(careful).update(vars(pickle), load=lambda file, **_: read_weights(file),
                         loads=lambda content, **_: read_weights(io.BytesIO(content)))
    modules: list[Any] = [paddle.framework.io, paddle.framework.io_utils,
                          paddle.jit.translated_layer]
    for module in modules:
        module.pickle = careful
    modules = [vision_transformer, cae]
    for module in modules:
        module.eval = _named_layer
    if not hasattr(download._uncompress_file, "__wrapped__"):
        download._uncompress_file = _unpacking_inside(download._uncompress_file)


def _named_layer(text: str) -> type[nn.Layer]:
    layer = getattr(nn, str(text).removeprefix("nn."), None)
    if not (isinstance(layer, type) and issubclass(layer, nn.Layer)):
        raise ValueError(f"norm_layer {text} is no layer of paddle.nn, such as nn.LayerNorm")
    return layer


def _unpacking_inside(unpack: Callable[..., str]) -> Callable[..., str]:
    @wraps(unpack)
    def mended(archive: str, folder: str, *args: Any) -> str:
        inside = os.path.join(os.path.realpath(folder), "")
        for name in _plain_members(archive):
            if not os.path.realpath(os.path.join(folder, name)).startswith(inside):
                raise ValueError(f"{archive} would unpack {name} outside of its folder")
        return unpack(archive, folder, *args)

    return mended


def _plain_members(archive: str) -> list[str]:
    """Names in an archive; a zip's links are unpacked as files, a tar's are refused."""
    if archive.endswith("zip"):
        with zipfile.ZipFile(archive) as content:
            return content.namelist()
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    for member in members:
        if not (member.isreg() or member.isdir()):
            raise ValueError(f"{archive} holds {member.name}, which is no file and no folder")
    return [member.name for member in members]
