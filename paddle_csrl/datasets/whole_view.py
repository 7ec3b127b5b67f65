"""A check that transforms leave the whole image in place, as prediction needs."""

import random
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from paddle_csrl.datasets.trial import is_known
from paddle_csrl.errors import UserError
from paddle_csrl.utils.randomness import seeded

# PaddleSeg's that move or cut the image by chance, or without a note of how to go back.
_MOVING = {"RandomAffine", "RandomCenterCrop", "RandomHorizontalFlip", "RandomPaddingCrop",
           "RandomRotation", "RandomScaleAspect", "RandomVerticalFlip", "ScalePadding"}
# Others are tried on images of these sizes (height, width), with an edge at these shares of them.
_SIZES, _EDGES, _TRIES = ((96, 128), (600, 800)), (0.1, 0.9), 2


def require_whole_view(transforms: Iterable[Any], place: str) -> None:
    """Check that every transform only resizes or pads, so that its output can be laid back.

    PaddleSeg's and our own are known by name; others are tried out.

    Args:
        transforms: in PaddleSeg's form, built.
        place: their key, for the message.

    Raises:
        UserError: one crops, turns or mirrors the image.
    """
    for transform in transforms:
        kind = type(transform)
        if kind.__name__ in _MOVING if is_known(transform) else _moves(transform):
            name = getattr(transform, "__name__", kind.__name__)
            raise UserError(f"`{place}` must not crop, turn or mirror ({name}): predictions would "
                            f"not fit the image or its label; take it out")


def _moves(transform: Any) -> bool:
    """Tell if an edge between dark and bright is, laid back, elsewhere than it was.

    An edge stays where it is whatever is done to brightness and contrast.
    """
    try:
        with seeded(0):
            return any(_moves_edge(transform, size, axis, edge, seed) for size in _SIZES
                       for axis in (0, 1) for edge in _EDGES for seed in range(_TRIES))
    except Exception:  # whatever it needs that is not here: nothing is known
        return False


def _moves_edge(transform: Any, size: tuple[int, int], axis: int, edge: float, seed: int) -> bool:
    is_bright = np.indices(size)[axis] >= edge * size[axis]
    (output, scale), (dark, _), (bright, _) = (
        _laid_back(transform, image, seed)
        for image in (is_bright, np.zeros(size, bool), np.ones(size, bool)))
    profile = np.median(output, axis=1 - axis)
    if bright.mean() < dark.mean():
        profile = -profile
    darker = profile < (profile.min() + profile.max()) / 2
    is_apart = profile.max() > profile.min() and darker[0] and not darker[-1]
    return not is_apart or abs(darker.sum() - edge * size[axis]) > 1.5 * scale[axis] + 1


def _laid_back(transform: Any, is_bright: np.ndarray, seed: int) -> tuple[np.ndarray, list[float]]:
    """The output at the size of the image, and how many of its pixels one of the output covers."""
    random.seed(seed)
    np.random.seed(seed)
    image = np.repeat(np.where(is_bright, 200, 50).astype(np.float32)[..., None], 3, axis=2)
    data = transform({"img": image, "trans_info": [], "gt_fields": []})
    output = np.atleast_3d(data["img"])[..., 0].astype(np.float32)
    scale = [max(1.0, full / made) for full, made in zip(is_bright.shape, output.shape)]
    for kind, (height, width) in data["trans_info"][::-1]:
        output = (output[:height, :width] if kind == "padding"
                  else cv2.resize(output, (width, height)))
    return cv2.resize(output, is_bright.shape[::-1]), scale
