"""Depthwise convolutions on a CPU by OpenCV: a filter of its own for every channel.

Letters: N images of C channels and H × W pixels; filters k × k, k odd, r = k // 2.
"""

from typing import Any

import cv2
import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_csrl.utils.device import is_on_host


def is_fast_filter(x: Tensor, weight: Tensor, stride: Any = 1, padding: Any = 0,
                   dilation: Any = 1, groups: int = 1, **_: Any) -> bool:
    """Tell whether a convolution is depthwise, keeps the size, and is faster by OpenCV.

    With gradients it takes half of Paddle's time, and without them a third at 5×5, but no less at
    3×3. The arguments are those of ``paddle.nn.functional.conv2d``.
    """
    kernel = weight.shape[-1]
    sizes = (3, 5, 7) if _wants_gradient(x, weight) else (5, 7)
    return (groups == x.shape[1] and list(weight.shape) == [groups, 1, kernel, kernel]
            and kernel in sizes and x.dtype == weight.dtype == paddle.float32
            and is_on_host(weight) and {*np.ravel(stride), *np.ravel(dilation)} == {1}
            and {*np.ravel(padding)} == {kernel // 2})


def convolve_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Correlate every channel with its filter, with stride 1 and zeros beyond the borders.

    Args:
        x: float32 [N, C, H, W] on the CPU.
        weight: float32 [C, 1, k, k].
        bias: float32 [C].

    Returns:
        float32 [N, C, H, W], differentiable.
    """
    if _wants_gradient(x, weight, *(() if bias is None else [bias])):
        return _Depthwise.apply(x, weight, paddle.zeros([x.shape[1]]) if bias is None else bias)
    images, filters = x.numpy(), weight.numpy()[:, 0]
    result = np.empty(images.shape, np.float32)  # in rows, as OpenCV writes them
    for image, out in zip(images, result):
        _filter(image, filters, out)
    if bias is not None:
        result += bias.numpy()[:, None, None]
    return paddle.to_tensor(result, place=x.place)


def _wants_gradient(*tensors: Tensor) -> bool:
    """Tell whether somebody may want a gradient of what is computed from ``tensors``."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


class _Depthwise(PyLayer):
    """The convolution with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.filters = weight.numpy()[:, 0]
        ctx.columns = _Columns(x.shape, ctx.filters.shape[-1])
        ctx.x = ctx.columns.of(x.numpy())
        return ctx.columns.filtered(ctx.x, ctx.filters, bias.numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor,  # type: ignore[override]  # None is right, too
                 ) -> tuple[Tensor | None, ...]:
        columns, padded = ctx.columns, ctx.columns.of(gradient.numpy())
        of_x, of_weight, of_bias = ctx.wanted
        turned = np.ascontiguousarray(ctx.filters[:, ::-1, ::-1])
        return (columns.filtered(padded, turned) if of_x else None,
                columns.correlated(ctx.x, padded) if of_weight else None,
                paddle.to_tensor(padded.sum((1, 2))) if of_bias else None)


class _Columns:
    """The N images of a channel below each other, one long image for OpenCV instead of N.

    Zeros lie between: r rows above each, one more at the top, and r columns at the right, so that
    a shift by up to r pixels in either direction never meets another pixel.
    """

    def __init__(self, shape: list[int], kernel: int):
        self.images, self.channels, self.height, self.width = shape
        self.kernel, self.margin = kernel, kernel // 2
        rows = self.images * (self.height + self.margin) + self.margin + 1
        self.shape = self.channels, rows, self.width + self.margin

    def _inside(self, columns: np.ndarray) -> np.ndarray:
        """The pixels of ``columns``, as a view [N, C, H, W]."""
        parts = columns[:, self.margin + 1:].reshape(
            self.channels, self.images, self.height + self.margin, self.width + self.margin)
        return parts[:, :, :self.height, :self.width].transpose(1, 0, 2, 3)

    def of(self, images: np.ndarray) -> np.ndarray:
        columns = np.zeros(self.shape, np.float32)
        self._inside(columns)[:] = images
        return columns

    def filtered(self, columns: np.ndarray, filters: np.ndarray,
                 bias: np.ndarray | None = None) -> Tensor:
        result = np.empty_like(columns)
        _filter(columns, filters, result)
        inside = self._inside(result)
        return paddle.to_tensor(np.ascontiguousarray(inside) if bias is None
                                else inside + bias[:, None, None])

    def correlated(self, columns: np.ndarray, gradient: np.ndarray) -> Tensor:
        """Σ over all pixels of the gradient times the pixel that a weight sees, [C, 1, k, k]."""
        columns, gradient = (item.reshape(self.channels, -1) for item in (columns, gradient))
        first = self.margin * (self.shape[2] + 1)
        core = gradient[:, first:-first]
        result = np.empty((self.channels, 1, self.kernel, self.kernel), np.float32)
        for row, column in np.ndindex(self.kernel, self.kernel):
            start = row * self.shape[2] + column
            result[:, 0, row, column] = np.einsum(
                "cp,cp->c", columns[:, start:start + core.shape[1]], core)
        return paddle.to_tensor(result)


def _filter(channels: np.ndarray, filters: np.ndarray, out: np.ndarray) -> None:
    for channel, weights, target in zip(channels, filters, out):
        cv2.filter2D(channel, -1, weights, target, borderType=cv2.BORDER_CONSTANT)
