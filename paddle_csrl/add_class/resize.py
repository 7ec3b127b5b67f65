"""A trained segmentor with another number of classes."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from paddleseg.utils import utils

from paddle_csrl.builder import ZeroShotBuilder, without_pretrained
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import PROBE_SIZE, FeatureExtractor
from paddle_csrl.utils.weights import set_weights


def class_axes(builder: ZeroShotBuilder, model: nn.Layer) -> dict[str, int]:
    """Find the axis along which a parameter has one entry per class, by the parameter's name.

    These are the classification layer and the last layers of auxiliary heads. They are told by
    the shapes of an untrained segmentor with one class more; ``UserError`` if one depends on the
    number of classes in another way.
    """
    number, axes = len(builder.classes), {}
    shapes, more = _shapes(model), _shapes(_with_classes(builder, number + 1))
    for name, shape in shapes.items():
        other = more.get(name, [])
        differing = [axis for axis, pair in enumerate(zip(shape, other)) if pair[0] != pair[1]]
        if len(shape) != len(other) or len(differing) > 1 or any(
                shape[axis] != number for axis in differing):
            raise UserError(f"{builder.config.model_cfg['type']} cannot have other classes without "
                            f"training: its {name} depends on their number; train it with all "
                            f"classes")
        if differing:
            axes[name] = differing[0]
    return axes


def _with_classes(builder: ZeroShotBuilder, num_classes: int) -> nn.Layer:
    cfg = utils.set_in_channels(without_pretrained(builder.config.model_cfg),
                                builder.img_channels)
    with paddle.utils.unique_name.guard():
        return builder.build_component({**cfg, "num_classes": num_classes})


def _shapes(model: nn.Layer) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def take_over(old: nn.Layer, new: nn.Layer, axes: dict[str, int],
              sources: Sequence[int | None], path: str, prefix: str = "") -> None:
    """Give ``new`` the weights of ``old``, a segmentor of the same kind.

    Args:
        axes: of ``class_axes``.
        sources: for every class of ``new`` its id in ``old``, or None; then it gets zeros.
        path: where the weights of ``old`` are from, for messages.
        prefix: stands before the names of ``axes`` in both.
    """
    state = {name: value.numpy() for name, value in old.state_dict().items()}
    for name, axis in axes.items():
        if prefix + name in state:
            given = np.moveaxis(state[prefix + name], axis, 0)
            rows = np.stack([np.zeros_like(given[0]) if source is None else given[source]
                             for source in sources])
            state[prefix + name] = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
    set_weights(new, state, path)


def require_classless_features(model: nn.Layer, num_classes: int, layer_name: str,
                               axes: dict[str, int], num_channels: int) -> None:
    """Raise ``UserError`` if a parameter with an entry per class has a part in the features.

    Other values of these parameters must leave what feeds the classification layer as it is. Then
    features are the same whatever the classes are, and so are the bank and the generator.
    """
    rng, own = np.random.default_rng(0), dict(model.named_parameters())
    image = paddle.to_tensor(rng.standard_normal(
        (1, num_channels, PROBE_SIZE, PROBE_SIZE)).astype(np.float32))
    extractor = FeatureExtractor(model, num_classes, layer_name)
    before = extractor(image).numpy()
    values = {name: own[name].numpy() for name in axes}
    try:
        for name, value in values.items():
            own[name].set_value(rng.standard_normal(value.shape).astype(value.dtype))
        after = extractor(image).numpy()
    finally:
        for name, value in values.items():
            own[name].set_value(value)
    if not np.array_equal(before, after):
        raise UserError(f"{type(model).__name__} cannot have other classes without training: what "
                        f"feeds its last layer {layer_name} depends on the classes; train it with "
                        f"all of them")
