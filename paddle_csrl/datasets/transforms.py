"""Transforms that PaddleSeg lacks; YAML names them under ``transforms``."""

import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from PIL import Image

from paddle_csrl.errors import UserError
from paddle_csrl.registry import register


@register(manager.TRANSFORMS)
class ResizeShortSide:
    """Resize the image and its label so that the short side has a given length.

    PaddleSeg resizes the label in training alone, and otherwise scales the prediction back to
    the label's size. This one resizes both always, so that scores are taken at the resized
    resolution, as ZS3Net does. The image is interpolated bilinearly over the area that a new
    pixel covers, the label takes the nearest value, the other side is rounded down.

    Args:
        short_side (int or list[int]): length in pixels, or the least and greatest of which one
            is drawn for every image.

    Raises:
        UserError: not one or two whole numbers above 0, the first at most the second.
    """

    def __init__(self, short_side: int | Sequence[int]):
        limits = tuple(short_side) if isinstance(short_side, (list, tuple)) else (short_side,) * 2
        if len(limits) != 2 or not all(type(limit) is int for limit in limits) \
                or not 0 < limits[0] <= limits[1]:
            raise UserError(f"ResizeShortSide: `short_side: {short_side}` must be a whole number "
                            f"above 0, or two of them, such as [156, 624]")
        self.limits = limits

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        size = self._size(*data["img"].shape[:2])
        data["img"] = _resize_image(data["img"], size)
        for key in {"label", *data.get("gt_fields", [])}:
            if isinstance(data.get(key), np.ndarray):
                data[key] = labels_at(data[key], size)
        return data

    def _size(self, height: int, width: int) -> tuple[int, int]:
        short = random.randint(*self.limits)
        if height > width:
            return height * short // width, short
        return short, width * short // height


@register(manager.TRANSFORMS)
class RandomGaussianBlur:
    """Blur some images by a Gaussian of random width.

    Args:
        prob (float): share of the images that are blurred, 0 to 1.
        max_sigma (float): the standard deviation, in pixels, is uniform from 0 to this.

    Raises:
        UserError: a number outside the above.
    """

    def __init__(self, prob: float = 0.5, max_sigma: float = 1.0):
        if not 0 <= prob <= 1 or not max_sigma > 0:
            raise UserError(f"RandomGaussianBlur: `prob: {prob}` must be from 0 to 1 and "
                            f"`max_sigma: {max_sigma}` above 0")
        self.prob, self.max_sigma = prob, max_sigma

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if random.random() < self.prob:
            sigma = (1 - random.random()) * self.max_sigma  # never 0, which OpenCV takes for auto
            data["img"] = cv2.GaussianBlur(data["img"], (0, 0), sigma)
        return data


def labels_at(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels [H, W] at the centres of a grid of ``size`` [h, w] cells over the image."""
    rows, columns = (((np.arange(small) + 0.5) * full / small).astype(np.int64)
                     for small, full in zip(size, labels.shape))
    return labels[rows[:, None], columns]


def _resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, channels]; Pillow, unlike OpenCV, averages where it makes smaller."""
    channels = np.atleast_3d(image).astype(np.float32, copy=False)
    resized = [np.asarray(Image.fromarray(np.ascontiguousarray(channels[..., index])).resize(
        size[::-1], Image.Resampling.BILINEAR)) for index in range(channels.shape[2])]
    return np.stack(resized, axis=-1)
