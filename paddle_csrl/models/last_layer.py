"""The classification layer of a segmentor: find it, stop at it, read it, exchange it."""

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import paddle
from paddle import nn

from paddle_csrl.errors import UserError, one_line
from paddle_csrl.utils.arrays import read_npz, save_arrays
from paddle_csrl.utils.precision import autocast
from paddle_csrl.utils.record import require_unchanged

_OPTION = "zero_shot.classifier_layer"
_BATCH_NORMS = (nn.BatchNorm, nn.BatchNorm2D, nn.SyncBatchNorm)
#: Height and width in pixels of an image on trial; the deepest segmentors divide them by 32.
PROBE_SIZE = 64


def find_classification_layer(model: nn.Layer, num_classes: int,
                              path: str | None = None) -> tuple[str, nn.Conv2D]:
    """The 1×1 convolution whose outputs are the logits, up to resizing, and its dotted name.

    Auxiliary heads look the same but for their effect. Therefore each candidate's output is
    replaced by one constant per class: the layer sought is the one for which the first logits
    in eval mode are these constants everywhere.

    Args:
        model (nn.Layer): a PaddleSeg segmentor; its modes and weights stay as they are.
        num_classes (int): outputs of the layer.
        path (str, optional): the dotted name of the layer, which is then only checked.

    Raises:
        UserError: there is no such layer, or ``path`` names none.
    """
    candidates = {name: layer for name, layer in model.named_sublayers()
                  if isinstance(layer, nn.Conv2D) and _scores_features(layer, num_classes)}
    title = type(model).__name__
    if path is not None:
        if path not in candidates:
            raise UserError(f"`{_OPTION}: {path}` is no 1×1 convolution with {num_classes} "
                            f"outputs of {title}; there are: {', '.join(candidates) or 'none'}")
        return path, candidates[path]
    if not candidates:
        raise UserError(f"{title} has no 1×1 convolution with {num_classes} outputs, so there is "
                        f"no classification layer to take away{_near_miss(model, num_classes)}")
    for name, layer in reversed(candidates.items()):
        if _makes_the_logits(model, layer, num_classes):
            return name, layer
    raise UserError(f"the logits of {title} are not the outputs of one 1×1 convolution; if one of "
                    f"{', '.join(candidates)} will do, name it with `{_OPTION}`")


def _scores_features(layer: nn.Conv2D, num_classes: int) -> bool:
    return (layer.weight.shape[0] == num_classes
            and list(layer.weight.shape[2:]) == [1, 1] and layer._groups == 1)


def _near_miss(model: nn.Layer, num_classes: int) -> str:
    """Why a layer with as many outputs does not serve, where there is one."""
    for name, layer in reversed(list(model.named_sublayers())):
        if isinstance(layer, nn.Conv2D) and layer.weight.shape[0] == num_classes:
            kernel = "×".join(map(str, layer.weight.shape[2:]))
            return (f"; {name} looks at {kernel} features and {layer._groups} group(s) of "
                    f"channels, where a feature must decide alone")
        if isinstance(layer, nn.Linear) and layer.weight.shape[1] == num_classes:
            return f"; {name} is Linear, where a stock layer over feature maps is needed"
    return ""


def _makes_the_logits(model: nn.Layer, layer: nn.Conv2D, num_classes: int) -> bool:
    """Tell whether constants in place of the layer's output come out as the logits.

    Some are negative, which a ReLU would show. A batch norm that comes after the layer would not
    show before it is trained, so that all are shifted meanwhile.
    """
    constants = np.arange(num_classes, dtype=np.float32)[:, None, None] - num_classes // 2

    def replaced(_: nn.Layer, inputs: Any, output: paddle.Tensor) -> paddle.Tensor:
        return paddle.to_tensor(constants).astype(output.dtype).expand_as(output)

    stem = next(part for part in model.sublayers() if isinstance(part, nn.Conv2D))
    image = paddle.zeros([1, stem._in_channels, PROBE_SIZE, PROBE_SIZE])
    norms = [part for part in model.sublayers() if isinstance(part, _BATCH_NORMS)]
    hooks = [layer.register_forward_post_hook(replaced), *(
        norm.register_forward_post_hook(lambda _, inputs, output: output + 1) for norm in norms)]
    try:
        with _in_eval_mode(model), paddle.no_grad():
            logits = model(image)
    except Exception as error:
        raise UserError(f"{type(model).__name__} did not run on an image of {PROBE_SIZE}² pixels "
                        f"({one_line(error)[-200:]}); mend `model`, or, if it takes "
                        f"others alone, name its last layer with `{_OPTION}`") from error
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits[0] if isinstance(logits, (list, tuple)) else logits
    return logits.shape[1] == num_classes and np.allclose(
        logits[0].astype("float32").numpy(), constants, rtol=1e-4, atol=1e-4)


@contextlib.contextmanager
def _in_eval_mode(model: nn.Layer) -> Iterator[None]:
    modes = {part: part.training for part in model.sublayers(include_self=True)}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class _FeatureReached(Exception):
    """Ends a forward pass once the feature is known; the rest would be thrown away."""


def does_not_run(model: nn.Layer, images: Any, error: Exception, advice: str) -> UserError:
    """Say what ``error`` a model ends in for images [N, K, H, W], and what to do."""
    height, width = images.shape[-2:]
    return UserError(f"{type(model).__name__} does not run on an image of {height} x {width} "
                     f"pixels (height x width: {one_line(error)[:200]}); {advice}")


def run_whole(model: nn.Layer, images: paddle.Tensor) -> None:
    """Run a model on images as features are taken of them, in eval mode and without windows.

    Raises:
        UserError: it does not run on them.
    """
    model.eval()
    try:
        with paddle.no_grad():
            model(images)
    except _FeatureReached:
        raise
    except Exception as error:  # of Paddle, of many types
        raise does_not_run(model, images, error, (
            "features are taken of whole images: if it is for its size, have "
            "`zero_shot.features.transforms` bring them to a multiple of its stride, as {type: "
            "Padding, target_size: [512, 512]}")) from error


class FeatureExtractor:
    """Runs a frozen segmentor up to its classification layer.

    The model is put into eval mode, so that batch norm uses and keeps its stored statistics,
    and runs without gradients.

    Args:
        model (nn.Layer): a trained PaddleSeg segmentor.
        num_classes (int): outputs of its classification layer.
        path (str, optional): dotted name of that layer; found where it is not given.
        precision, amp_level: as in PaddleSeg; features are float32 whatever they say.
    """

    def __init__(self, model: nn.Layer, num_classes: int, path: str | None = None,
                 precision: str = "fp32", amp_level: str = "O1"):
        self.model, self.precision, self.amp_level = model, precision, amp_level
        self.layer_name, self.layer = find_classification_layer(model, num_classes, path)

    @property
    def feature_dim(self) -> int:
        return self.layer.weight.shape[1]

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """float32 images [B, 3, H, W] -> features [B, D, h, w], at the layer's own stride."""
        reached: list[paddle.Tensor] = []

        def stop(_: nn.Layer, inputs: Any) -> NoReturn:
            reached.append(inputs[0])
            raise _FeatureReached

        hook = self.layer.register_forward_pre_hook(stop)
        try:
            with autocast(self.precision, self.amp_level):
                run_whole(self.model, images)
        except _FeatureReached:
            pass
        finally:
            hook.remove()
        if not reached:
            raise UserError(f"{type(self.model).__name__} never ran its layer {self.layer_name}; "
                            f"name another with `{_OPTION}`")
        return reached[0].astype("float32")


def read_layer(layer: nn.Conv2D) -> dict[str, np.ndarray]:
    """Return what ``put_back`` would write: ``weight`` and ``bias``, if the layer has one."""
    values = {"weight": layer.weight.numpy()}
    if layer.bias is not None:
        values["bias"] = layer.bias.numpy()
    return values


def put_back(layer: nn.Layer, values: dict[str, np.ndarray]) -> None:
    """Write ``weight`` and ``bias`` into a segmentor's classification layer."""
    for name, value in values.items():
        getattr(layer, name).set_value(value)


def save_layer(values: dict[str, np.ndarray], path: str) -> None:
    """Write what ``read_layer`` returned as ``.npz``, atomically."""
    save_arrays(path, values)


def load_layer(path: str) -> dict[str, np.ndarray]:
    """Read what ``save_layer`` wrote.

    Raises:
        UserError: the file is missing, not whole or not as its stage has left it.
    """
    require_unchanged(path)
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no whole classification layer ({error}); run its stage "
                        f"classifier again") from None
