"""A convolution with a filter of its own for every channel."""

import cv2
import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_csrl.utils.device import is_on_host


class DepthwiseConv2D(nn.Conv2D):
    """``nn.Conv2D`` from C channels to as many, none of which sees another.

    Where no gradient is wanted, 5 × 5 filters on a CPU are OpenCV's: Paddle 3.3 takes three times
    as long for one channel after the other, and with them more than a third of a forward pass of
    EfficientNet-Lite. OpenCV is no faster at 3 × 3, and has no stride.

    Args:
        channels (int): C.
        kernel, stride, dilation (int): of the filters, padded by half their width.
        weight_attr (ParamAttr, optional): of the weights (C, 1, kernel, kernel); there is no bias.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1,
                 weight_attr: paddle.ParamAttr | None = None):
        super().__init__(channels, channels, kernel, stride, dilation * (kernel // 2), dilation,
                         channels, weight_attr=weight_attr, bias_attr=False)
        self._is_filter = (kernel, stride, dilation) == (5, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self._is_filter and _may_leave_paddle(x, self.weight):
            filtered = _filtered(x.numpy(), self.weight.numpy()[:, 0])
            return paddle.to_tensor(filtered, place=x.place)
        return nn.Conv2D.forward(self, x)  # Paddle 2.6 exports no super()


def _may_leave_paddle(*tensors: Tensor) -> bool:
    """Tell whether nobody will miss the operations on ``tensors``, which are on a CPU."""
    return paddle.in_dynamic_mode() and all(
        is_on_host(tensor) and tensor.dtype == paddle.float32
        and (tensor.stop_gradient or not paddle.is_grad_enabled()) for tensor in tensors)


def _filtered(images: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Correlate float32 [N, C, H, W] with ``filters`` [C, k, k], zero beyond the borders."""
    result = np.empty_like(images)
    for image, out in zip(images, result):
        for channel, weights, target in zip(image, filters, out):
            cv2.filter2D(channel, -1, weights, target, borderType=cv2.BORDER_CONSTANT)
    return result
