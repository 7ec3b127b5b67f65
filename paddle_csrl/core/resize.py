"""A trained segmentor with another number of classes."""

import copy
from typing import Dict, List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn
from paddleseg.utils import utils

from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError

_PROBE_SIZE = 64  # pixels


def class_axes(builder: DeployBuilder) -> Dict[str, int]:
    """The axis along which a parameter has one entry per class, by the parameter's name.

    These are the classification layer and the last layers of auxiliary heads. They are told by
    the shapes of an untrained segmentor with another number of classes.

    Raises:
        UserError: a parameter depends on the number of classes in another way.
    """
    number = len(builder.classes.names)
    shapes = [_shapes(builder, classes) for classes in (number, number + 1)]
    axes = {}
    for name, shape in shapes[0].items():
        other = shapes[1].get(name, [])
        differing = [axis for axis, pair in enumerate(zip(shape, other)) if pair[0] != pair[1]]
        if len(shape) != len(other) or len(differing) > 1 or any(
                shape[axis] != number for axis in differing):
            raise UserError(f"{builder.config.model_cfg['type']} cannot have other classes without "
                            f"training: its {name} depends on their number; train it with all "
                            f"classes")
        if differing:
            axes[name] = differing[0]
    return axes


def _shapes(builder: DeployBuilder, num_classes: int) -> Dict[str, List[int]]:
    cfg = utils.set_in_channels(copy.deepcopy(builder.config.model_cfg), builder.img_channels)
    with paddle.utils.unique_name.guard():
        model = builder.build_component({**cfg, "num_classes": num_classes})
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def take_over(old: nn.Layer, new: nn.Layer, axes: Dict[str, int],
              sources: Sequence[Optional[int]], prefix: str = "") -> None:
    """Give ``new`` the weights of ``old``.

    Args:
        old, new: segmentors of the same kind.
        axes: of ``class_axes``.
        sources: for every class of ``new`` its id in ``old``, or None; then it gets zeros.
        prefix: stands before the names of ``axes`` in both.
    """
    state = {name: value.numpy() for name, value in old.state_dict().items()}
    known = np.array([source is not None for source in sources], bool)
    ids = np.array([source or 0 for source in sources], np.int64)
    for name, axis in axes.items():
        if prefix + name in state:
            rows = np.moveaxis(state[prefix + name], axis, 0)[ids]
            rows[~known] = 0
            state[prefix + name] = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
    new.set_state_dict(state)


def require_same_features(old: nn.Layer, new: nn.Layer, layer_name: str,
                          num_channels: int) -> None:
    """Insist that both segmentors feed their classification layers alike.

    Raises:
        UserError: what feeds the layer depends on the classes, so that the features that the
            bank and the generator know are not those of ``new``.
    """
    image = paddle.to_tensor(np.random.default_rng(0).standard_normal(
        (1, num_channels, _PROBE_SIZE, _PROBE_SIZE)).astype(np.float32))
    expected, features = (_features(model, layer_name, image) for model in (old, new))
    if not np.allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()):
        raise UserError(f"{type(new).__name__} cannot have other classes without training: what "
                        f"feeds its last layer {layer_name} depends on the classes; train it with "
                        f"all of them")


def _features(model: nn.Layer, layer_name: str, image: paddle.Tensor) -> np.ndarray:
    reached = []
    layer = dict(model.named_sublayers())[layer_name]
    hook = layer.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0].numpy()))
    model.eval()
    try:
        with paddle.no_grad():
            model(image)
    finally:
        hook.remove()
    return reached[0]
