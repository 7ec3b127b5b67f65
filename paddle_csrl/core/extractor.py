"""The visual feature of a segmentor: what feeds its classification layer."""

from typing import List, Tuple

import paddle
from paddle import nn

from paddle_csrl.errors import UserError


def find_classification_layer(model: nn.Layer, num_classes: int) -> Tuple[str, nn.Conv2D]:
    """The last 1×1 convolution with ``num_classes`` outputs, and its dotted name.

    Raises:
        UserError: the model has none, or it has no bias.
    """
    found = [(name, layer) for name, layer in model.named_sublayers()
             if isinstance(layer, nn.Conv2D) and layer.weight.shape[0] == num_classes
             and list(layer.weight.shape[2:]) == [1, 1]]
    if not found:
        raise UserError(f"{type(model).__name__} has no 1×1 convolution with {num_classes} "
                        f"outputs, so there is no classification layer to take away")
    name, layer = found[-1]
    if layer.bias is None:
        raise UserError(f"the classification layer {name} of {type(model).__name__} has no bias, "
                        f"which standardized features and the calibration need")
    return name, layer


class _FeatureReached(Exception):
    """Ends a forward pass once the feature is known; the rest would be thrown away."""


class FeatureExtractor:
    """Runs a frozen segmentor up to its classification layer.

    The model is put into eval mode, so that batch norm uses and keeps its stored statistics,
    and runs without gradients.

    Args:
        model (nn.Layer): a trained PaddleSeg segmentor.
        num_classes (int): outputs of its classification layer.
    """

    def __init__(self, model: nn.Layer, num_classes: int):
        self.model = model
        self.layer_name, self.layer = find_classification_layer(model, num_classes)

    @property
    def feature_dim(self) -> int:
        return self.layer.weight.shape[1]

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """float32 images [B, 3, H, W] -> features [B, D, h, w], at the layer's own stride."""
        reached: List[paddle.Tensor] = []

        def stop(layer, inputs):
            reached.append(inputs[0])
            raise _FeatureReached

        self.model.eval()
        hook = self.layer.register_forward_pre_hook(stop)
        try:
            with paddle.no_grad():
                self.model(images)
        except _FeatureReached:
            pass
        finally:
            hook.remove()
        if not reached:
            raise UserError(f"{type(self.model).__name__} never ran its layer {self.layer_name}")
        return reached[0]
